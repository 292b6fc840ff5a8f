// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { ChildProgram } from "../tools/child_program.ts";
import { type Flags, programArguments, type ProgramTask } from "../tools/project_program.ts";

/** Time that a program has to write what is waited for. */
const LINE_TIMEOUT_MS = 20_000;

/** Time that a program has to stop when it is told to. */
const STOP_TIMEOUT_MS = 3_000;

/** Lines of a program that are kept. */
const MAX_LINES = 1_000;

/** Of the benchmark's own programs. */
const permissions = ["--allow-net", "--allow-read", "--allow-env", "--allow-ffi", "--allow-sys"];

/** Keeps the programs from the calls that take many datagrams. */
const WITHOUT_BATCHES = "--deny-ffi=libc.so.6";

/** A program in a process of its own, which ends at the latest when this is disposed of. */
export class Program extends ChildProgram {
  /**
   * @param name what it is called in messages
   * @param args of Deno
   * @param under a command that runs it, such as one that enters a namespace
   */
  constructor(name: string, args: readonly string[], under: readonly string[] = []) {
    const [command, ...rest] = [...under, Deno.execPath(), ...args];
    super(command!, rest, {
      name,
      // Deno looks for a new version half a second after its start.
      env: { DENO_NO_UPDATE_CHECK: "1" },
      stdout: "null",
      maxLines: MAX_LINES,
      stopTimeoutMs: STOP_TIMEOUT_MS,
    });
  }

  /**
   * Waits for a line on stderr.
   *
   * @throws {Error} when the program ends or takes too long, and when the signal aborts
   */
  said(pattern: RegExp, signal: AbortSignal): Promise<RegExpExecArray> {
    return this.line(pattern, LINE_TIMEOUT_MS, signal);
  }
}

/** Starts a program of this folder. */
export function benchProgram(
  script: string,
  args: readonly string[] = [],
  under: readonly string[] = [],
): Program {
  return new Program(
    script,
    ["run", "--no-prompt", ...permissions, `bench/${script}`, ...args],
    under,
  );
}

/** How a program of this project is started. */
export interface ProjectOptions {
  /** Whether it does without the calls that take many datagrams. */
  readonly isPortable?: boolean;
  readonly under?: readonly string[];
}

/** Starts a program of this project, with the permissions of its task. */
export function projectProgram(
  task: ProgramTask,
  flags: Flags,
  { isPortable = false, under = [] }: ProjectOptions = {},
): Program {
  const [run, ...args] = programArguments(task, flags);
  return new Program(task, [run!, ...(isPortable ? [WITHOUT_BATCHES] : []), ...args], under);
}
