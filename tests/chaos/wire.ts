// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What clients and targets say to each other: requests and replies whose every byte is known to both, so that none can
 * be wrong, missing or there twice without one of them noticing.
 */
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { checkPattern, patternBytes } from "../support/pattern.ts";

/** Bytes that cannot come about by a connection that ends early: a tunnel has changed what it carried. */
export class WrongBytesError extends Error {
  override readonly name = "WrongBytesError";
}

/** A connection that has ended before everything was there. */
export class CutError extends Error {
  override readonly name = "CutError";
}

/** What a request asks of the target, one bit each. */
export const Ask = {
  /** Sends the reply while the upload comes, not after it. */
  Duplex: 1,
  /** The client ends its direction after the upload; the reply comes after that. */
  ClientEnds: 2,
  /** The target ends its direction after the reply; the client's tail comes after that. */
  TargetEnds: 4,
  /** The target reads slowly, and stops for `pauseMs` in the middle. */
  ReadSlowly: 8,
} as const;

export interface Request {
  /** Number of the tunnel. */
  readonly id: number;
  /** Number of the request within it. */
  readonly sequence: number;
  /** A sum of {@linkcode Ask}. */
  readonly asks: number;
  readonly uploadBytes: number;
  readonly downloadBytes: number;
  readonly tailBytes: number;
  /** Pause of the target's before it replies, or while it reads. */
  readonly pauseMs: number;
}

/** What a target says before it was asked anything, where it speaks first. */
export const GREETING = new TextEncoder().encode("220 at your service\r\n");

const REQUEST = 0x52455155;
const REPLY = 0x5245504c;
const TRAILER = 0x444f4e45;
export const REQUEST_BYTES = 4 * 9;
const REPLY_BYTES = 4 * 5;
const TRAILER_BYTES = 4 * 3;

export function encodeRequest(request: Request): Uint8Array<ArrayBuffer> {
  const { id, sequence, asks, uploadBytes, downloadBytes, tailBytes, pauseMs } = request;
  return words(REQUEST, id, sequence, asks, uploadBytes, downloadBytes, tailBytes, pauseMs);
}

/** @throws {WrongBytesError} when it is none */
export function decodeRequest(bytes: Uint8Array): Request {
  const [, id, sequence, asks, uploadBytes, downloadBytes, tailBytes, pauseMs] = readWords(
    bytes,
    REQUEST,
  ) as [number, number, number, number, number, number, number, number];
  return { id, sequence, asks, uploadBytes, downloadBytes, tailBytes, pauseMs };
}

/** Numbers of 32 bits, and a checksum. */
function words(...values: number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4 * values.length + 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => view.setUint32(4 * i, value));
  view.setUint32(4 * values.length, checksum(bytes.subarray(0, -4)));
  return bytes;
}

function readWords(bytes: Uint8Array, magic: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const values = Array.from({ length: bytes.length / 4 - 1 }, (_, i) => view.getUint32(4 * i));
  if (
    values[0] !== magic || view.getUint32(4 * values.length) !== checksum(bytes.subarray(0, -4))
  ) {
    throw new WrongBytesError(`not a ${magic.toString(16)}: ${bytes.toHex()}`);
  }
  return values;
}

/** FNV-1a. */
function checksum(bytes: Uint8Array): number {
  return bytes.reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193), 0x811c9dc5 | 0) >>> 0;
}

/** Where the bytes of each direction of a request begin in the pattern: elsewhere than those of most others. */
function offsetOf({ id, sequence }: Request, part: "upload" | "download" | "tail"): number {
  return id * 977 + sequence * 4099 + { upload: 0, download: 21_001, tail: 42_002 }[part];
}

/** How the bytes of a reader are read: pauses make it a slow one. */
export interface Pace {
  /** Bytes between two pauses. */
  readonly everyBytes: number;
  readonly pauseMs: number;
  /** One longer pause, in the middle. */
  readonly stopMs: number;
}

/** Told of each step forward, and of each pause that is meant. */
export interface Watch {
  progress(bytes: number): void;
  pause(ms: number): Promise<void>;
}

const PIECE_BYTES = 32 << 10;

/** A connection between a client and a target, at either end. */
export class Wire {
  readonly #duplex: Duplex;
  readonly #watch: Watch;
  readonly #buffer = new Uint8Array(PIECE_BYTES);
  /** What was read but not yet taken. */
  #pending = new Uint8Array(0);

  constructor(duplex: Duplex, watch: Watch) {
    this.#duplex = duplex;
    this.#watch = watch;
  }

