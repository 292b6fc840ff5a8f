// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { fileURLToPath } from "node:url";

/** Time that a program has to say what is waited for. */
const LINE_TIMEOUT_MS = 20_000;

/** Time that a program has to stop when it is told to. */
const STOP_TIMEOUT_MS = 3_000;

/** What is kept of what a program says. */
const MAX_LINES = 1_000;

/** The agents bind any address, the rest is on loopback. */
const permissions = [
  "--allow-net=127.0.0.1,0.0.0.0",
  "--allow-read",
  "--allow-env",
  "--allow-ffi",
  "--allow-sys",
];

/** A program in a process of its own, which ends at the latest when this is disposed of. */
export class Program implements AsyncDisposable {
  readonly #script: string;
  readonly #child: Deno.ChildProcess;
  readonly #lines: string[] = [];
  readonly #reading: Promise<void>;
  #news = Promise.withResolvers<void>();
  #silent = false;

  /**
   * @param script path, relative to this file
   * @param flags of the script, without their dashes
   */
  constructor(script: string, flags: Readonly<Record<string, string>> = {}) {
    this.#script = script;
    const args = Object.entries(flags).map(([name, value]) => `--${name}=${value}`);
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", ...permissions, fileURLToPath(new URL(script, import.meta.url)), ...args],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#reading = this.#read();
  }

  get pid(): number {
    return this.#child.pid;
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
    throw new Error(`${this.#script} ${how} before it said ${pattern}:\n${this.#lines.join("\n")}`);
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
    const kill = (signal: Deno.Signal) => {
      try {
        this.#child.kill(signal);
      } catch {
        // It has ended before.
      }
    };
    kill("SIGTERM");
    const timer = setTimeout(() => kill("SIGKILL"), STOP_TIMEOUT_MS);
    await this.#child.status;
    clearTimeout(timer);
    await this.#reading;
  }
}
