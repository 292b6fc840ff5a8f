// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Peer } from "./monitor.ts";
import { escapeUnseen } from "../printable.ts";
import type { PeerStats } from "../quic/mod.ts";

/** Names in certificates may have any length; labels are truncated to so many characters. */
const MAX_LABEL_LENGTH = 128;

/**
 * Statistics of connections, summed over peers with the same name.
 *
 * An agent may briefly have two connections, a new one and a draining one. When one ends, its
 * counts stay in the sum while the other is open. Otherwise the counter would fall, which
 * Prometheus takes for a reset, and the remaining sum would be counted twice.
 */
export class PeerTotals {
  #seen: ReadonlyMap<Peer, PeerStats> = new Map();
  #ended = new Map<string, PeerStats>();

  /** The sums by label, as they are now. */
  take(peers: Iterable<Peer>): ReadonlyMap<string, PeerStats> {
    const seen = new Map(Array.from(peers, (peer) => [peer, peer.stats()]));
    const ended = this.#ended;
    for (const [peer, stats] of this.#seen) if (!seen.has(peer)) add(ended, peer, countsOf(stats));
    this.#seen = seen;

    const sums = new Map<string, PeerStats>();
    for (const [peer, stats] of seen) add(sums, peer, stats);
    this.#ended = new Map([...ended].filter(([label]) => sums.has(label)));
    for (const [label, stats] of this.#ended) sums.set(label, sum(sums.get(label)!, stats));
    return sums;
  }
}

function add(to: Map<string, PeerStats>, { name }: Peer, stats: PeerStats): void {
  const label = labelOf(name);
  const before = to.get(label);
  to.set(label, before ? sum(before, stats) : stats);
}

/** A name as the value of a label. */
export function labelOf(name: string): string {
  // The format escapes line feeds itself, and no other control character.
  const text = escapeUnseen(name.slice(0, MAX_LABEL_LENGTH + 1), "\n").toWellFormed();
  return text.length <= MAX_LABEL_LENGTH
    ? text
    : `${text.slice(0, MAX_LABEL_LENGTH - 1).toWellFormed()}…`;
}

/** What remains of a connection that has ended. */
function countsOf(stats: PeerStats): PeerStats {
  const none = undefined;
  return { ...stats, rttMs: none, congestionWindowBytes: none, streams: 0, streamCredit: none };
}

function sum(a: PeerStats, b: PeerStats): PeerStats {
  return {
    rttMs: either(a.rttMs, b.rttMs, Math.max),
    congestionWindowBytes: either(a.congestionWindowBytes, b.congestionWindowBytes),
    sentPackets: either(a.sentPackets, b.sentPackets),
    receivedPackets: either(a.receivedPackets, b.receivedPackets),
    lostPackets: either(a.lostPackets, b.lostPackets),
    sentBytes: either(a.sentBytes, b.sentBytes),
    receivedBytes: either(a.receivedBytes, b.receivedBytes),
    lostBytes: either(a.lostBytes, b.lostBytes),
    streams: a.streams + b.streams,
    streamCredit: either(a.streamCredit, b.streamCredit),
  };
}

/** Of numbers that may be missing. */
function either(
  a: number | undefined,
  b: number | undefined,
  both = (a: number, b: number) => a + b,
): number | undefined {
  return a === undefined || b === undefined ? a ?? b : both(a, b);
}
