// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What every path that QUIC works on carries (RFC 9000 §14), in bytes of UDP payload. */
export const MIN_DATAGRAM_BYTES = 1200;

/** What nearly every path carries, and is sent without asking. */
export const BASE_DATAGRAM_BYTES = 1350;

/** What one call into the system sends four of; quiche takes 16383. */
export const MAX_DATAGRAM_BYTES = 16_376;

/**
 * Payload sizes to probe in addition to that of the route: jumbo frames, Ethernet, PPPoE,
 * WireGuard, other tunnels.
 */
const CANDIDATES = [8972, 8952, 4052, 1472, 1452, 1432, 1412, 1392];

/** Probes of one size, until it counts as too large. */
const MAX_PROBES = 2;

/** Time in which a probe must be acknowledged. */
const PROBE_TIMEOUT_MS = 1_000;

/**
 * Time after which sizes that were too large are tried again (RFC 8899 §5.1.1, PMTU_RAISE_TIMER).
 */
const RAISE_MS = 600_000;

/**
 * The same after the first black hole, which may have been an outage of all; it doubles with each.
 */
const FIRST_RAISE_MS = 5_000;

/** Interval of checks for losses. */
const LOOK_MS = 500;

/** Losses that are not accidental, because most other datagrams of that time were lost too. */
const MIN_LOST = 5;
const LOST_SHARE = 0.5;

/** Large datagrams sent without an answer for this time, or for so many round trips. */
const MIN_UNHEARD = 3;
const SILENCE_MS = 600;
const SILENCE_ROUND_TRIPS = 3;

/**
 * Time, beside some round trips, in which a peer that was silent answers smaller datagrams, if it
 * was for the large ones.
 */
const EVIDENCE_MS = 200;

/** Statistics of a connection since it began, for {@linkcode PathMtu.look}. */
export interface PathCounts {
  readonly rttMs: number;
  readonly sentPackets: number;
  readonly lostPackets: number;
}

/**
 * How large the datagrams are that a path carries (RFC 8899): probes find out, a black hole brings
 * their size back to a safe one.
 *
 * Probes are datagrams of a connection that has much to send, so a lost one is repeated like all
 * others. The peer reports how large a datagram it has received; one that does not is sent no
 * probes.
 */
export class PathMtu {
  /** Is called when {@linkcode largestReceived} has grown. */
  onLargerReceived: (() => void) | undefined;
  /** Is called when large datagrams turn out to be lost, and smaller ones are sent. */
  onBlackHole: (() => void) | undefined;
  #max: number;
  #bytes: number;
  #largestReceived = MIN_DATAGRAM_BYTES;
  #isSearching = false;
  /** Sizes that may still turn out to get through, the largest first. */
  #untried: number[] = [];
  #probes = 0;
  #probedAt = -Infinity;
  #mayProbe = false;
  #raiseAt = Infinity;
  #blackHoles = 0;
  /** Large datagrams that were sent since the peer was heard of. */
  #unheard = 0;
  /** A peer that is heard of until then was silent for the size of the datagrams. */
  #suspectUntil = -Infinity;
  #lookAt = -Infinity;
  #before: PathCounts | undefined;

  /** @param max what the route and this end allow; it is what is sent, until {@linkcode search} */
  constructor(max: number) {
    this.#max = this.#bytes = max;
  }

  /** UDP payload of the largest datagrams that are sent now. */
  get datagramBytes(): number {
    return this.#bytes;
  }

  /** UDP payload of the largest datagram that has come from the peer. */
  get largestReceived(): number {
    return this.#largestReceived;
  }

  /** The peer reports how large the datagrams are that it receives: larger ones may be tried. */
  allowProbes(): void {
    this.#mayProbe = true;
  }

