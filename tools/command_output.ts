// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { toText } from "@std/streams/to-text";

/** What a command has written, and how it ended. */
export interface CommandOutput extends Deno.CommandStatus {
  readonly stdout: string;
  readonly stderr: string;
}

/** Options of {@linkcode commandOutput}. */
export interface CommandOutputOptions extends Pick<Deno.CommandOptions, "cwd" | "env" | "signal"> {
  /** What it reads from stdin. @default {nothing} */
  readonly input?: string;
}

/**
 * Runs a command to its end.
 *
 * @throws {Deno.errors.NotFound} when there is no such command
 */
export async function commandOutput(
  command: string,
  args: readonly string[],
  { input = "", ...options }: CommandOutputOptions = {},
): Promise<CommandOutput> {
  const child = new Deno.Command(command, {
    ...options,
    args: [...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const [status, stdout, stderr] = await Promise.all([
    child.status,
    toText(child.stdout),
    toText(child.stderr),
    // Whether it may leave some of its input unread, its exit code tells.
    new Blob([input]).stream().pipeTo(child.stdin).catch(() => {}),
  ]);
  return { ...status, stdout, stderr };
}
