// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { abortable } from "@std/async/abortable";
import { deadline } from "@std/async/deadline";
import { mergeReadableStreams } from "@std/streams/merge-readable-streams";
import { TextLineStream } from "@std/streams/text-line-stream";

/** Lines that an error shows. */
const SHOWN_LINES = 20;
/** A killed process ends within this time, or it is stuck in the kernel. */
const KILL_TIMEOUT_MS = 5_000;

const root = new URL("../", import.meta.url);

/** Options of {@linkcode ChildProgram}. */
export interface ChildProgramOptions extends Pick<Deno.CommandOptions, "detached" | "env"> {
  /** Where it starts. @default {the root of the project} */
  readonly cwd?: string;
  /** Name in messages. @default {the command} */
  readonly name?: string;
  /** A pipe stays open, and nothing is written to it. @default {"null"} */
  readonly stdin?: "null" | "piped";
  /** Whether its lines are kept, as those of stderr are. @default {"piped"} */
  readonly stdout?: "null" | "piped";
  /** The oldest lines beyond this number are dropped. @default {Infinity} */
  readonly maxLines?: number;
  /** Called for each line. */
  readonly onLine?: (line: string) => void;
  /** Time between SIGTERM and SIGKILL in the disposal, in milliseconds. @default {5000} */
  readonly stopTimeoutMs?: number;
}

/** A child process whose lines are kept. The disposal ends it. */
export class ChildProgram implements AsyncDisposable {
  readonly name: string;
  /** The lines of stdout and stderr so far. */
  readonly lines: string[] = [];
  /** How it ended, once all its lines are read. */
  readonly status: Promise<Deno.CommandStatus>;
  readonly #process: Deno.ChildProcess;
  readonly #options: ChildProgramOptions;
  /** Those who wait for a line. */
  readonly #waiting = new Set<(line: string) => void>();
  /** Aborts with the words for its end. */
  readonly #ended = new AbortController();

  constructor(command: string, args: readonly string[], options: ChildProgramOptions = {}) {
    const { name = command, stdin = "null", stdout = "piped" } = options;
    const { cwd = root, env = {}, detached = false } = options;
    this.name = name;
    this.#options = options;
    this.#process = new Deno.Command(command, {
      args: [...args],
      cwd,
      env,
      detached,
      stdin,
      stdout,
      stderr: "piped",
    }).spawn();
    const { stderr } = this.#process;
    this.status = this.#read(stdout === "null" ? [stderr] : [this.#process.stdout, stderr]);
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Its last lines, for the end of a message. */
  get lastLines(): string {
    const lines = this.lines.slice(-SHOWN_LINES).map((line) => `\n    ${line}`);
    return lines.length === 0 ? "; it logged nothing" : `; its last log lines:${lines.join("")}`;
  }

  async #read(streams: ReadableStream<Uint8Array<ArrayBuffer>>[]): Promise<Deno.CommandStatus> {
    const { maxLines = Infinity, onLine, stdin } = this.#options;
    const lines = streams.map((stream) =>
      stream.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())
    );
    for await (const line of mergeReadableStreams(...lines)) {
      this.lines.push(line);
      if (this.lines.length > maxLines) this.lines.shift();
      onLine?.(line);
      for (const look of this.#waiting) look(line);
    }
    const status = await this.#process.status;
    if (stdin === "piped") await this.#process.stdin.close().catch(() => {});
    this.#ended.abort(describeEnd(status));
    return status;
  }

  /**
   * Waits for a line, which may be there already.
   *
   * @param timeoutMs how long to wait, in milliseconds
   * @param signal gives up
   * @throws {Error} when the program ends or the time is over
   * @throws the signal's reason when it aborts
   */
  async line(
    pattern: RegExp,
    timeoutMs = 10_000,
    signal?: AbortSignal,
  ): Promise<RegExpExecArray> {
    for (const line of this.lines) {
      const match = pattern.exec(line);
      if (match) return match;
    }
    const { promise, resolve } = Promise.withResolvers<RegExpExecArray>();
    const look = (line: string) => {
      const match = pattern.exec(line);
      if (match) resolve(match);
    };
    const late = AbortSignal.timeout(timeoutMs);
    const signals = [late, this.#ended.signal, ...(signal ? [signal] : [])];
    this.#waiting.add(look);
    try {
      return await abortable(promise, AbortSignal.any(signals));
    } catch (cause) {
      signal?.throwIfAborted();
      const how = this.#ended.signal.aborted ? cause : `took more than ${timeoutMs} ms`;
      throw new Error(`${this.name} ${how} before it wrote ${pattern}${this.lastLines}`);
    } finally {
      this.#waiting.delete(look);
    }
  }

  /** Sends a signal, if it has not ended yet. */
  kill(signal: Deno.Signal): void {
    try {
      this.#process.kill(signal);
    } catch {
      // It has ended.
    }
  }

  /**
   * Sends a signal, and SIGKILL when it has not ended in time.
   *
   * @param timeoutMs time until SIGKILL, in milliseconds
   * @throws {Error} when it does not end even so
   */
  async end(signal: Deno.Signal, timeoutMs: number): Promise<Deno.CommandStatus> {
    const timer = setTimeout(() => this.kill("SIGKILL"), timeoutMs);
    this.kill(signal);
    try {
      return await deadline(this.status, timeoutMs + KILL_TIMEOUT_MS);
    } catch (cause) {
      const who = `${this.name} (pid ${this.pid})`;
      throw new Error(`${who} does not end, not even after SIGKILL`, { cause });
    } finally {
      clearTimeout(timer);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGTERM", this.#options.stopTimeoutMs ?? 5_000);
  }
}

/** How a process ended, in words that follow its name. */
export function describeEnd({ code, signal }: Deno.CommandStatus): string {
  return signal ? `was ended by ${signal}` : `ended with exit code ${code}`;
}
