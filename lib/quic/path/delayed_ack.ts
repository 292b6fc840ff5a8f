// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "../quiche/native.ts";

/**
 * Nothing waits once so much has come, or was sent: there may be more to send than is known here.
 */
const MUCH_BYTES = 1_000;

/** Time that an acknowledgement waits at most; peers reckon with 25 ms (RFC 9000 §18.2). */
export const MAX_ACK_DELAY_MS = 10;

/**
 * Puts off acknowledgements that nothing takes along (RFC 9000 §13.2.1): where requests and answers
 * alternate, each then takes one datagram instead of two.
 *
 * quiche does not tell what it would send. So nothing is put off that might be more than an
 * acknowledgement.
 */
export class DelayedAck {
  #hasNews = true;
  #receivedBytes = 0;
  #sentMuch = false;
  #dueAt = Infinity;
  /** Datagrams that were sent since nothing was in flight. */
  #sentDatagrams = 2;
  #lost = 0;

  /** When what was put off is due. */
  get dueAt(): number {
    return this.#dueAt;
  }

  /** There may be something to send that is not an answer to what was received. */
  news(): void {
    this.#hasNews = true;
  }

  received(bytes: number): void {
    this.#receivedBytes += bytes;
  }

  /**
   * Whether nothing needs to be sent now.
   *
   * @param nothingInFlight asked last
   */
  putOff(
    now: number,
    native: Pick<NativeConnection, "stats">,
    nothingInFlight: () => boolean,
  ): boolean {
    const mayWait = !this.#hasNews && !this.#sentMuch && this.#receivedBytes < MUCH_BYTES &&
      now < this.#dueAt && nothingInFlight() && !this.#hasLost(native);
    if (!mayWait) return false;
    this.#sentDatagrams = 0;
    this.#dueAt = Math.min(this.#dueAt, now + MAX_ACK_DELAY_MS);
    return true;
  }

  /** Frames that were lost are to be sent again, though nothing is under way. */
  #hasLost(native: Pick<NativeConnection, "stats">): boolean {
    // An acknowledgement shows losses of what was sent before something else (RFC 9002 §6.1); what
    // was sent alone is lost by a timeout, which is news.
    if (this.#sentDatagrams <= 1) return false;
    const { lost } = native.stats();
    if (lost === this.#lost) return false;
    this.#lost = lost;
    return true;
  }

  /**
   * All was sent for which there was room.
   *
   * @param largestBytes of its datagrams, 0 for none
   */
  sent(largestBytes: number): void {
    this.#hasNews = false;
    this.#receivedBytes = 0;
    this.#dueAt = Infinity;
    if (largestBytes === 0) return;
    this.#sentDatagrams++;
    // What found no room in the congestion window is still to come.
    this.#sentMuch = largestBytes >= MUCH_BYTES;
  }
}
