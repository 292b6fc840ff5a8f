// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Much of the same, as far as this machine lets it. */
import { commandOutput } from "../tools/command_output.ts";

/** What is begun at a time. */
const BATCH = 50;
/** Files that each process needs beside those of tunnels. */
const OTHER_FILES = 500;

/** Does something a number of times, some of them at a time. */
export async function inBatches(
  count: number,
  signal: AbortSignal,
  work: () => Promise<void>,
): Promise<void> {
  for (let done = 0; done < count; done += BATCH) {
    signal.throwIfAborted();
    await Promise.all(Array.from({ length: Math.min(BATCH, count - done) }, work));
  }
}

/** As many tunnels as are wanted, or as each process has files for, and that limit. */
export async function withinFiles(wanted: number): Promise<{ count: number; files: number }> {
  const files = await fileLimit();
  return { count: Math.min(wanted, files - OTHER_FILES), files };
}

/** Files that a process may have open: Deno raises what is allowed to what is possible. */
async function fileLimit(): Promise<number> {
  const { stdout } = await commandOutput("sh", ["-c", "ulimit -Hn"]);
  const limit = Number(stdout);
  return Number.isFinite(limit) ? limit : Infinity;
}
