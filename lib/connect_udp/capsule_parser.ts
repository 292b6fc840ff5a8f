// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { decodeVarint, varintLength } from "../varint.ts";
import { CapsuleError, DATAGRAM, MAX_UDP_PAYLOAD_BYTES, UDP_CONTEXT } from "./capsule.ts";

/** Largest datagram that is handed on, as QUIC takes no larger one. */
export const MAX_RECEIVED_DATAGRAM_BYTES = 16_384;

/** Longest capsule of another type that is skipped (RFC 9297 §3.2). */
const MAX_SKIPPED_BYTES = 1 << 20;

const MAX_VARINT_BYTES = 8;

/** Capsules whose value was not handed on. */
export interface SkippedCapsules {
  /** Of other types (RFC 9297 §3.2). */
  types: number;
  /** Of other contexts (RFC 9298 §4). */
  contexts: number;
  /** Datagrams that are too long. */
  long: number;
}

/**
 * Finds datagrams in the bytes of capsules, which may be cut anywhere. It holds none: what it has not
 * taken is to be pushed again, with more behind it.
 */
export class CapsuleParser {
  readonly skipped: SkippedCapsules = { types: 0, contexts: 0, long: 0 };
  /** Datagrams that were handed on. */
  datagrams = 0;
  readonly #datagram: (payload: Uint8Array) => void;
  /** Bytes of a capsule that are still to be skipped. */
  #left = 0;

  /** @param datagram gets the payload of each, valid during the call only */
  constructor(datagram: (payload: Uint8Array) => void) {
    this.#datagram = datagram;
  }

  /** Whether a capsule that is skipped goes on. */
  get isSkipping(): boolean {
    return this.#left > 0;
  }

  /**
   * Takes all capsules that are complete, and parts of those that are skipped.
   *
   * @returns how many bytes were taken, from the front; the rest is less than a capsule with the
   * largest datagram
   * @throws {CapsuleError} when a capsule is not allowed, or too long
   */
  push(bytes: Uint8Array): number {
    const end = bytes.length;
    let at = Math.min(this.#left, end);
    this.#left -= at;
    while (at < end) {
      const lengthAt = at + varintLength(bytes[at]!);
      if (lengthAt >= end) break;
      const valueAt = lengthAt + varintLength(bytes[lengthAt]!);
      if (valueAt > end) break;
      const type = decodeVarint(bytes, at);
      const valueEnd = valueAt + decodeVarint(bytes, lengthAt);
      if (type === DATAGRAM) {
        expectDatagramLength(valueEnd - valueAt);
        if (valueAt === end) break;
        const payloadAt = valueAt + varintLength(bytes[valueAt]!);
        if (payloadAt > valueEnd) throw new CapsuleError("a context id is cut off");
        if (payloadAt > end) break;
        if (decodeVarint(bytes, valueAt) !== UDP_CONTEXT) this.skipped.contexts++;
        else if (valueEnd - payloadAt > MAX_UDP_PAYLOAD_BYTES) throw tooLong(valueEnd - payloadAt);
        else if (valueEnd - payloadAt > MAX_RECEIVED_DATAGRAM_BYTES) this.skipped.long++;
        else if (valueEnd > end) break;
        else {
          this.datagrams++;
          this.#datagram(bytes.subarray(payloadAt, valueEnd));
        }
      } else {
        if (valueEnd - valueAt > MAX_SKIPPED_BYTES) throw tooLongCapsule(type, valueEnd - valueAt);
        this.skipped.types++;
      }
      at = Math.min(valueEnd, end);
      this.#left = valueEnd - at;
    }
    return at;
  }
}

function expectDatagramLength(bytes: number): void {
  if (bytes === 0) throw new CapsuleError("a DATAGRAM capsule has no context id");
  if (bytes > MAX_VARINT_BYTES + MAX_UDP_PAYLOAD_BYTES) throw tooLong(bytes);
}

function tooLong(bytes: number): CapsuleError {
  return new CapsuleError(`a datagram of ${bytes} bytes, more than ${MAX_UDP_PAYLOAD_BYTES}`);
}

function tooLongCapsule(type: number, bytes: number): CapsuleError {
  return new CapsuleError(
    `a capsule of type 0x${type.toString(16)} has ${bytes} bytes, more than ${MAX_SKIPPED_BYTES}`,
  );
}
