// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { BidiStream } from "../../lib/qrht/tunnel_stream.ts";
import { andThen, type Awaitable } from "../../lib/wait.ts";
import { DEFAULT_CAPACITY, Lane } from "./memory_duplex.ts";

/** How the directions of a carrier were ended by its own end. */
class Endings {
  /** What the writing direction was reset with, unless it had ended before. */
  resetCode: number | undefined;
  /** What the reading direction was stopped with, unless it had ended before. */
  stopCode: number | undefined;
  /** Whether the writing direction was ended in order. */
  isFinished = false;

  /** Both codes. */
  get codes(): [reset: number | undefined, stop: number | undefined] {
    return [this.resetCode, this.stopCode];
  }
}

/**
 * One end of a {@linkcode carrierPair}: what a QUIC stream is to a tunnel. Like there, each direction ends on its own,
 * what was put on a stream that is not reset arrives, and a second write while one waits for room throws.
 */
export class MemoryCarrier extends Endings implements BidiStream {
  readonly #incoming: Lane;
  readonly #outgoing: Lane;
  #writing = 0;
  #readEnded = false;

  /** @internal Ends come in pairs. */
  constructor(incoming: Lane, outgoing: Lane) {
    super();
    this.#incoming = incoming;
    this.#outgoing = outgoing;
  }

  /** Whether a write would wait for the peer to read. */
  get isFull(): boolean {
    return this.#outgoing.isFull;
  }

  /** Whether a write waits for room. */
  get isWriting(): boolean {
    return this.#writing > 0;
  }

  read(buffer: Uint8Array): Awaitable<number | null> {
    return andThen(this.#incoming.read(buffer), (n) => {
      if (n === null) this.#readEnded = true;
      return n;
    });
  }

  write(bytes: Uint8Array): Awaitable<number> {
    const written = this.#outgoing.write(bytes);
    return written instanceof Promise ? this.#whileWriting(() => written) : written;
  }

  /** Puts the bytes and the end at once as far as there is room, so that a reset right after it comes too late. */
  async finish(last: Uint8Array): Promise<void> {
    await this.#whileWriting(async () => {
      const parts: Awaitable<unknown>[] = [];
      for (let i = 0; i < last.length; i++) {
        const { isFull } = this.#outgoing;
        parts.push(this.#outgoing.write(last.subarray(i, i + 1)));
        if (isFull) await parts.at(-1);
      }
      this.#outgoing.finish();
      this.isFinished = true;
      await Promise.all(parts);
    });
  }

  // deno-lint-ignore require-await
  async closeWrite(): Promise<void> {
    if (this.isFinished || this.resetCode !== undefined) return;
    this.#outgoing.finish();
    this.isFinished = true;
  }

  reset(code: number): void {
    if (this.isFinished || this.resetCode !== undefined) return;
    this.resetCode = code;
    this.#outgoing.reset(code);
  }

  stop(code: number): void {
    if (this.#readEnded || this.stopCode !== undefined) return;
    this.stopCode = code;
    this.#incoming.refuse(code);
  }

  abort(code = 0): void {
    this.reset(code);
    this.stop(code);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.isWriting) this.reset(0);
    else await this.closeWrite().catch(() => {});
    this.stop(0);
  }

  async #whileWriting<T>(write: () => Promise<T>): Promise<T> {
    this.#writing++;
    try {
      return await write();
    } finally {
      this.#writing--;
    }
  }
}

/** Two ends in memory: what is written to one is read from the other. */
export function carrierPair(
  { capacity = DEFAULT_CAPACITY }: { readonly capacity?: number } = {},
): [MemoryCarrier, MemoryCarrier] {
  const [there, back] = [new Lane(capacity), new Lane(capacity)];
  return [new MemoryCarrier(back, there), new MemoryCarrier(there, back)];
}

/** A carrier whose reads give certain chunks, each on its own, and then wait. It takes whatever is written. */
export class ScriptedCarrier extends Endings implements BidiStream {
  readonly written: number[] = [];
  readonly #chunks: Uint8Array[];
  readonly #drained = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<null>();

  constructor(chunks: readonly Uint8Array[]) {
    super();
    this.#chunks = chunks.filter((chunk) => chunk.length > 0);
    this.#ended.promise.catch(() => {});
  }

  /** Resolves when all chunks were read and another read waits. */
  get drained(): Promise<void> {
    return this.#drained.promise;
  }

  /** Whether there are bytes that nobody has read. */
  get hasUnread(): boolean {
    return this.#chunks.length > 0;
  }

  /** The end behind all chunks. */
  end(): void {
    this.#ended.resolve(null);
  }

  // deno-lint-ignore require-await
  async read(buffer: Uint8Array): Promise<number | null> {
    const chunk = this.stopCode === undefined ? this.#chunks.shift() : undefined;
    if (!chunk) {
      this.#drained.resolve();
      return this.#ended.promise;
    }
    const n = Math.min(chunk.length, buffer.length);
    buffer.set(chunk.subarray(0, n));
    if (n < chunk.length) this.#chunks.unshift(chunk.subarray(n));
    return n;
  }

  // deno-lint-ignore require-await
  async write(bytes: Uint8Array): Promise<number> {
    if (this.isFinished || this.resetCode !== undefined) throw new Error("closed for writing");
    this.written.push(...bytes);
    return bytes.length;
  }

  async finish(last: Uint8Array): Promise<void> {
    await this.write(last);
    this.isFinished = true;
  }

  // deno-lint-ignore require-await
  async closeWrite(): Promise<void> {
    this.isFinished = true;
  }

  reset(code: number): void {
    if (!this.isFinished) this.resetCode ??= code;
  }

  stop(code: number): void {
    this.stopCode ??= code;
    this.#ended.reject(new Error(`stopped with code ${code}`));
  }

  abort(code = 0): void {
    this.reset(code);
    this.stop(code);
  }

  // deno-lint-ignore require-await
  async [Symbol.asyncDispose](): Promise<void> {
    this.isFinished = true;
    this.stop(0);
  }
}

/** The bytes in pieces, each but the last as long as its size says; sizes that are left over are left out. */
export function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const size of sizes) {
    if (at >= bytes.length) break;
    pieces.push(bytes.slice(at, at + size));
    at += size;
  }
  if (at < bytes.length) pieces.push(bytes.slice(at));
  return pieces;
}
