// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { clearImmediate, setImmediate } from "node:timers";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import { StreamCode } from "./codes.ts";
import {
  encodeFrame,
  frameHead,
  FrameParser,
  FrameType,
  MAX_DATA_BYTES,
  ProtocolError,
} from "./frame.ts";

/** What tunnel streams need of a QUIC stream. */
export interface Carrier extends Duplex {
  /** Writes these last bytes and the end with them. */
  finish(last: Uint8Array): Promise<void>;
  reset(code: number): void;
  stop(code: number): void;
}

/** Types of the frames that tunnel streams begin with. */
type FirstFrame = typeof FrameType.Open | typeof FrameType.Result;

/** DATA of up to this many bytes is copied behind its head, and so goes in one piece. */
const MAX_COPIED_BYTES = 4096;

/** Time that a first frame waits for something to go with, where that may take a moment. */
const HOLD_MS = 2;

/** How long a first frame waits for something to go with: runs a function then, and returns what keeps it from running. */
export const Hold = {
  /** Until what this turn of the event loop has to read has been read. */
  forTurn(send: () => void): () => void {
    const turn = setImmediate(send);
    return () => clearImmediate(turn);
  },
  briefly(send: () => void): () => void {
    const timer = setTimeout(send, HOLD_MS);
    return () => clearTimeout(timer);
  },
} as const;

/** Room for the first frame of the peer's and what comes with it. */
const FIRST_READ_BYTES = 2048;

const END = encodeFrame(FrameType.End, NO_BYTES);

/**
 * One end of a tunnel stream (docs/protocol.md, "Tunnel streams"): its bytes travel in DATA frames and end with END.
 *
 * Each end sends its first frame before anything else, and takes the peer's first before it reads.
 */
export class TunnelStream implements Duplex {
  readonly #carrier: Carrier;
  readonly #parser: FrameParser;
  readonly #first: number;
  #awaitsFirst = true;
  /** What came with the first frame. */
  #pending: Uint8Array = NO_BYTES;
  /** This end's first frame while it waits for room. */
  #opening: Promise<void> | undefined;
  /** This end's first frame while it waits for something to go with. */
  #held: Uint8Array = NO_BYTES;
  #letGo: (() => void) | undefined;
  /** Bytes of the DATA frame that is being written that are still to come. */
  #unwritten = 0;
  /** What the peer has done wrong. */
  #violated: unknown;
  /** Whether END has come. */
  #ended = false;
  /** Whether END was sent, or is not to be any more. */
  #finished = false;

  /** @param first type of the frame that the peer begins with */
  constructor(carrier: Carrier, first: FirstFrame) {
    this.#carrier = carrier;
    this.#first = first;
    this.#parser = new FrameParser(first);
  }

  /** Sends this end's first frame; whatever is written meanwhile follows it. */
  async sendFirst(
    type: FirstFrame,
    payload: Uint8Array,
  ): Promise<void> {
    await this.#open(encodeFrame(type, payload));
  }

