// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { programArguments } from "../tests/support/processes.ts";

/** Time that a program has to say what is waited for. */
const LINE_TIMEOUT_MS = 20_000;

/** Time that a program has to stop when it is told to. */
const STOP_TIMEOUT_MS = 3_000;

/** What is kept of what a program says. */
const MAX_LINES = 1_000;

/** What a program is told on its command line, without the dashes. */
export type Flags = Readonly<Record<string, string>>;

/** Of the benchmark's own programs. */
const permissions = ["--allow-net", "--allow-read", "--allow-env", "--allow-ffi", "--allow-sys"];

/** What makes `lib/quic/udp/batch.ts` stand aside. */
const WITHOUT_BATCHES = "--deny-ffi=libc.so.6";

/** A program in a process of its own, which ends at the latest when this is disposed of. */
export class Program implements AsyncDisposable {
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  readonly #lines: string[] = [];
  readonly #reading: Promise<void>;
  #news = Promise.withResolvers<void>();
  #silent = false;

  /**
   * @param name what it is called in messages
   * @param args of Deno
   * @param under a command that runs it, such as one that enters a namespace
   */
  constructor(name: string, args: readonly string[], under: readonly string[] = []) {
    this.#name = name;
    const [command, ...rest] = [...under, Deno.execPath(), ...args];
    this.#child = new Deno.Command(command!, {
      args: rest,
      cwd: new URL("../", import.meta.url),
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#reading = this.#read();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    this.#send("SIGKILL");
    await this.#child.status;
  }

  #send(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended before.
    }
  }

  /** The lines on stderr that match. */
  lines(pattern: RegExp): string[] {
    return this.#lines.filter((line) => pattern.test(line));
  }

  /**
   * Waits for a line on stderr.
   *
   * @throws {Error} when the program ends or takes too long, and when the signal aborts
   */
  async said(pattern: RegExp, signal: AbortSignal): Promise<RegExpExecArray> {
    const late = AbortSignal.any([signal, AbortSignal.timeout(LINE_TIMEOUT_MS)]);
    for (;;) {
      for (const line of this.#lines) {
        const match = pattern.exec(line);
        if (match) return match;
      }
      if (this.#silent || late.aborted) break;
      const aborted = Promise.withResolvers<void>();
      late.addEventListener("abort", () => aborted.resolve(), { once: true });
      await Promise.race([this.#news.promise, aborted.promise]);
    }
    signal.throwIfAborted();
    const how = this.#silent ? "ended" : `took more than ${LINE_TIMEOUT_MS} ms`;
    throw new Error(`${this.#name} ${how} before it said ${pattern}:\n${this.#lines.join("\n")}`);
  }

  async #read(): Promise<void> {
    let rest = "";
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      this.#lines.push(...lines.slice(0, MAX_LINES - this.#lines.length));
      this.#news.resolve();
      this.#news = Promise.withResolvers();
    }
    this.#silent = true;
    this.#news.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#send("SIGTERM");
    const timer = setTimeout(() => this.#send("SIGKILL"), STOP_TIMEOUT_MS);
    await this.#child.status;
    clearTimeout(timer);
    await this.#reading;
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

/** The words of a command line. */
export function wordsOf(flags: Flags): string[] {
  return Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
}

/** How a program of this project is started. */
export interface ProjectOptions {
  /** Whether it does without the calls that take many datagrams. */
  readonly isPortable?: boolean;
  readonly under?: readonly string[];
}

/** Starts a program of this project, with the permissions of its task. */
export function projectProgram(
  task: "server" | "agent" | "passthrough",
  flags: Flags,
  { isPortable = false, under = [] }: ProjectOptions = {},
): Program {
  const [run, ...args] = programArguments(task, flags);
  return new Program(task, [run!, ...(isPortable ? [WITHOUT_BATCHES] : []), ...args], under);
}

/** Whether a program knows a flag. */
export async function hasFlag(task: "server" | "agent", flag: string): Promise<boolean> {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: programArguments(task, {}).concat("--help"),
    cwd: new URL("../", import.meta.url),
    env: { NO_COLOR: "1" },
    stderr: "null",
  }).output();
  return new RegExp(`--${flag}\\b`).test(new TextDecoder().decode(stdout));
}
