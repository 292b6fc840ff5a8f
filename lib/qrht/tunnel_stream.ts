// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { clearImmediate, setImmediate } from "node:timers";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import { TunnelError } from "../tunnel/errors.ts";
import { StreamCode } from "./codes.ts";
import {
  encodeFrame,
  frameHead,
  FrameParser,
  FrameType,
  MAX_DATA_BYTES,
  ProtocolError,
} from "./frame.ts";

/** What a tunnel stream needs of a bidirectional QUIC stream. */
export interface BidiStream extends Duplex {
  /** Writes these last bytes together with the end. */
  finish(last: Uint8Array): Promise<void>;
  reset(code: number): void;
  stop(code: number): void;
}

/** Types of the first frames of a tunnel stream. */
type FirstFrame = typeof FrameType.Open | typeof FrameType.Result;

/**
 * Payloads of DATA up to this length are copied behind the head of their frame, for one write
 * instead of two.
 */
const MAX_COPIED_BYTES = 4096;

/**
 * How long a first frame is held back, so that one packet can carry it together with the first
 * bytes of the tunnel. Each calls `send` when that time is over, and returns a function that
 * cancels this.
 */
export const Hold = {
  /** Until the end of this turn of the event loop. */
  forTurn(send: () => void): () => void {
    const turn = setImmediate(send);
    return () => clearImmediate(turn);
  },
  /** For a time. */
  for(ms: number): (send: () => void) => () => void {
    return (send) => {
      const timer = setTimeout(send, ms);
      return () => clearTimeout(timer);
    };
  },
} as const;

/** Room for the peer's first frame and what arrives together with it. */
const FIRST_READ_BYTES = 2048;

const END = encodeFrame(FrameType.End, NO_BYTES);

/**
 * One end of a tunnel stream (docs/protocol.md, "Tunnel streams"): its bytes travel in DATA frames
 * and end with END.
 *
 * Each end sends its first frame before anything else, and takes the peer's first before it reads.
 */
export class TunnelStream implements Duplex {
  readonly #stream: BidiStream;
  readonly #parser: FrameParser;
  readonly #first: number;
  #awaitsFirst = true;
  /** What arrived together with the peer's first frame. */
  #pending: Uint8Array = NO_BYTES;
  /** This end's first frame while it waits for room. */
  #opening: Promise<void> | undefined;
  /** This end's first frame while it is held back. */
  #held: Uint8Array = NO_BYTES;
  #endHold: (() => void) | undefined;
  /** Bytes that are left to write of the present DATA frame. */
  #unwritten = 0;
  /** How the peer has violated the dialect. */
  #violation: unknown;
  /** Whether END has arrived. */
  #ended = false;
  /** Whether END was sent, or can no longer be. */
  #finished = false;

  /** @param first type of the frame that the peer begins with */
  constructor(stream: BidiStream, first: FirstFrame) {
    this.#stream = stream;
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
    this.#opening = writeAll(this.#stream, first);
    await this.#opening;
    this.#opening = undefined;
  }

