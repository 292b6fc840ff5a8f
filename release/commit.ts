// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { commandOutput } from "../tools/command_output.ts";

/** The commit that is released, as `COMMIT` says, or else git; `-dirty` follows when files have been changed since. */
export async function commit(): Promise<string> {
  const given = Deno.env.get("COMMIT");
  if (given) return given;
  try {
    const changes = await git("status", "--porcelain");
    return await git("rev-parse", "HEAD") + (changes ? "-dirty" : "");
  } catch {
    return "unknown";
  }
}

async function git(...args: string[]): Promise<string> {
  const { success, stdout } = await commandOutput("git", args);
  if (!success) throw new Error("not a git checkout");
  return stdout.trim();
}
