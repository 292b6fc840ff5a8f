// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import type { Awaitable } from "../wait.ts";
import { StreamEndedError, StreamResetError, StreamStoppedError } from "./errors.ts";
import { nativeErrorOf } from "./quiche/native.ts";

/** What a stream needs of its connection. */
export interface StreamTransport {
  /**
   * Takes bytes off the stream: count and whether they were the last; null when there are none.
   * Throws native errors.
   */
  streamRecv(id: number, buffer: Uint8Array): [number, boolean] | null;
  /**
   * Whether the peer's direction has ended without anything left to read, which {@linkcode
   * streamRecv} may not tell.
   */
  streamEnded(id: number): boolean;
  /**
   * Puts bytes on the stream: how many were taken, null when there is no room. With `fin`, the last
   * byte takes FIN along. Throws native errors.
   */
  streamSend(id: number, bytes: Uint8Array, fin: boolean): number | null;
  /**
   * Sends FIN behind all that was put on the stream; `readEnded` tells of the other direction.
   * Throws native errors.
   */
  streamFinish(id: number, readEnded: boolean): void;
  /** Sends RESET_STREAM. */
  streamReset(id: number, code: number): void;
  /** Sends STOP_SENDING, and drops what was not read. */
  streamStop(id: number, code: number): void;
  /**
   * Calls `onReadable` whenever there may be something, until it returns true or the stream is
   * done.
   */
  waitReadable(stream: QuicStream): void;
  /** Calls `onWritable` whenever there may be room, until it returns true or the stream is done. */
  waitWritable(stream: QuicStream): void;
  /**
   * Both directions are done: the stream is no longer the connection's concern.
   *
   * @param unread how the peer's direction ended, if not by reading its end
   * @param isCut whether this end's direction was reset, or stopped by the peer
   */
  streamDone(
    stream: QuicStream,
    unread: "reset" | "stopped" | undefined,
    isCut: boolean,
  ): void;
}

interface Waiting<T> {
  readonly bytes: Uint8Array;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

/** How a stream ends that this end has finished. */
const FINISHED = "is closed for writing";

/**
 * What this end may do with a stream: one that goes one way only has its other direction ended from
 * the start.
 */
export type StreamDirection = "both" | "send" | "receive";

/**
 * A QUIC stream (RFC 9000 §2).
 *
 * Each direction ends in one of these ways, and on its own:
 * - *finish* ({@linkcode finish}, {@linkcode closeWrite}): the peer reads everything and then the
 *   end (FIN);
 * - *reset* ({@linkcode reset}): what was not delivered yet is dropped, the peer's reads throw
 *   {@linkcode StreamResetError};
 * - *stop* ({@linkcode stop}): the peer's bytes are dropped from here on, its writes throw
 *   {@linkcode StreamStoppedError};
 * - *close*: the connection ended, everything throws `ConnectionClosedError`. When it was the peer
 *   who closed it, what had come before can still be read.
 *
 * A peer learns of a stream by its first byte or its end, not before. A stop is seen by the next
 * write.
 *
 * Back-pressure: `write` waits while the peer's window or the congestion window is full; bytes that
 * are not read stay within the stream window of `TransportOptions`, and once it is full the peer's
 * writes wait.
 */
export class QuicStream implements Duplex {
  /** Stream id (RFC 9000 §2.1), unique in its connection. */
  readonly id: number;
  readonly #transport: StreamTransport;
  #reading: Waiting<number | null> | undefined;
  #writing: Waiting<number> & { readonly fin: boolean } | undefined;
  /**
   * How the peer's direction ended: in order (null), by a failure, or as this end had it, in the
   * words of what a read throws.
   */
  #readEnd: null | Error | string | undefined;
  #writeEnd: Error | string | undefined;
  #isReset = false;
  #unread: "reset" | "stopped" | undefined;
  /**
   * What a read throws once nothing is left of what had come before the peer closed the connection.
   */
  #closed: Error | undefined;

  /** @internal Streams come from `QuicConnection`. */
  constructor(id: number, transport: StreamTransport, direction: StreamDirection = "both") {
    this.id = id;
    this.#transport = transport;
    if (direction === "send") this.#readEnd = "is write-only";
    if (direction === "receive") this.#writeEnd = "is read-only";
  }

