// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { ChildProgram, describeEnd } from "../../tools/child_program.ts";
import { type Flags, programArguments, type ProgramTask } from "../../tools/project_program.ts";
import { LogLine } from "./log_line.ts";

export interface ProgramOptions {
  /** What it is called in this log. */
  readonly name: string;
  readonly task: ProgramTask;
  readonly flags: Flags;
  /** What follows them. */
  readonly args?: readonly string[];
  /** Files that it may have open. @default {} as many as this process */
  readonly maxFiles?: number | undefined;
  /** Where its log is kept. */
  readonly logFile: string;
  /** A line that it says once it may be signalled. */
  readonly readyAt: string;
  /** Told of each line of its log. */
  line?(line: LogLine): void;
  /** Told of each end, its own or not. */
  ended?(): void;
  /** Told of what must not be, such as an end that nobody asked for. */
  violated(what: string): void;
}

/** How long a program may take to start, on a machine that has much else to do. */
const START_MS = 60_000;

/** Lines that are kept, for when it ends by itself. */
const MAX_LINES = 20;

/** How long a killed program may take to end. */
const KILL_MS = 10_000;

/** Lines that say that a program has done something that it must never do. */
const FORBIDDEN = /violates the protocol|internal error/i;

const encoder = new TextEncoder();

/** What may fail for want of files, and is tried again. */
const NEEDS_FILES = /^certificates not reloaded$/;

/** A program that is started, ended and started again. */
export class Program implements AsyncDisposable {
  readonly #options: ProgramOptions;
  readonly #log: Deno.FsFile;
  #child: ChildProgram | undefined;
  /** Whether its end was asked for. */
  #mayEnd = false;

  constructor(options: ProgramOptions) {
    this.#options = options;
    this.#log = Deno.openSync(options.logFile, { append: true, create: true });
  }

  get name(): string {
    return this.#options.name;
  }

  get pid(): number {
    if (!this.#child) throw new Error(`${this.name} does not run`);
    return this.#child.pid;
  }

  /** Starts it, and waits until it may be signalled. */
  async start(): Promise<void> {
    const { name, task, flags, args: more = [], maxFiles, readyAt, ended, violated } =
      this.#options;
    const command = [Deno.execPath(), ...programArguments(task, flags), ...more];
    const limited = ["sh", "-c", `ulimit -n ${maxFiles}; exec "$@"`, "sh", ...command];
    const [program, ...args] = maxFiles === undefined ? command : limited;
    this.#mayEnd = false;
    const child = this.#child = new ChildProgram(program!, args, {
      name,
      // Half a second after its start, Deno looks for a new version, and loads CAs for that.
      env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
      stdout: "null",
      maxLines: MAX_LINES,
      onLine: (line) => this.#take(line),
    });
    child.status.then((status) => {
      if (this.#child === child) this.#child = undefined;
      if (!this.#mayEnd) violated(`${name} ${describeEnd(status)} by itself${child.lastLines}`);
      ended?.();
    });
    await child.line(new RegExp(` "${readyAt}`), START_MS);
  }

  #take(text: string): void {
    this.#log.writeSync(encoder.encode(`${text}\n`));
    const line = LogLine.parse(text);
    if (!line) return;
    const isError = line.level === "FTL" || line.level === "ERR" || FORBIDDEN.test(line.message);
    const mayFail = this.#options.maxFiles !== undefined && NEEDS_FILES.test(line.message);
    if (isError && !mayFail) this.#options.violated(`${this.name}: ${text}`);
    this.#options.line?.(line);
  }

  signal(signal: Deno.Signal): void {
    this.#child?.kill(signal);
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    this.#mayEnd = true;
    await this.#child?.end("SIGKILL", KILL_MS);
  }

  /** Has it end in order. What it takes longer than that, or an exit code, is a violation. */
  async stop(timeoutMs: number): Promise<void> {
    this.#mayEnd = true;
    const status = await this.#child?.end("SIGTERM", timeoutMs);
    if (status && status.code !== 0) {
      const end = describeEnd(status);
      this.#options.violated(`${this.name} was told to stop within ${timeoutMs} ms and ${end}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    this.#log.close();
  }
}
