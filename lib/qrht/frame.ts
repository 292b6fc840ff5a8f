// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { TunnelError } from "../tunnel/errors.ts";
import { decodeVarint, encodeVarint, varintLength } from "../varint.ts";

/** What every stream of the dialect is made of (docs/protocol.md, "Frames"). */
export const FrameType = {
  Data: 0x00,
  End: 0x01,
  Open: 0x02,
  Result: 0x03,
  Hello: 0x10,
  Drain: 0x11,
  Arrived: 0x12,
  Ping: 0x13,
  Pong: 0x14,
} as const;

/** Longest payload of a frame that is not DATA, in bytes. */
export const MAX_PAYLOAD_BYTES = 4096;

/** Longest payload of a DATA frame, in bytes. */
export const MAX_DATA_BYTES = 2 ** 30 - 1;

/** Type and length, each a number of up to 8 bytes. */
const MAX_HEAD_BYTES = 16;

const known: readonly number[] = Object.values(FrameType);

/** The peer has sent what the dialect does not allow. */
export class ProtocolError extends TunnelError {
  override readonly name = "ProtocolError";
  constructor(message: string) {
    super("peer", "protocol-error", message);
  }
}

/** Type and length of a frame, to be followed by as many bytes. */
export function frameHead(type: number, payloadBytes: number): number[] {
  return encodeVarint(type).concat(encodeVarint(payloadBytes));
}

/** A whole frame. */
export function encodeFrame(type: number, payload: Uint8Array): Uint8Array {
  const head = frameHead(type, payload.length);
  const frame = new Uint8Array(head.length + payload.length);
  frame.set(head);
  frame.set(payload, head.length);
  return frame;
}

/** Length of the head at an offset; undefined when it is not complete at `end`. */
function headLength(bytes: Uint8Array, at: number, end: number): number | undefined {
  if (at >= end) return undefined;
  const typeBytes = varintLength(bytes[at]!);
  if (at + typeBytes >= end) return undefined;
  const length = typeBytes + varintLength(bytes[at + typeBytes]!);
  return at + length > end ? undefined : length;
}

/** A frame that was read, or the next piece of a DATA frame. */
export type FrameEvent =
  | { readonly kind: "data"; readonly bytes: Uint8Array }
  | { readonly kind: "frame"; readonly type: number; readonly payload: Uint8Array };

/**
 * Reads frames from bytes as they come, however they are cut. Holds one payload at most; DATA goes
 * through as it is, and frames of unknown types are skipped.
 */
export class FrameParser {
  /** The head that is incomplete. */
  #head = NO_BYTES;
  #first: number | undefined;
  #headBytes = 0;
  #type = 0;
  #payload: Uint8Array | undefined;
  #payloadBytes = 0;
  /** Bytes of the present frame that are still to come. */
  #left = 0;

  /** @param first type of the frame that must be the first */
  constructor(first: number) {
    this.#first = first;
  }

  /** Whether no byte has come yet. */
  get isFresh(): boolean {
    return this.#first !== undefined && this.#headBytes === 0;
  }

  /**
   * Reads up to the next event.
   *
   * @param bytes what has come; `data` events point into it, other payloads are copies
   * @returns the event, if there is one, and how many bytes it took; without one, all were taken
   * @throws {ProtocolError} at another frame than the first is to be, or one that is longer than
   * its type may be
   */
  next(bytes: Uint8Array): { readonly event?: FrameEvent; readonly taken: number } {
    let at = 0;
    while (at < bytes.length) {
      if (this.#left === 0) {
        at = this.#takeHead(bytes, at);
        if (this.#headBytes > 0) break;
        if (this.#left > 0) continue;
      }
      const piece = bytes.subarray(at, at + this.#left);
      at += piece.length;
      this.#left -= piece.length;
      const event = this.#takePayload(piece);
      if (event) return { event, taken: at };
    }
    return { taken: at };
  }

  /**
   * Takes bytes up to the end of the head; `#headBytes` is 0 again when that has come. Returns
   * where the next are.
   */
  #takeHead(bytes: Uint8Array, at: number): number {
    if (this.#headBytes === 0) {
      const length = headLength(bytes, at, bytes.length);
      if (length !== undefined) {
        this.#begin(bytes, at);
        return at + length;
      }
      this.#head = new Uint8Array(MAX_HEAD_BYTES);
    }
    while (at < bytes.length) {
      this.#head[this.#headBytes++] = bytes[at++]!;
      if (headLength(this.#head, 0, this.#headBytes) === undefined) continue;
      this.#begin(this.#head, 0);
      this.#head = NO_BYTES;
      break;
    }
    return at;
  }

  #begin(bytes: Uint8Array, at: number): void {
    const type = decodeVarint(bytes, at);
    const length = decodeVarint(bytes, at + varintLength(bytes[at]!));
    if (this.#first !== undefined && type !== this.#first) {
      throw new ProtocolError(`the first frame has type ${type}, not ${this.#first}`);
    }
    this.#first = undefined;
    const most = type === FrameType.Data ? MAX_DATA_BYTES : MAX_PAYLOAD_BYTES;
    if (length > most) {
      throw new ProtocolError(`a frame of type ${type} has ${length} bytes, more than ${most}`);
    }
    this.#headBytes = 0;
    this.#type = type;
    this.#left = length;
    this.#payloadBytes = 0;
    this.#payload = type !== FrameType.Data && known.includes(type)
      ? new Uint8Array(length)
      : undefined;
  }

  #takePayload(piece: Uint8Array): FrameEvent | undefined {
    if (this.#type === FrameType.Data) {
      return { kind: "data", bytes: piece };
    }
    if (!this.#payload) return undefined;
    this.#payload.set(piece, this.#payloadBytes);
    this.#payloadBytes += piece.length;
    if (this.#left > 0) return undefined;
    const payload = this.#payload;
    this.#payload = undefined;
    return { kind: "frame", type: this.#type, payload };
  }
}
