// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { bounded } from "./bounded.ts";

/** Lines of a program's log that are kept. */
const KEPT_LINES = 200;
/** Lines of them that are shown when something went wrong. */
const SHOWN_LINES = 12;
const STOP_TIMEOUT_MS = 5_000;
const KILL_TIMEOUT_MS = 5_000;

/** A program that the demo starts. */
export interface ChildOptions {
  readonly name: string;
  /** Module, relative to this one. */
  readonly module: string;
  /** What it is allowed to do. */
  readonly permissions: readonly string[];
  readonly args?: readonly string[];
}

/** A program ended that should not have. */
export class ChildEndedError extends Error {
  override readonly name = "ChildEndedError";
}

/** A program in a process of its own; it is ended when this is disposed of. */
export class Child implements AsyncDisposable {
  readonly name: string;
  readonly #process: Deno.ChildProcess;
  readonly #ended: Promise<void>;
  readonly #lines: string[] = [];
  readonly #listeners = new Set<(line: string) => void>();
  #stopping = false;

  /** @param failed called if it ends without having been told to */
  constructor(options: ChildOptions, failed: (error: ChildEndedError) => void) {
    const { name, module, permissions, args = [] } = options;
    this.name = name;
    this.#process = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "--no-prompt",
        `--preload=${import.meta.resolve("./leash.ts")}`,
        ...permissions,
        import.meta.resolve(module),
        ...args,
      ],
      env: { NO_COLOR: "1" },
      stdin: "piped", // the leash: never written to, and open for as long as the demo lives
      stdout: "null",
      stderr: "piped",
      // A Ctrl-C is for the demo alone, which then stops its children in its own way.
      detached: true,
    }).spawn();
    this.#ended = this.#run(failed);
  }

  get pid(): number {
    return this.#process.pid;
  }

  /**
   * Waits for a line of its log, be it there already or still to come.
   *
   * @returns what the pattern's first group matched
   */
  async logged(pattern: RegExp, timeoutMs: number, signal: AbortSignal): Promise<string> {
    try {
      return await bounded(
        `"${pattern.source}" in the log of ${this.name}`,
        timeoutMs,
        signal,
        (signal) => this.#match(pattern, signal),
      );
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Error(`${(error as Error).message}${this.#lastLines()}`, { cause: error });
    }
  }

  #match(pattern: RegExp, signal: AbortSignal): Promise<string> {
    return new Promise((resolve) => {
      const look = (line: string) => {
        const match = pattern.exec(line);
        if (match) resolve(match[1] ?? "");
      };
      this.#lines.forEach(look);
      this.#listeners.add(look);
      signal.addEventListener("abort", () => this.#listeners.delete(look), { once: true });
    });
  }

  async #run(failed: (error: ChildEndedError) => void): Promise<void> {
    await this.#readLog();
    const { code, signal } = await this.#process.status;
    if (this.#stopping) return;
    const how = signal ? `was ended by ${signal}` : `ended with exit code ${code}`;
    failed(new ChildEndedError(`${this.name} (pid ${this.pid}) ${how}${this.#lastLines()}`));
  }

  async #readLog(): Promise<void> {
    let rest = "";
    for await (const text of this.#process.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) this.#add(line);
    }
    if (rest !== "") this.#add(rest);
  }

  #add(line: string): void {
    this.#lines.push(line);
    if (this.#lines.length > KEPT_LINES) this.#lines.shift();
    for (const listener of this.#listeners) listener(line);
  }

  #lastLines(): string {
    const lines = this.#lines.slice(-SHOWN_LINES);
    return lines.length === 0
      ? "; it logged nothing"
      : `; its last log lines:\n${lines.map((line) => `    ${line}`).join("\n")}`;
  }

  /** Asks it to end, and makes it if it does not. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true;
    if (await this.#endsAfter("SIGTERM", STOP_TIMEOUT_MS)) return;
    if (await this.#endsAfter("SIGKILL", KILL_TIMEOUT_MS)) return;
    throw new Error(`${this.name} (pid ${this.pid}) does not end, not even by SIGKILL`);
  }

  async #endsAfter(signal: Deno.Signal, timeoutMs: number): Promise<boolean> {
    try {
      this.#process.kill(signal);
    } catch {
      // It has ended already.
    }
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), timeoutMs);
    });
    const ended = await Promise.race([this.#ended.then(() => true), late]);
    clearTimeout(timer);
    return ended;
  }
}
