// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What every path that QUIC works on carries (RFC 9000 §14), in bytes of UDP payload. */
export const MIN_DATAGRAM_BYTES = 1200;

/** What nearly every path carries, and is sent without asking. */
export const BASE_DATAGRAM_BYTES = 1350;

/** What one call into the system sends four of; quiche takes 16383. */
export const MAX_DATAGRAM_BYTES = 16_376;

/** What paths may carry, beside all that the route does: jumbo frames, Ethernet, PPPoE, WireGuard, other tunnels. */
const CANDIDATES = [8972, 8952, 4052, 1472, 1452, 1432, 1412, 1392];

/** Probes of one size, until it counts as too large. */
const MAX_PROBES = 2;

/** Time in which a probe has to be answered. */
const PROBE_TIMEOUT_MS = 1_000;

/** Time after which sizes that were too large are tried again (RFC 8899 §5.1.1, PMTU_RAISE_TIMER). */
const RAISE_MS = 600_000;

/** The same after the first black hole, which may have been an outage of all; it doubles with each. */
const FIRST_RAISE_MS = 5_000;

/** Time between two looks at what was lost. */
const LOOK_MS = 500;

/** Datagrams that are lost by no accident, as most others are in the same time. */
const MIN_LOST = 5;
const LOST_SHARE = 0.5;

/** Large datagrams that were sent into a silence of this time, or of so many round trips. */
const MIN_UNHEARD = 3;
const SILENCE_MS = 600;
const SILENCE_ROUND_TRIPS = 3;

/** Time, beside some round trips, in which a peer that was silent answers smaller datagrams, if it was for the large ones. */
const EVIDENCE_MS = 200;

/** Datagrams of a connection since it began. */
export interface SentAndLost {
  readonly sentPackets: number;
  readonly lostPackets: number;
}

/**
 * How large the datagrams may be that a path carries (RFC 8899): probes find out, a black hole brings it back to a safe
 * size.
 *
 * Probes are datagrams of a connection that has much to send, so a lost one is repeated like all others. The peer says
 * how large a datagram it has got; one that does not is sent none.
 */
export class PathMtu {
  readonly #max: number;
  #bytes: number;
  /** Sizes that may still turn out to get through, the largest first. */
  #untried: number[] = [];
  #probes = 0;
  #probedAt = -Infinity;
  #isAnswering = false;
  #raiseAt = Infinity;
  #blackHoles = 0;
  /** A peer that is heard of until then was silent for the size of the datagrams. */
  #suspectUntil = -Infinity;
  #lookAt = -Infinity;
  #before: SentAndLost | undefined;

  /** @param max what the route, this end and the peer allow */
  constructor(max: number) {
    this.#max = max;
    this.#bytes = Math.min(BASE_DATAGRAM_BYTES, max);
    this.#raise();
  }

  /** The largest datagram that may be sent. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The peer tells how large the datagrams are that it gets. */
  answering(): void {
    this.#isAnswering = true;
  }

  /** Size of a probe that is to be sent now; undefined for none. */
  probe(now: number): number | undefined {
    if (now >= this.#raiseAt) this.#raise();
    if (!this.#isAnswering || now < this.#probedAt + PROBE_TIMEOUT_MS) return undefined;
    if (this.#probes === MAX_PROBES) {
      this.#probes = 0;
      this.#untried.shift();
    }
    if (this.#untried.length === 0 && this.#raiseAt === Infinity && this.#bytes < this.#max) {
      this.#raiseAt = now + RAISE_MS;
    }
    return this.#untried[0];
  }

  /** A probe was sent. */
  probed(now: number): void {
    this.#probes++;
    this.#probedAt = now;
  }

  /** The peer has got a datagram of this size. */
  confirmed(bytes: number): void {
    this.#isAnswering = true;
    const size = Math.min(bytes, this.#max);
    if (size <= this.#bytes) return;
    this.#bytes = size;
    this.#untried = this.#untried.filter((candidate) => candidate > size);
    this.#probes = 0;
    this.#probedAt = -Infinity;
    this.#before = undefined;
  }

  /** Whether {@linkcode look} wants to know what was lost. */
  wantsLook(now: number): boolean {
    return this.#bytes > MIN_DATAGRAM_BYTES && now >= this.#lookAt;
  }

  /** Whether {@linkcode look} wants to know of a silence, into which so many large datagrams were sent. */
  wantsSilence(silentForMs: number, unheard: number): boolean {
    return this.#bytes > MIN_DATAGRAM_BYTES && unheard >= MIN_UNHEARD && silentForMs >= SILENCE_MS;
  }

  /**
   * The peer has fallen silent when large datagrams were sent: perhaps not even acknowledgements get through, as they
   * travel together with what is lost.
   *
   * @returns whether smaller ones are sent from now on
   */
  silence(now: number, silentForMs: number, rttMs: number): boolean {
    if (silentForMs < rttMs * SILENCE_ROUND_TRIPS) return false;
    this.#shrink(now);
    this.#suspectUntil = now + rttMs * SILENCE_ROUND_TRIPS + EVIDENCE_MS;
    return true;
  }

  /** The peer is heard of. Returns whether that shows that large datagrams are lost: an outage would not end just now. */
  heard(now: number): boolean {
    const isEvidence = now < this.#suspectUntil;
    this.#suspectUntil = -Infinity;
    return isEvidence;
  }

  /**
   * Looks whether the path has become a black hole for datagrams of this size.
   *
   * @returns whether smaller ones are sent from now on
   */
  look(now: number, counts: SentAndLost): boolean {
    this.#lookAt = now + LOOK_MS;
    const before = this.#before;
    this.#before = counts;
    if (!before) return false;
    const lost = counts.lostPackets - before.lostPackets;
    const sent = counts.sentPackets - before.sentPackets;
    if (lost < MIN_LOST || lost < sent * LOST_SHARE) return false;
    this.#shrink(now);
    return true;
  }

  #shrink(now: number): void {
    this.#bytes = this.#bytes > BASE_DATAGRAM_BYTES ? BASE_DATAGRAM_BYTES : MIN_DATAGRAM_BYTES;
    this.#untried = [];
    this.#raiseAt = now + Math.min(FIRST_RAISE_MS * 2 ** this.#blackHoles++, RAISE_MS);
    this.#before = undefined;
  }

  #raise(): void {
    this.#raiseAt = Infinity;
    this.#probes = 0;
    // Nobody tells whether they arrive: they are tried as they were at first.
    if (!this.#isAnswering) this.#bytes = Math.min(BASE_DATAGRAM_BYTES, this.#max);
    const sizes = [this.#max, ...CANDIDATES, BASE_DATAGRAM_BYTES];
    this.#untried = [...new Set(sizes)].filter((size) => size > this.#bytes && size <= this.#max);
  }
}
