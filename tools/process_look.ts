// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `/proc` says of a program, by way of a shell: Deno lets nobody in there who is not allowed everything. */
import { commandOutput } from "./command_output.ts";

/** A look at a process from outside. */
export interface ProcessLook {
  readonly rssKib: number;
  /** Sockets of TCP that it has open, listening ones included. */
  readonly tcpSockets: number;
  /** Files of all kinds that it has open. */
  readonly files: number;
}

const SCRIPT = `
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null
for pid in "$@"; do
  echo "pid $pid"
  grep VmRSS "/proc/$pid/status"
  ls -l "/proc/$pid/fd"
done`;

/** Looks at processes; one that is gone is left out. */
export async function lookAt(pids: readonly number[]): Promise<Map<number, ProcessLook>> {
  const { stdout } = await commandOutput("sh", ["-c", SCRIPT, "sh", ...pids.map(String)]);
  const tcpInodes = new Set<string>();
  const looks = new Map<number, ProcessLook>();
  const [sockets, ...processes] = stdout.split(/^pid /m);
  for (const line of sockets!.split("\n")) {
    // proc(5): the inode is the tenth field.
    const inode = line.trim().split(/\s+/)[9];
    if (inode !== undefined && /^\d+$/.test(inode)) tcpInodes.add(inode);
  }
  for (const text of processes) {
    const pid = Number(text.slice(0, text.indexOf("\n")));
    const rss = /VmRSS:\s+(\d+) kB/.exec(text);
    if (!rss) continue;
    const files = [...text.matchAll(/ -> (.*)$/gm)].map((match) => match[1]!);
    const isTcp = (file: string) => tcpInodes.has(/^socket:\[(\d+)\]$/.exec(file)?.[1] ?? "");
    looks.set(pid, {
      rssKib: Number(rss[1]),
      tcpSockets: files.filter(isTcp).length,
      files: files.length,
    });
  }
  return looks;
}
