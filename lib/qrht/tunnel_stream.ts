// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { clearImmediate, setImmediate } from "node:timers";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import { TunnelError } from "../tunnel/errors.ts";
import { keepBuffer, takeBuffer } from "../tunnel/read_buffer.ts";
import { andThen, type Awaitable, sleep } from "../wait.ts";
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
  finish(last: Uint8Array): Awaitable<void>;
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

/** Room for the peer's first frame and what arrives together with it: a size of a `ReadBuffer`. */
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
  sendFirst(type: FirstFrame, payload: Uint8Array): Awaitable<void> {
    return this.#open(encodeFrame(type, payload));
  }

  #open(first: Uint8Array): Awaitable<void> {
    const opening = writeAll(this.#stream, first);
    if (!opening) return;
    this.#opening = opening.then(() => this.#opening = undefined);
    return this.#opening;
  }

  /**
   * Sends this end's first frame together with what is written next, or alone when the hold is
   * over.
   *
   * @param failed is called when it is sent alone and that fails; otherwise, the write that it goes
   * with throws
   */
  holdFirst(
    type: FirstFrame,
    payload: Uint8Array,
    hold: (send: () => void) => () => void,
    failed: (error: unknown) => void,
  ): void {
    this.#held = encodeFrame(type, payload);
    this.#endHold = hold(async () => {
      this.#endHold = undefined;
      try {
        await this.#open(this.#takeHeld());
      } catch (error) {
        failed(error);
      }
    });
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
  receiveFirst(): Awaitable<Uint8Array | undefined> {
    const buffer = takeBuffer(FIRST_READ_BYTES);
    return andThen(this.#stream.read(buffer), (n) => this.#takeFirst(buffer, n));
  }

  #takeFirst(buffer: Uint8Array<ArrayBuffer>, n: number | null): Awaitable<Uint8Array | undefined> {
    if (n === null) {
      if (this.#parser.isFresh) return undefined;
      throw this.#reset(new ProtocolError("the stream ends within its first frame"));
    }
    const bytes = buffer.subarray(0, n);
    const { event, taken } = this.parseOrReset(() => this.#parser.next(bytes));
    if (event?.kind !== "frame") return this.#receiveRest(buffer);
    this.#awaitsFirst = false;
    if (taken < n) this.#pending = bytes.slice(taken);
    keepBuffer(buffer);
    return event.payload;
  }

  async #receiveRest(buffer: Uint8Array<ArrayBuffer>): Promise<Uint8Array | undefined> {
    return this.#takeFirst(buffer, await this.#stream.read(buffer));
  }

  /** @throws {ProtocolError} when the peer violates the dialect
   * @throws {TunnelError} when it ends the stream without END
   */
  read(buffer: Uint8Array): Awaitable<number | null> {
    if (this.#awaitsFirst) throw new TypeError(`frame ${this.#first} has not been received`);
    if (this.#violation) throw this.#violation;
    if (buffer.length === 0) return 0;
    if (this.#ended) return null;
    return andThen(this.#fill(buffer), (n) => {
      const taken = this.#take(buffer, n);
      return taken === 0 ? this.#readOn(buffer) : taken;
    });
  }

  /** As many bytes that give nothing may come as the peer likes. */
  async #readOn(buffer: Uint8Array): Promise<number | null> {
    for (;;) {
      const taken = this.#take(buffer, await this.#fill(buffer));
      if (taken !== 0) return taken;
    }
  }

  /** What `n` bytes of the stream give: so many bytes of the tunnel, or its end (null). */
  #take(buffer: Uint8Array, n: number | null): number | null {
    if (n === null) throw this.#cutOff();
    const kept = this.parseOrReset(() => this.#unframe(buffer.subarray(0, n)));
    return kept === 0 && this.#ended ? null : kept;
  }

  #fill(buffer: Uint8Array): Awaitable<number | null> {
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
      const { event, taken } = this.#parser.next(at === 0 ? bytes : bytes.subarray(at));
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
  write(bytes: Uint8Array): Awaitable<number> {
    if (bytes.length === 0) return 0;
    if (this.#unwritten > 0) return this.#writeData(bytes.subarray(0, this.#unwritten));
    if (this.#opening) return this.#opening.then(() => this.write(bytes));
    const data = bytes.length > MAX_DATA_BYTES ? bytes.subarray(0, MAX_DATA_BYTES) : bytes;
    const held = this.#takeHeld();
    const head = frameHead(FrameType.Data, data.length);
    const headBytes = held.length + head.length;
    const first = join(held, head, data.length <= MAX_COPIED_BYTES ? data : NO_BYTES);
    return andThen(this.#stream.write(first), (sent) => this.#sent(first, headBytes, data, sent));
  }

  /** So much of `first`, the head and perhaps the data, is sent. */
  #sent(
    first: Uint8Array,
    headBytes: number,
    data: Uint8Array,
    sent: number,
  ): Awaitable<number> {
    if (sent < headBytes) {
      const rest = first.subarray(sent);
      return andThen(
        this.#stream.write(rest),
        (n) => this.#sent(rest, headBytes - sent, data, n),
      );
    }
    const taken = sent - headBytes;
    this.#unwritten = data.length - taken;
    return taken > 0 ? taken : this.#writeData(data);
  }

  #writeData(data: Uint8Array): Awaitable<number> {
    return andThen(this.#stream.write(data), (n) => {
      this.#unwritten -= n;
      return n;
    });
  }

  /**
   * Sends END, waiting for room. Does nothing when the direction has ended already.
   *
   * @throws {TypeError} in the middle of a DATA frame; the direction stays open then
   */
  closeWrite(): Awaitable<void> {
    if (this.#finished) return;
    if (this.#unwritten > 0) throw new TypeError("the stream is in the middle of a DATA frame");
    this.#finished = true;
    return andThen(this.#opening, () => {
      const held = this.#takeHeld();
      return this.#stream.finish(held.length > 0 ? join(held, END) : END);
    });
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
    const finished = this.#finished ? undefined : this.#finish();
    // There may be room for the first frame only since this turn.
    if (this.#opening) await sleep(0);
    this.#stream.reset(StreamCode.Aborted);
    if (finished) await finished;
    this.stop(StreamCode.Aborted);
  }

  async #finish(): Promise<void> {
    try {
      await this.closeWrite();
    } catch {
      // It is reset.
    }
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

function join(
  first: Uint8Array,
  second: ArrayLike<number>,
  third: Uint8Array = NO_BYTES,
): Uint8Array {
  const bytes = new Uint8Array(first.length + second.length + third.length);
  bytes.set(first);
  bytes.set(second, first.length);
  bytes.set(third, first.length + second.length);
  return bytes;
}
