// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import { DATAGRAM, UDP_CONTEXT } from "./capsule.ts";

/** Type, length in the form of 2 bytes (RFC 9000 §16), context id. */
const HEADER_BYTES = 4;

/** Largest datagram whose capsule has such a length. */
export const MAX_WRITTEN_DATAGRAM_BYTES = 0x3fff - 1;

/** What one write has at most: four of the largest datagrams. */
export const BLOCK_BYTES = 64 << 10;

/** Blocks beyond the limit for datagrams that must leave. */
const EXTRA_BLOCKS = 1;

/** Blocks that are kept for reuse, by all writers. */
const MAX_SPARE_BLOCKS = 16;
const spareBlocks: Uint8Array<ArrayBuffer>[] = [];

interface Block {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where its capsules end. */
  end: number;
}

/** What a writer reports. */
export interface CapsuleWriterEvents {
  /** There is room again after {@linkcode CapsuleWriter.reserve} had none. */
  writable(): void;
  /** A write has failed: nothing more is written. */
  failed(error: unknown): void;
}

/**
 * Writes datagrams as capsules, in the order in which they were committed. Those that come while a
 * write is under way leave together with the next one. None is dropped: when too many wait, there is
 * no room for more. An idle writer holds no memory.
 */
export class CapsuleWriter {
  /** Datagrams that were committed. */
  datagrams = 0;
  readonly #to: Pick<Duplex, "write">;
  readonly #events: CapsuleWriterEvents;
  readonly #maxBlocks: number;
  /** Blocks that no further datagram fits in, oldest first. */
  readonly #full: Block[] = [];
  /** Gets the next datagram. */
  #filling: Block | undefined;
  /** Blocks that are held, with the one that is being written. */
  #blocks = 0;
  #writing: Promise<void> | undefined;
  #isStarved = false;
  #hasFailed = false;

  /**
   * @param to gets the capsules, and nothing else meanwhile
   * @param maxBytes that wait, in whole blocks of 64 KiB
   */
  constructor(to: Pick<Duplex, "write">, events: CapsuleWriterEvents, maxBytes: number) {
    this.#to = to;
    this.#events = events;
    this.#maxBlocks = Math.max(1, Math.floor(maxBytes / BLOCK_BYTES));
  }

  /**
   * Where the next datagram is to be written, up to a number of bytes; undefined when too many wait.
   *
   * @param mustLeave a little more may wait for it
   * @throws {RangeError} when no capsule is that long
   */
  reserve(bytes: number, mustLeave = false): Uint8Array<ArrayBuffer> | undefined {
    if (bytes > MAX_WRITTEN_DATAGRAM_BYTES) {
      throw new RangeError(`${bytes} bytes, more than ${MAX_WRITTEN_DATAGRAM_BYTES}`);
    }
    if (this.#hasFailed) return undefined;
    const needed = HEADER_BYTES + bytes;
    if (!this.#filling || this.#filling.end + needed > BLOCK_BYTES) {
      if (this.#blocks >= this.#maxBlocks + (mustLeave ? EXTRA_BLOCKS : 0)) {
        this.#isStarved = true;
        return undefined;
      }
      if (this.#filling) this.#full.push(this.#filling);
      this.#blocks++;
      this.#filling = { bytes: spareBlocks.pop() ?? new Uint8Array(BLOCK_BYTES), end: 0 };
    }
    const { bytes: block, end } = this.#filling;
    return block.subarray(end + HEADER_BYTES, end + needed);
  }

  /** The datagram that was written where {@linkcode reserve} said last is to be sent. */
  commit(bytes: number): void {
    // The write may have failed meanwhile.
    const block = this.#filling;
    if (!block) return;
    const { bytes: to, end } = block;
    const length = bytes + 1;
    to[end] = DATAGRAM;
    to[end + 1] = 0x40 | (length >> 8);
    to[end + 2] = length & 0xff;
    to[end + 3] = UDP_CONTEXT;
    block.end += HEADER_BYTES + bytes;
    this.datagrams++;
  }

  /** Writes what was committed, or has it written after the write that is under way. */
  flush(): void {
    if (this.#filling?.end === 0) {
      this.#free(this.#filling);
      this.#filling = undefined;
    }
    if (this.#filling || this.#full.length > 0) this.#writing ??= this.#writeBlocks();
  }

  /** Resolves when all that was committed is written, or writing has failed. */
  async drained(): Promise<void> {
    this.flush();
    await this.#writing;
  }

  async #writeBlocks(): Promise<void> {
    for (let block; (block = this.#next()) !== undefined;) {
      try {
        await writeAll(this.#to, block.bytes.subarray(0, block.end));
      } catch (error) {
        this.#hasFailed = true;
        this.#full.length = 0;
        this.#filling = undefined;
        this.#events.failed(error);
        break;
      }
      this.#free(block);
      if (this.#isStarved && this.#blocks <= this.#maxBlocks / 2) {
        this.#isStarved = false;
        this.#events.writable();
      }
    }
    this.#writing = undefined;
  }

  #next(): Block | undefined {
    const full = this.#full.shift();
    if (full || !this.#filling?.end) return full;
    const filled = this.#filling;
    this.#filling = undefined;
    return filled;
  }

  #free({ bytes }: Block): void {
    this.#blocks--;
    if (spareBlocks.length < MAX_SPARE_BLOCKS) spareBlocks.push(bytes);
  }
}
