// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What a peer may send before it has authenticated itself: a long certificate chain fits many
 * times. quiche 0.18.0 may keep 60 times as much for them. A server may send the names of many CAs,
 * and is one that this end has chosen.
 */
const MAX_BYTES = { server: 64 << 10, client: 256 << 10 };

/** How far the handshake of a connection is (RFC 9001 §4.1), and what it may cost until then. */
export class HandshakeProgress {
  readonly #maxBytes: number;
  readonly #timeoutMs: number;
  readonly #endsAt: number;
  #bytes = 0;
  #isEstablished = false;
  #isConfirmed = false;

  /** @param role this end's */
  constructor(role: "client" | "server", timeoutMs: number, now: number) {
    this.#maxBytes = MAX_BYTES[role];
    this.#timeoutMs = timeoutMs;
    this.#endsAt = now + timeoutMs;
  }

  /** Whether this end has done its part: for a server, the client's certificate was accepted. */
  get isEstablished(): boolean {
    return this.#isEstablished;
  }

  /** Whether the peer has accepted this end's certificate as well. */
  get isConfirmed(): boolean {
    return this.#isConfirmed;
  }

  /** Whether nothing has come from the peer. */
  get isUnanswered(): boolean {
    return !this.#isEstablished && this.#bytes === 0;
  }

  /** When the handshake has taken too long; Infinity once it is over. */
  get dueAt(): number {
    return this.#isConfirmed ? Infinity : this.#endsAt;
  }

  /** Why it has ended then. */
  get timeoutReason(): string {
    const what = this.#bytes === 0 ? "no answer" : "handshake not complete";
    return `${what} after ${this.#timeoutMs} ms`;
  }

  /** Takes notice of a datagram. Returns whether the peer has sent too much. */
  receive(bytes: number): boolean {
    return !this.#isEstablished && (this.#bytes += bytes) > this.#maxBytes;
  }

  established(): void {
    this.#isEstablished = true;
  }

  confirmed(): void {
    this.#isConfirmed = true;
  }
}
