// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "../quiche/native.ts";

/**
 * Bytes that a stream sends ahead of those that have sent more: requests, and the answers to most.
 */
export const YOUNG_BYTES = 64 << 10;

/** Of all other streams; quiche gives new ones 127, and sends what has less first. */
const OLD_URGENCY = 128;

/**
 * The order in which streams share what may be sent (RFC 9000 §2.3): those that have sent little go
 * first. Within both groups all take turns by the datagram: quiche would let one that is not
 * incremental (RFC 9218 §4.2) starve the others.
 */
export class StreamPriorities {
  /** Bytes that streams may still send as young ones. */
  readonly #left = new Map<number, number>();

  opened(id: number): void {
    this.#left.set(id, YOUNG_BYTES);
  }

  /** Whether the stream has sent little so far. */
  isYoung(id: number): boolean {
    return this.#left.has(id);
  }

  sent(native: Pick<NativeConnection, "streamPriority">, id: number, bytes: number): void {
    const left = this.#left.get(id);
    if (left === undefined) return;
    if (left > bytes) this.#left.set(id, left - bytes);
    else {
      this.#left.delete(id);
      native.streamPriority(id, OLD_URGENCY, true);
    }
  }

  ended(id: number): void {
    this.#left.delete(id);
  }
}