  /**
   * Sends this end's first frame together with what is written next, or alone when the hold is
   * over. Resolves when it is sent.
   *
   * @throws when it is sent alone and that fails; otherwise, the write that it goes with throws
   */
  holdFirst(
    type: FirstFrame,
    payload: Uint8Array,
    hold: (send: () => void) => () => void,
  ): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#held = encodeFrame(type, payload);
    const cancel = hold(() => {
      this.#endHold = undefined;
      this.#open(this.#takeHeld()).then(resolve, reject);
    });
    this.#endHold = () => {
      cancel();
      resolve();
    };
    return promise;
  }

  #takeHeld(): Uint8Array {
    const held = this.#held;
    this.#held = NO_BYTES;
    this.#endHold?.();
    this.#endHold = undefined;
    return held;
  }

  /**
   * The payload of the peer's first frame; undefined when the peer ended the stream before any
   * byte.
   *
   * @throws {ProtocolError} when it sent something else; the stream is reset then
   */
  async receiveFirst(): Promise<Uint8Array | undefined> {
    const buffer = new Uint8Array(FIRST_READ_BYTES);
    for (;;) {
      const n = await this.#stream.read(buffer);
      if (n === null) {
        if (this.#parser.isFresh) return undefined;
        throw this.#reset(new ProtocolError("the stream ends within its first frame"));
      }
      const bytes = buffer.subarray(0, n);
      const { event, taken } = this.parseOrReset(() => this.#parser.next(bytes));
      if (event?.kind !== "frame") continue;
      this.#awaitsFirst = false;
      if (taken < n) this.#pending = bytes.slice(taken);
      return event.payload;
    }
  }

  /** @throws {ProtocolError} when the peer violates the dialect
   * @throws {TunnelError} when it ends the stream without END
   */
  async read(buffer: Uint8Array): Promise<number | null> {
    if (this.#awaitsFirst) throw new TypeError(`frame ${this.#first} has not been received`);
    if (this.#violation) throw this.#violation;
    if (buffer.length === 0) return 0;
    while (!this.#ended) {
      const n = await this.#fill(buffer);
      if (n === null) throw this.#cutOff();
      const kept = this.parseOrReset(() => this.#unframe(buffer.subarray(0, n)));
      if (kept > 0) return kept;
    }
    return null;
  }

  #fill(buffer: Uint8Array): number | Promise<number | null> {
    if (this.#pending.length === 0) return this.#stream.read(buffer);
    const n = Math.min(buffer.length, this.#pending.length);
    buffer.set(this.#pending.subarray(0, n));
    this.#pending = n < this.#pending.length ? this.#pending.subarray(n) : NO_BYTES;
    return n;
  }

  /** Moves the payloads of DATA frames to the front, and returns their length in all. */
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
   * Writes as many of the bytes as there is room for. The head of the frame announces all of them,
   * so that the next write has to begin with the rest.
   */
  async write(bytes: Uint8Array): Promise<number> {
    if (bytes.length === 0) return 0;
    if (this.#unwritten > 0) return await this.#writeData(bytes.subarray(0, this.#unwritten));
    const data = bytes.length > MAX_DATA_BYTES ? bytes.subarray(0, MAX_DATA_BYTES) : bytes;
    if (this.#opening) await this.#opening;
    const head = join(this.#takeHeld(), frameHead(FrameType.Data, data.length));
    const first = data.length <= MAX_COPIED_BYTES ? join(head, data) : head;
    let sent = 0;
    while (sent < head.length) sent += await this.#stream.write(first.subarray(sent));
    const taken = sent - head.length;
    this.#unwritten = data.length - taken;
    return taken > 0 ? taken : await this.#writeData(data);
  }

  async #writeData(data: Uint8Array): Promise<number> {
    const n = await this.#stream.write(data);
    this.#unwritten -= n;
    return n;
  }

  /**
   * Sends END, waiting for room. Does nothing when the direction has ended already.
   *
   * @throws {TypeError} in the middle of a DATA frame; the direction stays open then
   */
  async closeWrite(): Promise<void> {
    if (this.#finished) return;
    if (this.#unwritten > 0) throw new TypeError("the stream is in the middle of a DATA frame");
    this.#finished = true;
    if (this.#opening) await this.#opening;
    await this.#stream.finish(join(this.#takeHeld(), END));
  }

  abort(code: number = StreamCode.Aborted): void {
    this.#finished = true;
    this.#takeHeld();
    this.#drop();
    this.#stream.abort(code);
  }

  stop(code: number): void {
    this.#drop();
    this.#stream.stop(code);
  }

  isReset(): boolean {
    return this.#stream.isReset?.() ?? false;
  }

  /**
   * Ends a direction that is still open for writing, by a reset if there is no room for END, and
   * stops the other.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    const finished = this.closeWrite().catch(() => {});
    // There may be room for the first frame only since this turn.
    if (this.#opening) await new Promise((resolve) => setTimeout(resolve, 0));
    this.#stream.reset(StreamCode.Aborted);
    await finished;
    this.stop(StreamCode.Aborted);
  }

  #drop(): void {
    this.#pending = NO_BYTES;
  }

  /**
   * Calls a parser of what the peer has sent. When that throws, the peer has violated the dialect:
   * the stream is reset.
   */
  parseOrReset<T>(parse: () => T): T {
    try {
      return parse();
    } catch (error) {
      throw this.#reset(error);
    }
  }

  /** FIN in place of END: all that an end without RESET_STREAM can do. */
  #cutOff(): unknown {
    this.#violation ??= new TunnelError(undefined, "reset", "the stream ends without END");
    this.abort(StreamCode.Aborted);
    return this.#violation;
  }

  #reset(violation: unknown): unknown {
    this.#violation ??= violation;
    this.abort(StreamCode.ProtocolError);
    return violation;
  }
}

function join(first: ArrayLike<number>, second: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}
