// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { sleep } from "../wait.ts";

/** Where lines go: `Deno.stderr`, `Deno.stdout`, or a test's own. */
export interface LineSink {
  /** Writes some of the bytes, and resolves with their number. */
  write(bytes: Uint8Array): Promise<number>;
}

export interface LineWriterOptions {
  /**
   * Lines that wait may have this many characters together; further ones are dropped.
   *
   * @default {1048576}
   */
  readonly maxQueued?: number;
  /**
   * Called when the reader goes on, after the lines that it was still owed, with the number of
   * lines dropped since the last call.
   */
  readonly dropped?: (lines: number) => void;
}

const MAX_QUEUED = 1 << 20;

/** Time until a sink that is full is tried again, if it says so instead of waiting. */
const FULL_PAUSE_MS = 50;

/**
 * Writes lines to a pipe, a file or a terminal without ever waiting for its reader. Lines wait in a
 * bounded queue; those that do not fit are dropped and counted.
 */
export class LineWriter {
  readonly #sink: LineSink;
  readonly #maxQueued: number;
  readonly #dropped: ((lines: number) => void) | undefined;
  readonly #encoder = new TextEncoder();
  #queue: string[] = [];
  #queued = 0;
  #droppedNow = 0;
  #droppedTotal = 0;
  /** Resolves when everything is written. */
  #writing: Promise<void> | undefined;

  constructor(sink: LineSink, options: LineWriterOptions = {}) {
    this.#sink = sink;
    this.#maxQueued = options.maxQueued ?? MAX_QUEUED;
    this.#dropped = options.dropped;
  }

  /** Lines that nobody will read: they did not fit, or could not be written. */
  get dropped(): number {
    return this.#droppedTotal;
  }

  /** Takes a line, without its end. */
  write(line: string): void {
    if (this.#queued + line.length > this.#maxQueued) {
      this.#droppedNow++;
      this.#droppedTotal++;
      return;
    }
    this.#queue.push(line);
    this.#queued += line.length;
    this.#writing ??= this.#writeAll();
  }

  /** Waits until everything is written, but not for longer than `timeoutMs`. */
  async flush(timeoutMs: number): Promise<void> {
    if (this.#writing === undefined) return;
    const late = new AbortController();
    await Promise.race([this.#writing, sleep(timeoutMs, late.signal)]);
    late.abort();
  }

  async #writeAll(): Promise<void> {
    while (this.#queue.length > 0) {
      const lines = this.#queue;
      this.#queue = [];
      this.#queued = 0;
      this.#reportDropped();
      try {
        await this.#writeBytes(this.#encoder.encode(`${lines.join("\n")}\n`));
      } catch {
        // The reader is gone, which is no reason to stop, and nobody is left to be told.
        this.#droppedTotal += lines.length;
      }
    }
    this.#writing = undefined;
  }

  async #writeBytes(bytes: Uint8Array): Promise<void> {
    for (let offset = 0; offset < bytes.length;) {
      try {
        offset += await this.#sink.write(bytes.subarray(offset));
      } catch (error) {
        if (!(error instanceof Error && error.name === "WouldBlock")) throw error;
        await sleep(FULL_PAUSE_MS);
      }
    }
  }

  /** Dropped lines are later than those just taken, and earlier than what is written from now on. */
  #reportDropped(): void {
    const lines = this.#droppedNow;
    this.#droppedNow = 0;
    if (lines > 0) this.#dropped?.(lines);
  }
}
