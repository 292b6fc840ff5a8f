// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Peer } from "./monitor.ts";
import { escapeUnseen } from "../printable.ts";
import type { ConnectionStats } from "../quic/mod.ts";

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
  #seen: ReadonlyMap<Peer, ConnectionStats> = new Map();
  #ended = new Map<string, ConnectionStats>();

  /** The sums by label, as they are now. */
  take(peers: Iterable<Peer>): ReadonlyMap<string, ConnectionStats> {
    const seen = new Map(Array.from(peers, (peer) => [peer, peer.stats()]));
    const ended = this.#ended;
    for (const [peer, stats] of this.#seen) if (!seen.has(peer)) add(ended, peer, countsOf(stats));
    this.#seen = seen;

    const sums = new Map<string, ConnectionStats>();
    for (const [peer, stats] of seen) add(sums, peer, stats);
    this.#ended = new Map([...ended].filter(([label]) => sums.has(label)));
    for (const [label, stats] of this.#ended) sums.set(label, sum(sums.get(label)!, stats));
    return sums;
  }
}

function add(to: Map<string, ConnectionStats>, { name }: Peer, stats: ConnectionStats): void {
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
function countsOf(stats: ConnectionStats): ConnectionStats {
  return { ...stats, rttMs: 0, congestionWindowBytes: 0, streams: 0, streamCredit: 0 };
}

function sum(a: ConnectionStats, b: ConnectionStats): ConnectionStats {
  return {
    rttMs: Math.max(a.rttMs, b.rttMs),
    congestionWindowBytes: a.congestionWindowBytes + b.congestionWindowBytes,
    sentPackets: a.sentPackets + b.sentPackets,
    receivedPackets: a.receivedPackets + b.receivedPackets,
    lostPackets: a.lostPackets + b.lostPackets,
    sentBytes: a.sentBytes + b.sentBytes,
    receivedBytes: a.receivedBytes + b.receivedBytes,
    lostBytes: a.lostBytes + b.lostBytes,
    streams: a.streams + b.streams,
    streamCredit: a.streamCredit + b.streamCredit,
  };
}
