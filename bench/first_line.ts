// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long a program takes from its start to the first line of its log. */
import { ChildProgram } from "../tools/child_program.ts";
import {
  agentFlags,
  anyPort,
  flagArguments,
  programArguments,
  type ProgramTask,
  serverFlags,
} from "../tools/project_program.ts";

/** No program may take longer to its first line. */
const TIMEOUT_MS = 20_000;

/** Command and arguments. */
export type Command = readonly [string, ...string[]];

/** What it needs to start, where nothing answers. */
export function flagsOf(name: ProgramTask, dir: string): string[] {
  if (name === "server") return flagArguments({ ...anyPort, ...serverFlags(dir) });
  const upstream = name === "passthrough" ? { upstream: "127.0.0.1:1" } : {};
  return flagArguments({ ...agentFlags(dir), server: "127.0.0.1:1", ...upstream });
}

/** The command of a program's task, without the flags that follow. */
export function interpreted(name: ProgramTask): Command {
  return [Deno.execPath(), ...programArguments(name)];
}

/** Starts a program, waits for the first line of its log, and ends it. Returns the time that it took, in ms. */
export async function timeToFirstLine(
  [command, ...args]: Command,
  flags: readonly string[],
): Promise<number> {
  const began = performance.now();
  await using program = new ChildProgram(command, [...args, ...flags], { stdout: "null" });
  const [line] = await program.line(/.*/, TIMEOUT_MS);
  const ms = performance.now() - began;
  await program.end("SIGKILL", 0);
  if (!/^\S+ INF /.test(line)) throw new Error(`${command} did not start: ${line}`);
  return ms;
}
