// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "../quiche/native.ts";

/** Tells when a connection needs a PING to stay (RFC 9000 §10.1.2). */
export class KeepAlive {
  /** 0 for never. */
  readonly #intervalMs: number;
  #pingedAt: number;
  /** When the peer was last known to be heard of, and its packets until then. */
  #heardAt: number;
  #heardPackets = 0;

  constructor(intervalMs: number, now: number) {
    this.#intervalMs = intervalMs;
    this.#pingedAt = this.#heardAt = now;
  }

  /** When to look whether it is time. */
  get dueAt(): number {
    if (this.#intervalMs === 0) return Infinity;
    return Math.max(this.#heardAt, this.#pingedAt) + this.#intervalMs;
  }

  /** Whether a PING is to be sent now. Datagrams that are not the peer's are no sign of it. */
  isDue(now: number, native: Pick<NativeConnection, "stats">, receivedAt: number): boolean {
    if (now < this.dueAt) return false;
    const { recv } = native.stats();
    if (recv !== this.#heardPackets) {
      this.#heardPackets = recv;
      this.#heardAt = receivedAt;
      if (now < this.dueAt) return false;
    }
    this.#pingedAt = now;
    return true;
  }
}