  async #open(first: Uint8Array): Promise<void> {
    this.#opening = writeAll(this.#carrier, first);
    await this.#opening;
    this.#opening = undefined;
  }

  /**
   * Sends this end's first frame together with what is written next, or alone when that takes too long. Resolves when it
   * is sent; what it goes with tells of failures then.
   */
  holdFirst(
    type: FirstFrame,
    payload: Uint8Array,
    hold: (send: () => void) => () => void,
  ): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#held = encodeFrame(type, payload);
    const cancel = hold(() => {
      this.#letGo = undefined;
      this.#open(this.#takeHeld()).then(resolve, reject);
    });
    this.#letGo = () => {
      cancel();
      resolve();
    };
    return promise;
  }

  #takeHeld(): Uint8Array {
    const held = this.#held;
    this.#held = NO_BYTES;
    this.#letGo?.();
    this.#letGo = undefined;
    return held;
  }

  /**
   * The payload of the peer's first frame; undefined when the peer ended the stream without any byte.
   *
   * @throws {ProtocolError} when it sent something else
   */
  async receiveFirst(): Promise<Uint8Array | undefined> {
    const buffer = new Uint8Array(FIRST_READ_BYTES);
    for (;;) {
      const n = await this.#carrier.read(buffer);
      if (n === null) {
        if (this.#parser.isFresh) return undefined;
        throw this.#violation(new ProtocolError("the stream ends within its first frame"));
      }
      const bytes = buffer.subarray(0, n);
      const { event, taken } = this.understand(() => this.#parser.next(bytes));
      if (event?.kind !== "frame") continue;
      this.#awaitsFirst = false;
      if (taken < n) this.#pending = bytes.slice(taken);
      return event.payload;
    }
  }

  /** @throws {ProtocolError} when the peer violates the dialect, or ends the stream without END */
  async read(buffer: Uint8Array): Promise<number | null> {
    if (this.#awaitsFirst) throw new TypeError(`frame ${this.#first} has not been received`);
    if (this.#violated) throw this.#violated;
    if (buffer.length === 0) return 0;
    while (!this.#ended) {
      const n = await this.#fill(buffer);
      if (n === null) throw this.#violation(new ProtocolError("the stream ends without END"));
      const kept = this.understand(() => this.#unframe(buffer.subarray(0, n)));
      if (kept > 0) return kept;
    }
    return null;
  }

  #fill(buffer: Uint8Array): number | Promise<number | null> {
    if (this.#pending.length === 0) return this.#carrier.read(buffer);
    const n = Math.min(buffer.length, this.#pending.length);
    buffer.set(this.#pending.subarray(0, n));
    this.#pending = n < this.#pending.length ? this.#pending.subarray(n) : NO_BYTES;
    return n;
  }

  /** Moves the payloads of DATA frames to the front. Returns how many bytes they are. */
  #unframe(bytes: Uint8Array): number {
    let kept = 0;
    for (let at = 0; at < bytes.length;) {
      const { event, taken } = this.#parser.next(bytes.subarray(at));
      at += taken;
      if (event?.kind === "data") {
        const from = at - event.bytes.length;
        if (from !== kept) bytes.copyWithin(kept, from, at);
        kept += event.bytes.length;
      } else if (event) {
        this.#takeEnd(event.type, event.payload);
        if (at < bytes.length || this.#pending.length > 0) {
          throw new ProtocolError("bytes after END");
        }
      }
    }
    return kept;
  }

  #takeEnd(type: number, payload: Uint8Array): void {
    if (type !== FrameType.End) throw new ProtocolError(`a frame of type ${type} in a tunnel`);
    if (payload.length > 0) throw new ProtocolError("END has a payload");
    this.#ended = true;
  }

  /**
   * Takes what there is room for, as one frame that is announced with all of `bytes`: what has to be written next is the
   * rest of them.
   */
  async write(bytes: Uint8Array): Promise<number> {
    if (bytes.length === 0) return 0;
    if (this.#unwritten > 0) return await this.#writeData(bytes.subarray(0, this.#unwritten));
    const data = bytes.length > MAX_DATA_BYTES ? bytes.subarray(0, MAX_DATA_BYTES) : bytes;
    if (this.#opening) await this.#opening;
    const head = join(this.#takeHeld(), frameHead(FrameType.Data, data.length));
    const first = data.length <= MAX_COPIED_BYTES ? join(head, data) : head;
    let sent = 0;
    while (sent < head.length) sent += await this.#carrier.write(first.subarray(sent));
    const taken = sent - head.length;
    this.#unwritten = data.length - taken;
    return taken > 0 ? taken : await this.#writeData(data);
  }

  async #writeData(data: Uint8Array): Promise<number> {
    const n = await this.#carrier.write(data);
    this.#unwritten -= n;
    return n;
  }

  /**
   * Sends END, waiting for room. Does nothing when the direction has ended already.
   *
   * @throws {TypeError} when the rest of a write is missing; the direction is still open then
   */
  async closeWrite(): Promise<void> {
    if (this.#finished) return;
    if (this.#unwritten > 0) throw new TypeError("the stream is in the middle of a DATA frame");
    this.#finished = true;
    if (this.#opening) await this.#opening;
    await this.#carrier.finish(join(this.#takeHeld(), END));
  }

  abort(code: number = StreamCode.Aborted): void {
    this.#finished = true;
    this.#takeHeld();
    this.#drop();
    this.#carrier.abort(code);
  }

  stop(code: number): void {
    this.#drop();
    this.#carrier.stop(code);
  }

  /** Ends a direction that is still open for writing, by a reset if there is no room for END, and stops the other. */
  async [Symbol.asyncDispose](): Promise<void> {
    const finished = this.closeWrite().catch(() => {});
    // The first frame may have got its room just now.
    if (this.#opening) await new Promise((resolve) => setTimeout(resolve, 0));
    this.#carrier.reset(StreamCode.Aborted);
    await finished;
    this.stop(StreamCode.Aborted);
  }

  #drop(): void {
    this.#pending = NO_BYTES;
  }

  /** Runs what may find the peer's bytes in violation of the dialect: the stream is reset then. */
  understand<T>(parse: () => T): T {
    try {
      return parse();
    } catch (error) {
      throw this.#violation(error);
    }
  }

  #violation(error: unknown): unknown {
    this.#violated ??= error;
    this.abort(StreamCode.ProtocolError);
    return error;
  }
}

function join(first: ArrayLike<number>, second: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}
