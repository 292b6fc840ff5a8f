// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { writeAll } from "../../lib/tunnel/duplex.ts";
import { eventually } from "../support/eventually.ts";
import { programArguments } from "../support/processes.ts";
import { LogLine } from "./log_line.ts";

export interface ProgramOptions {
  /** What it is called in this log. */
  readonly name: string;
  readonly task: "server" | "agent" | "passthrough";
  /** Its flags; asked for at each start. */
  flags(): Record<string, string | number>;
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

/** Lines that say that a program has done something that it must never do. */
const FORBIDDEN = /violates the protocol|internal error/i;

const encoder = new TextEncoder();

/** What may fail for want of files, and is tried again. */
const NEEDS_FILES = /^certificates not reloaded$/;

/** A program that is started, ended and started again. */
export class Program implements AsyncDisposable {
  readonly #options: ProgramOptions;
  readonly #log: Deno.FsFile;
  #child: Deno.ChildProcess | undefined;
  #reading: Promise<void> = Promise.resolve();
  /** Whether its end was asked for. */
  #mayEnd = false;
  #isReady = false;
  /** Its last lines that are not of the log: what it died of, if it did. */
  #noise: string[] = [];

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

  get isRunning(): boolean {
    return this.#child !== undefined;
  }

  /** Starts it, and waits until it may be signalled. */
  async start(): Promise<void> {
    const { task, flags, maxFiles, violated } = this.#options;
    const command = [Deno.execPath(), ...programArguments(task, flags())];
    const limited = ["sh", "-c", `ulimit -n ${maxFiles}; exec "$@"`, "sh", ...command];
    const [program, ...args] = maxFiles === undefined ? command : limited;
    this.#mayEnd = this.#isReady = false;
    this.#noise = [];
    const child = this.#child = new Deno.Command(program!, {
      args,
      env: { NO_COLOR: "1" },
      cwd: new URL("../../", import.meta.url),
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#reading = this.#read(child.stderr);
    child.status.then(async (status) => {
      if (this.#child === child) this.#child = undefined;
      await this.#reading;
      if (!this.#mayEnd) {
        violated(`${this.name} has ended by itself, ${JSON.stringify(status)}: ${this.#noise}`);
      }
      this.#options.ended?.();
    });
    await eventually(
      `${this.name} says ${JSON.stringify(this.#options.readyAt)}`,
      () => {
        if (!this.isRunning) throw new Error("it has ended");
        return this.#isReady;
      },
      START_MS,
    );
  }

  async #read(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    let rest = "";
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      await writeAll(this.#log, encoder.encode(text));
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) this.#take(line);
    }
    if (rest) this.#take(rest);
  }

  #take(text: string): void {
    const line = LogLine.parse(text);
    if (!line) {
      this.#noise = [...this.#noise, text].slice(-20);
      return;
    }
    if (line.message.startsWith(this.#options.readyAt)) this.#isReady = true;
    const isError = line.level === "FTL" || line.level === "ERR" || FORBIDDEN.test(line.message);
    const mayFail = this.#options.maxFiles !== undefined && NEEDS_FILES.test(line.message);
    if (isError && !mayFail) {
      this.#options.violated(`${this.name}: ${text}`);
    }
    this.#options.line?.(line);
  }

  signal(signal: Deno.Signal): void {
    try {
      this.#child?.kill(signal);
    } catch {
      // It has ended.
    }
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL", 10_000);
  }

  /** Has it end in order. What it takes longer than that, or an exit code, is a violation. */
  async stop(timeoutMs: number): Promise<void> {
    const status = await this.#end("SIGTERM", timeoutMs);
    if (status && status.code !== 0) {
      this.#options.violated(
        `${this.name} was told to stop and ended with ${JSON.stringify(status)}`,
      );
    }
  }

  async #end(signal: Deno.Signal, timeoutMs: number): Promise<Deno.CommandStatus | undefined> {
    const child = this.#child;
    if (!child) return undefined;
    this.#mayEnd = true;
    this.signal(signal);
    const timer = setTimeout(() => {
      this.#options.violated(`${this.name} goes on ${timeoutMs} ms after ${signal}`);
      this.signal("SIGKILL");
    }, timeoutMs);
    const status = await child.status;
    clearTimeout(timer);
    await this.#reading;
    return status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    this.#log.close();
  }
}