  /** The peer has received a datagram of this size. */
  confirmed(bytes: number): void {
    if (!this.#isSearching) return;
    this.#mayProbe = true;
    const size = Math.min(bytes, this.#max);
    if (size <= this.#bytes) return;
    this.#bytes = size;
    this.#untried = this.#untried.filter((candidate) => candidate > size);
    this.#probes = 0;
    this.#probedAt = -Infinity;
    this.#before = undefined;
  }

  /** @internal Finds out what the path carries, from now on. @param max what the peer takes */
  search(max: number): void {
    this.#isSearching = true;
    this.#max = Math.min(this.#max, max);
    this.#bytes = Math.min(BASE_DATAGRAM_BYTES, this.#max);
    this.#raise();
  }

  /** @internal Size of a probe that is to be sent now; undefined for none. */
  probe(now: number): number | undefined {
    if (!this.#isSearching) return undefined;
    if (now >= this.#raiseAt) this.#raise();
    if (!this.#mayProbe || now < this.#probedAt + PROBE_TIMEOUT_MS) return undefined;
    if (this.#probes === MAX_PROBES) {
      this.#probes = 0;
      this.#untried.shift();
    }
    if (this.#untried.length === 0 && this.#raiseAt === Infinity && this.#bytes < this.#max) {
      this.#raiseAt = now + RAISE_MS;
    }
    return this.#untried[0];
  }

  /** @internal A datagram was sent; one that is larger than others is a probe. */
  sent(bytes: number, now: number): void {
    if (bytes > MIN_DATAGRAM_BYTES) this.#unheard++;
    if (bytes <= this.#bytes) return;
    this.#probes++;
    this.#probedAt = now;
  }

  /** @internal A datagram of the peer's, the largest so far. */
  received(bytes: number): void {
    this.#largestReceived = bytes;
    this.onLargerReceived?.();
  }

  /**
   * @internal The peer is heard of: if it was silent for the size of datagrams, that is known now.
   */
  heard(now: number): void {
    this.#unheard = 0;
    if (this.#suspectUntil === -Infinity) return;
    // An outage would not end just now.
    const isEvidence = now < this.#suspectUntil;
    this.#suspectUntil = -Infinity;
    if (isEvidence) this.onBlackHole?.();
  }

  /**
   * @internal Looks whether the path has become a black hole for datagrams of this size.
   *
   * @param silentForMs time for which nothing was heard of the peer
   */
  look(now: number, silentForMs: number, connection: { stats(): PathCounts }): void {
    if (!this.#isSearching || this.#bytes <= MIN_DATAGRAM_BYTES) return;
    if (this.#unheard >= MIN_UNHEARD && silentForMs >= SILENCE_MS) {
      this.#silence(now, silentForMs, connection.stats().rttMs);
    } else if (now >= this.#lookAt) this.#compare(now, connection.stats());
  }

  /**
   * The peer has fallen silent when large datagrams were sent: perhaps not even acknowledgements
   * get through, as they travel together with what is lost. Whether that is why turns out when it
   * is heard of again.
   */
  #silence(now: number, silentForMs: number, rttMs: number): void {
    if (silentForMs < rttMs * SILENCE_ROUND_TRIPS) return;
    this.#unheard = 0;
    this.#shrink(now);
    this.#suspectUntil = now + rttMs * SILENCE_ROUND_TRIPS + EVIDENCE_MS;
  }

  /** Looks at what was lost since the last look. */
  #compare(now: number, counts: PathCounts): void {
    this.#lookAt = now + LOOK_MS;
    const before = this.#before;
    this.#before = counts;
    if (!before) return;
    const lost = counts.lostPackets - before.lostPackets;
    const sent = counts.sentPackets - before.sentPackets;
    if (lost < MIN_LOST || lost < sent * LOST_SHARE) return;
    this.#shrink(now);
    this.onBlackHole?.();
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
    // Nobody reports whether they arrive: they are tried as they were at first.
    if (!this.#mayProbe) this.#bytes = Math.min(BASE_DATAGRAM_BYTES, this.#max);
    const sizes = [this.#max, ...CANDIDATES, BASE_DATAGRAM_BYTES];
    this.#untried = [...new Set(sizes)].filter((size) => size > this.#bytes && size <= this.#max);
  }
}
