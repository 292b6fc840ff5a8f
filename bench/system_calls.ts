// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** System calls of running programs, as `strace` counts them: on Linux, where it is installed and permitted. */
import { ChildProgram } from "../tools/child_program.ts";

/** How often a system call was made, and how many of those failed, most of them with nothing to do. */
export interface CallCount {
  readonly name: string;
  readonly calls: number;
  readonly errors: number;
}

/** Until it is attached; and until it has detached, and written its counts. */
const TIMEOUT_MS = 10_000;

/** Counts the calls of one process, with all its threads, until it is asked for them. */
export class CallCounter implements AsyncDisposable {
  readonly #strace: ChildProgram;

  private constructor(strace: ChildProgram) {
    this.#strace = strace;
  }

  /** @throws {Error} when `strace` is not there, or may not attach */
  static async attach(pid: number, signal: AbortSignal): Promise<CallCounter> {
    const args = ["--follow-forks", "--summary-only", `--attach=${pid}`];
    const strace = new ChildProgram("strace", args, { stdout: "null" });
    try {
      await strace.line(/attached/, TIMEOUT_MS, signal);
      return new CallCounter(strace);
    } catch (error) {
      await strace[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Stops counting. */
  async end(): Promise<CallCount[]> {
    await this.#strace.end("SIGINT", TIMEOUT_MS);
    return parseCounts(this.#strace.lines);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#strace[Symbol.asyncDispose]();
  }
}

/** Reads the table that `strace -c` writes. */
export function parseCounts(lines: readonly string[]): CallCount[] {
  return lines.flatMap((line) => {
    const [, calls, errors = "0", name] =
      /^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:(\d+) +)?([a-z]\w*)$/.exec(line) ?? [];
    if (name === undefined || name === "total") return [];
    return [{ name, calls: Number(calls), errors: Number(errors) }];
  });
}
