// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { concat } from "@std/bytes/concat";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import type { Awaitable } from "../../lib/wait.ts";
import { assertSameBytes, pattern } from "./bytes.ts";

/** What a call on a {@linkcode MemoryDuplex} that has ended throws. */
export class MemoryDuplexError extends Error {
  override readonly name = "MemoryDuplexError";
}

export const DEFAULT_CAPACITY = 64 << 10;

/** One direction: bytes in their order, at most `capacity` of them under way. What can be done at once is. */
export class Lane {
  readonly #bytes: Uint8Array;
  #held = 0;
  #finished = false;
  #readError: Error | undefined;
  #writeError: Error | undefined;
  #reading = false;
  #writing = false;
  #changed = Promise.withResolvers<void>();

  constructor(capacity: number) {
    this.#bytes = new Uint8Array(capacity);
  }

  get isFull(): boolean {
    return this.#held === this.#bytes.length;
  }

  read(buffer: Uint8Array): Awaitable<number | null> {
    if (this.#reading) throw new TypeError("a read is pending already");
    return this.#isUnready ? this.#takeLater(buffer) : this.#take(buffer);
  }

  get #isUnready(): boolean {
    return !this.#readError && this.#held === 0 && !this.#finished;
  }

  async #takeLater(buffer: Uint8Array): Promise<number | null> {
    this.#reading = true;
    while (this.#isUnready) await this.#changed.promise;
    this.#reading = false;
    return this.#take(buffer);
  }

  #take(buffer: Uint8Array): number | null {
    if (this.#readError) throw this.#readError;
    if (this.#held === 0) return null;
    const n = Math.min(buffer.length, this.#held);
    buffer.set(this.#bytes.subarray(0, n));
    this.#bytes.copyWithin(0, n, this.#held);
    this.#held -= n;
    this.#notify();
    return n;
  }

  write(bytes: Uint8Array): Awaitable<number> {
    if (this.#writing) throw new TypeError("a write is pending already");
    return this.#hasRoomFor(bytes) ? this.#put(bytes) : this.#putLater(bytes);
  }

  #hasRoomFor(bytes: Uint8Array): boolean {
    return this.#writeError !== undefined || !this.isFull || bytes.length === 0;
  }

  async #putLater(bytes: Uint8Array): Promise<number> {
    this.#writing = true;
    while (!this.#hasRoomFor(bytes)) await this.#changed.promise;
    this.#writing = false;
    return this.#put(bytes);
  }

  #put(bytes: Uint8Array): number {
    if (this.#writeError) throw this.#writeError;
    const n = Math.min(bytes.length, this.#bytes.length - this.#held);
    this.#bytes.set(bytes.subarray(0, n), this.#held);
    this.#held += n;
    this.#notify();
    return n;
  }

  finish(): void {
    if (this.#writing) throw new TypeError("a write is pending");
    this.#finished = true;
    this.#writeError ??= new MemoryDuplexError("closed for writing");
    this.#notify();
  }

  /** By the writer. What it has finished before still arrives. */
  reset(code: number): void {
    if (this.#writeError) return;
    this.#writeError = new MemoryDuplexError("aborted");
    this.#readError ??= new MemoryDuplexError(`reset by the peer with code ${code}`);
    this.#held = 0;
    this.#notify();
  }

  /** By the reader. */
  refuse(code: number): void {
    if (this.#readError) return;
    this.#readError = new MemoryDuplexError("stopped");
    this.#writeError ??= new MemoryDuplexError(`stopped by the peer with code ${code}`);
    this.#held = 0;
    this.#notify();
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

/** One end of a {@linkcode memoryPair}. What it is told to do, its peer sees. */
export class MemoryDuplex implements Duplex {
  readonly stop?: (code: number) => void;
  readonly #incoming: Lane;
  readonly #outgoing: Lane;

  /** @internal Ends come in pairs. */
  constructor(incoming: Lane, outgoing: Lane, canStop: boolean) {
    this.#incoming = incoming;
    this.#outgoing = outgoing;
    if (canStop) this.stop = (code) => this.refuse(code);
  }

  /** Whether a write would wait for the peer to read. */
  get isFull(): boolean {
    return this.#outgoing.isFull;
  }

  read(buffer: Uint8Array): Awaitable<number | null> {
    return this.#incoming.read(buffer);
  }

  write(bytes: Uint8Array): Awaitable<number> {
    return this.#outgoing.write(bytes);
  }

  closeWrite(): void {
    this.#outgoing.finish();
  }

  /** The peer's reads fail, unless this end had finished writing, and so do its writes. */
  abort(code = 0): void {
    this.#outgoing.reset(code);
    this.#incoming.refuse(code);
  }

  /** The peer's writes fail from now on, whether or not this end has a `stop`. */
  refuse(code = 0): void {
    this.#incoming.refuse(code);
  }

  // deno-lint-ignore require-await
  async [Symbol.asyncDispose](): Promise<void> {
    this.#outgoing.finish();
    this.#incoming.refuse(0);
  }
}

export interface MemoryPairOptions {
  /** Bytes under way in each direction at most. @default {65536} */
  readonly capacity?: number;
  /** Whether both ends have `stop`. @default {true} */
  readonly stop?: boolean;
}

/** Two ends in memory: what is written to one is read from the other. */
export function memoryPair(options: MemoryPairOptions = {}): [MemoryDuplex, MemoryDuplex] {
  const { capacity = DEFAULT_CAPACITY, stop = true } = options;
  const [there, back] = [new Lane(capacity), new Lane(capacity)];
  return [new MemoryDuplex(back, there, stop), new MemoryDuplex(there, back, stop)];
}

/** Reads exactly `length` bytes. @throws {Error} when the carrier ends before */
export async function readExactly(from: Pick<Duplex, "read">, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let offset = 0; offset < length;) {
    const n = await from.read(bytes.subarray(offset));
    if (n === null) throw new Error(`the end after ${offset} of ${length} bytes`);
    offset += n;
  }
  return bytes;
}

/** Writes all of it, and ends the direction. @throws what the carrier throws */
export async function writeToEnd(
  to: Pick<Duplex, "write" | "closeWrite">,
  bytes: Uint8Array,
): Promise<void> {
  await writeAll(to, bytes);
  await to.closeWrite();
}

/** Reads to the end, in reads of `size` bytes. @throws what the carrier throws */
export async function readToEnd(
  from: Pick<Duplex, "read">,
  size = 64 << 10,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  const buffer = new Uint8Array(size);
  for (let n; (n = await from.read(buffer)) !== null;) chunks.push(buffer.slice(0, n));
  return concat(chunks);
}

type BothWays = Pick<Duplex, "read" | "write" | "closeWrite">;

/** Carries so many bytes both ways at once, and ends both directions. */
export async function assertCarriesBothWays(
  [a, b]: readonly [BothWays, BothWays],
  bytes: number,
): Promise<void> {
  const [ofA, ofB] = [pattern(bytes, 1), pattern(bytes, 2)];
  const [atA, atB] = await Promise.all([
    readToEnd(a),
    readToEnd(b),
    writeToEnd(a, ofA),
    writeToEnd(b, ofB),
  ]);
  assertSameBytes(atA, ofB);
  assertSameBytes(atB, ofA);
}