  /** @internal Whether nothing is written any more. */
  get isWriteEnded(): boolean {
    return this.#writeEnd !== undefined;
  }

  /** @throws {StreamResetError | StreamEndedError | ConnectionClosedError} see the class */
  read(buffer: Uint8Array): Awaitable<number | null> {
    if (this.#reading) throw new TypeError(`stream ${this.id} is already being read`);
    const n = this.#tryRead(buffer);
    if (n !== undefined) return n;
    return new Promise<number | null>((resolve, reject) => {
      this.#reading = { bytes: buffer, resolve, reject };
      this.#transport.waitReadable(this);
    });
  }

  /** Undefined when there is nothing yet. */
  #tryRead(buffer: Uint8Array): number | null | undefined {
    if (this.#readEnd === null) return null;
    if (this.#readEnd !== undefined) throw this.#thrown(this.#readEnd);
    let got: [number, boolean] | null;
    try {
      got = this.#transport.streamRecv(this.id, buffer);
    } catch (error) {
      throw this.#endRead(this.#errorOf(error));
    }
    if (!got) {
      if (!this.#transport.streamEnded(this.id)) {
        if (!this.#closed) return undefined;
        // Bytes with a gap before them.
        this.#transport.streamStop(this.id, 0);
        throw this.#endRead(this.#closed);
      }
      this.#unread = "stopped";
      this.#endRead(null);
      return null;
    }
    const [n, fin] = got;
    if (fin) this.#endRead(null);
    return n > 0 ? n : fin ? null : undefined;
  }

  /** @throws {StreamStoppedError | StreamEndedError | ConnectionClosedError} see the class */
  write(bytes: Uint8Array): Awaitable<number> {
    if (this.#writing) throw new TypeError(`stream ${this.id} is already being written`);
    if (bytes.length === 0 && !this.#writeEnd) return 0;
    return this.#put(bytes, false);
  }

  /**
   * Writes these last bytes, at least one, and finishes the writing direction: FIN goes in one
   * frame with the last byte.
   *
   * @throws {StreamStoppedError | StreamEndedError | ConnectionClosedError} see the class
   */
  finish(last: Uint8Array): Awaitable<void> {
    if (this.#writing) throw new TypeError(`stream ${this.id} is already being written`);
    if (last.length === 0) throw new TypeError("there is no last byte");
    const taken = this.#put(last, true);
    if (taken !== last.length) return this.#finishRest(last, taken);
  }

  async #finishRest(last: Uint8Array, taken: Awaitable<number>): Promise<void> {
    for (let at = await taken; at < last.length;) at += await this.#put(last.subarray(at), true);
  }

  #put(bytes: Uint8Array, fin: boolean): Awaitable<number> {
    const n = this.#tryWrite(bytes, fin);
    if (n > 0) return n;
    return new Promise<number>((resolve, reject) => {
      this.#writing = { bytes, fin, resolve, reject };
      this.#transport.waitWritable(this);
    });
  }

  #tryWrite(bytes: Uint8Array, fin: boolean): number {
    if (this.#writeEnd !== undefined) throw this.#thrown(this.#writeEnd);
    let n: number;
    try {
      n = this.#transport.streamSend(this.id, bytes, fin) ?? 0;
    } catch (error) {
      throw this.#endWrite(this.#errorOf(error));
    }
    if (fin && n === bytes.length) {
      this.#writeEnd = FINISHED;
      if (this.#readEnd !== undefined) this.#done();
    }
    return n;
  }

  /** What a call throws after that end. Most streams end without such a call. */
  #thrown(end: Error | string): Error {
    return typeof end === "string" ? new StreamEndedError(this.id, end) : end;
  }

  /**
   * Finishes the writing direction (FIN, in a frame of its own). Does nothing when it has ended
   * already.
   */
  closeWrite(): void {
    if (this.#writing) throw new TypeError(`stream ${this.id} is being written`);
    if (this.#writeEnd) return;
    try {
      this.#transport.streamFinish(this.id, this.#readEnd !== undefined);
    } catch (error) {
      throw this.#endWrite(this.#errorOf(error));
    }
    this.#endWrite(FINISHED);
  }

  /** Resets the writing direction. @param code application error code for the peer */
  reset(code: number): void {
    if (this.#writeEnd) return;
    this.#transport.streamReset(this.id, code);
    this.#isReset = true;
    this.#endWrite("was reset");
  }

  /** Stops the reading direction. @param code application error code for the peer */
  stop(code: number): void {
    if (this.#readEnd !== undefined) return;
    this.#transport.streamStop(this.id, code);
    this.#unread = "stopped";
    this.#endRead("was stopped");
  }

  /** Whether the peer has stopped the writing direction: only a write, of no bytes here, tells. */
  isReset(): boolean {
    if (this.#writeEnd !== undefined || this.#writing) return false;
    try {
      this.#tryWrite(NO_BYTES, false);
      return false;
    } catch {
      return true;
    }
  }

  /** Resets and stops: ends both directions at once. Idempotent. */
  abort(code = 0): void {
    this.reset(code);
    this.stop(code);
  }

  /**
   * Finishes a direction that is still open for writing and stops one that is still open for
   * reading.
   */
  // deno-lint-ignore require-await
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#writing) this.reset(0);
    else {
      try {
        this.closeWrite();
      } catch {
        // It has ended otherwise.
      }
    }
    this.stop(0);
  }

  /** @internal There may be something to read. Returns whether the stream waits no longer. */
  onReadable(): boolean {
    const reading = this.#reading;
    if (!reading) return true;
    try {
      const n = this.#tryRead(reading.bytes);
      if (n === undefined) return false;
      this.#reading = undefined;
      reading.resolve(n);
    } catch {
      // #endRead has told the reader.
    }
    return true;
  }

  /** @internal There may be room. Returns whether the stream waits no longer. */
  onWritable(): boolean {
    const writing = this.#writing;
    if (!writing) return true;
    try {
      const n = this.#tryWrite(writing.bytes, writing.fin);
      if (n === 0) return false;
      this.#writing = undefined;
      writing.resolve(n);
    } catch {
      // #endWrite has told the writer.
    }
    return true;
  }

  /** @internal The connection ended. @param unread whether there is something left to be read */
  onClosed(error: Error, unread: boolean): void {
    if (this.#writeEnd === undefined) this.#endWrite(error);
    if (this.#readEnd !== undefined) return;
    if (!unread) {
      this.#endRead(error);
      return;
    }
    this.#closed = error;
    // Whoever does not want it needs not say so.
    this.#done();
    this.onReadable();
  }

  #errorOf(error: unknown): Error {
    const { name, code } = nativeErrorOf(error);
    if (name === "StreamReset") {
      this.#unread = "reset";
      return new StreamResetError(this.id, code);
    }
    if (name === "StreamStopped") return new StreamStoppedError(this.id, code);
    // quiche has dropped a stream that was stopped and whose other direction was over.
    if (name === "InvalidStreamState") return new StreamStoppedError(this.id, this.#resetCode ?? 0);
    return error instanceof Error ? error : new Error(name);
  }

  get #resetCode(): number | undefined {
    return this.#readEnd instanceof StreamResetError ? this.#readEnd.code : undefined;
  }

  #done(): void {
    const isCut = this.#isReset || this.#writeEnd instanceof StreamStoppedError;
    this.#transport.streamDone(this, this.#unread, isCut);
  }

  #endRead<End extends null | Error | string>(end: End): End {
    this.#readEnd = end;
    if (this.#reading && end !== null) {
      const { reject } = this.#reading;
      this.#reading = undefined;
      reject(this.#thrown(end));
    }
    if (this.#writeEnd !== undefined) this.#done();
    return end;
  }

  #endWrite<End extends Error | string>(end: End): End {
    this.#writeEnd = end;
    if (this.#writing) {
      const { reject } = this.#writing;
      this.#writing = undefined;
      reject(this.#thrown(end));
    }
    if (this.#readEnd !== undefined) this.#done();
    return end;
  }
}
