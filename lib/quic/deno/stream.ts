// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { AgentStream } from "../agent_connection.ts";
import { StreamEndedError } from "../errors.ts";
import { streamErrorOf } from "./errors.ts";

/** What a stream needs of its connection. */
export interface DenoStreamHost {
  /** Why nothing can be read or written any more: the connection has ended, or is about to. */
  closedError(): Promise<Error>;
  /** Both directions are done. */
  streamDone(stream: DenoQuicStream): void;
}

/** Bytes that are handed over at a time. */
const MAX_WRITE_BYTES = 64 << 10;

/** Writes of more bytes than this use one of the buffers that are kept. */
const SMALL_BYTES = 4 << 10;

const MAX_SPARE_BUFFERS = 16;
const spareBuffers: Uint8Array<ArrayBuffer>[] = [];

type Reject = (error: Error) => void;

/** How a direction ends that this end has ended, in the words of what a call throws then. */
const FINISHED = "is closed for writing";

/**
 * A stream of Deno's QUIC, as `QuicStream` is one of the binding's.
 *
 * Deno cannot reset a stream: what a reset means here is that the peer reads FIN where something
 * else has to come first, so only dialects that mark their ends may be spoken. A write that waits
 * for room when the stream is reset goes out when there is room, and FIN behind it.
 */
export class DenoQuicStream implements AgentStream {
  readonly id: number;
  readonly #host: DenoStreamHost;
  readonly #reader: ReadableStreamBYOBReader | undefined;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array> | undefined;
  /** For the next read: each takes its buffer away until it is over. */
  #buffer: Uint8Array<ArrayBuffer> | undefined;
  #reading: Reject | undefined;
  #writing: Reject | undefined;
  #readEnd: null | Error | string | undefined;
  #writeEnd: Error | string | undefined;

  /** @internal Streams come from `DenoQuicConnection`. */
  constructor(
    id: number,
    host: DenoStreamHost,
    readable: ReadableStream<Uint8Array> | undefined,
    writable: WritableStream<Uint8Array> | undefined,
  ) {
    this.id = id;
    this.#host = host;
    this.#reader = readable?.getReader({ mode: "byob" });
    this.#writer = writable?.getWriter();
    // Told by the calls.
    this.#reader?.closed.catch(() => {});
    this.#writer?.closed.catch(() => {});
    if (!readable) this.#readEnd = "is write-only";
    if (!writable) this.#writeEnd = "is read-only";
  }

  /** @throws {StreamResetError | StreamEndedError | ConnectionClosedError} as `QuicStream` */
  async read(buffer: Uint8Array): Promise<number | null> {
    if (this.#reading) throw new TypeError(`stream ${this.id} is already being read`);
    if (this.#readEnd === null) return null;
    if (this.#readEnd !== undefined) throw this.#thrown(this.#readEnd);
    const own = this.#buffer?.length === buffer.length
      ? this.#buffer
      : new Uint8Array(buffer.length);
    this.#buffer = undefined;
    const ended = new Promise<never>((_, reject) => this.#reading = reject);
    try {
      const { value, done } = await Promise.race([this.#reader!.read(own), ended]);
      if (done) {
        this.#endRead(null);
        return null;
      }
      buffer.set(value);
      this.#buffer = new Uint8Array(value.buffer);
      return value.length;
    } catch (error) {
      if (this.#readEnd) throw this.#thrown(this.#readEnd);
      throw this.#endRead(streamErrorOf(this.id, error) ?? await this.#host.closedError());
    } finally {
      this.#reading = undefined;
    }
  }

  /** @throws {StreamStoppedError | StreamEndedError | ConnectionClosedError} as `QuicStream` */
  async write(bytes: Uint8Array): Promise<number> {
    if (this.#writing) throw new TypeError(`stream ${this.id} is already being written`);
    if (this.#writeEnd !== undefined) throw this.#thrown(this.#writeEnd);
    if (bytes.length === 0) return 0;
    // Whoever takes a write back may use the bytes for something else, while Deno still sends them.
    const own = copyOf(bytes.length > MAX_WRITE_BYTES ? bytes.subarray(0, MAX_WRITE_BYTES) : bytes);
    const ended = new Promise<never>((_, reject) => this.#writing = reject);
    try {
      await Promise.race([this.#writer!.write(own), ended]);
      keep(own);
      return own.length;
    } catch (error) {
      if (this.#writeEnd) throw this.#thrown(this.#writeEnd);
      throw this.#endWrite(streamErrorOf(this.id, error) ?? await this.#host.closedError());
    } finally {
      this.#writing = undefined;
    }
  }

  async finish(last: Uint8Array): Promise<void> {
    if (last.length === 0) throw new TypeError("there is no last byte");
    for (let offset = 0; offset < last.length;) {
      offset += await this.write(last.subarray(offset));
    }
    await this.closeWrite();
  }

  async closeWrite(): Promise<void> {
    if (this.#writing) throw new TypeError(`stream ${this.id} is being written`);
    if (this.#writeEnd !== undefined) return;
    this.#endWrite(FINISHED);
    try {
      await this.#writer!.close();
    } catch (error) {
      throw streamErrorOf(this.id, error) ?? await this.#host.closedError();
    }
  }

  /** Ends the writing direction without what marks its end. @param _code is not sent */
  reset(_code: number): void {
    if (this.#writeEnd !== undefined) return;
    this.#endWrite("was reset");
    this.#writer!.abort().catch(() => {});
  }

  /**
   * Stops the reading direction. If a read is under way, the peer learns of it with its next byte.
   *
   * @param _code the peer sees 0
   */
  stop(_code: number): void {
    if (this.#readEnd !== undefined) return;
    this.#endRead("was stopped");
    this.#reader!.cancel().catch(() => {});
  }

  abort(code = 0): void {
    this.reset(code);
    this.stop(code);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#writing) this.reset(0);
    else await this.closeWrite().catch(() => {});
    this.stop(0);
  }

  /** @internal The connection has ended, and its streams with it. */
  onClosed(error: Error): void {
    if (this.#writeEnd === undefined) this.#endWrite(error);
    if (this.#readEnd === undefined) this.#endRead(error);
  }

  #thrown(end: Error | string): Error {
    return typeof end === "string" ? new StreamEndedError(this.id, end) : end;
  }

  #endRead<End extends null | Error | string>(end: End): End {
    this.#readEnd ??= end;
    this.#buffer = undefined;
    if (end !== null) this.#reading?.(this.#thrown(end));
    if (this.#writeEnd !== undefined) this.#host.streamDone(this);
    return end;
  }

  #endWrite<End extends Error | string>(end: End): End {
    this.#writeEnd ??= end;
    this.#writing?.(this.#thrown(end));
    if (this.#readEnd !== undefined) this.#host.streamDone(this);
    return end;
  }
}

function copyOf(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  if (bytes.length <= SMALL_BYTES) return bytes.slice();
  const own = spareBuffers.pop() ?? new Uint8Array(MAX_WRITE_BYTES);
  own.set(bytes);
  return own.subarray(0, bytes.length);
}

/** To be called when the bytes are sent, and not when the write was given up. */
function keep({ buffer }: Uint8Array<ArrayBuffer>): void {
  const isSpare = buffer.byteLength === MAX_WRITE_BYTES && spareBuffers.length < MAX_SPARE_BUFFERS;
  if (isSpare) spareBuffers.push(new Uint8Array(buffer));
}