  async #fill(): Promise<boolean> {
    const n = await this.#duplex.read(this.#buffer);
    this.#watch.progress(n ?? 0);
    this.#pending = this.#buffer.subarray(0, n ?? 0);
    return n !== null;
  }

  /** As many bytes as asked for; undefined when the connection has ended in order before the first. */
  async receiveUnlessEnded(length: number): Promise<Uint8Array | undefined> {
    const bytes = new Uint8Array(length);
    for (let got = 0; got < length;) {
      if (this.#pending.length === 0 && !await this.#fill()) {
        if (got === 0) return undefined;
        throw new CutError(`ended after ${got} of ${length} bytes`);
      }
      const taken = this.#pending.subarray(0, length - got);
      bytes.set(taken, got);
      got += taken.length;
      this.#pending = this.#pending.subarray(taken.length);
    }
    return bytes;
  }

  /** @throws {CutError} when there are not that many */
  async receive(length: number): Promise<Uint8Array> {
    const bytes = await this.receiveUnlessEnded(length);
    if (!bytes) throw new CutError(`ended where ${length} bytes were to come`);
    return bytes;
  }

  /** A head of HTTP, with its empty line. */
  async receiveHead(): Promise<string> {
    let head = "";
    while (!head.endsWith("\r\n\r\n")) {
      if (head.length > 4096) throw new WrongBytesError("the head does not end");
      head += String.fromCharCode((await this.receive(1))[0]!);
    }
    return head;
  }

  async #receivePattern(offset: number, length: number, pace?: Pace): Promise<void> {
    let nextPause = pace?.everyBytes ?? Infinity;
    let stopAt = pace ? length / 2 : Infinity;
    for (let got = 0; got < length;) {
      if (this.#pending.length === 0 && !await this.#fill()) {
        throw new CutError(`ended after ${got} of ${length} bytes`);
      }
      const taken = this.#pending.subarray(0, length - got);
      try {
        checkPattern(taken, offset + got);
      } catch (error) {
        throw new WrongBytesError(`${(error as Error).message}, which began at ${offset}`);
      }
      got += taken.length;
      this.#pending = this.#pending.subarray(taken.length);
      if (got >= nextPause) {
        await this.#watch.pause(pace!.pauseMs);
        nextPause += pace!.everyBytes;
      }
      if (got >= stopAt) {
        await this.#watch.pause(pace!.stopMs);
        stopAt = Infinity;
      }
    }
  }

  /** @throws {WrongBytesError} when something comes before the end */
  async receiveEnd(): Promise<void> {
    if (this.#pending.length > 0 || await this.#fill()) {
      const { length } = this.#pending;
      const first = this.#pending.subarray(0, 32).toHex();
      throw new WrongBytesError(`${length} bytes where the end was to come: ${first}`);
    }
  }

  async send(bytes: Uint8Array): Promise<void> {
    await writeAll(this.#duplex, bytes);
    this.#watch.progress(bytes.length);
  }

  async #sendPattern(offset: number, length: number): Promise<void> {
    for (let sent = 0; sent < length;) {
      const piece = patternBytes(offset + sent, Math.min(PIECE_BYTES, length - sent));
      await this.send(piece);
      sent += piece.length;
    }
  }

  async sendUpload(request: Request): Promise<void> {
    await this.#sendPattern(offsetOf(request, "upload"), request.uploadBytes);
  }

  async receiveUpload(request: Request, pace?: Pace): Promise<void> {
    await this.#receivePattern(offsetOf(request, "upload"), request.uploadBytes, pace);
  }

  async sendTail(request: Request): Promise<void> {
    await this.#sendPattern(offsetOf(request, "tail"), request.tailBytes);
  }

  async receiveTail(request: Request): Promise<void> {
    await this.#receivePattern(offsetOf(request, "tail"), request.tailBytes);
  }

  /** The reply up to its trailer, which says that the upload was there. */
  async sendReply(request: Request, uploaded: Promise<void>): Promise<void> {
    const { id, sequence, downloadBytes } = request;
    await this.send(words(REPLY, id, sequence, downloadBytes));
    await this.#sendPattern(offsetOf(request, "download"), downloadBytes);
    await uploaded;
    await this.send(words(TRAILER, id));
  }

  async receiveReply(request: Request, pace?: Pace): Promise<void> {
    const { id, sequence, downloadBytes } = request;
    const head = readWords(await this.receive(REPLY_BYTES), REPLY);
    if (head[1] !== id || head[2] !== sequence || head[3] !== downloadBytes) {
      throw new WrongBytesError(`a reply to another request: ${head} for ${id}, ${sequence}`);
    }
    await this.#receivePattern(offsetOf(request, "download"), downloadBytes, pace);
    const trailer = readWords(await this.receive(TRAILER_BYTES), TRAILER);
    if (trailer[1] !== id) throw new WrongBytesError(`the trailer of tunnel ${trailer[1]}`);
  }

  async end(): Promise<void> {
    await this.#duplex.closeWrite();
  }
}
