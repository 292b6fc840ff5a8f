// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "./quiche/native.ts";
import type { ConnectionStreams } from "./streams.ts";

/** Numbers of one connection since it began. */
export interface ConnectionStats {
  /** Smoothed round-trip time, in whole milliseconds. */
  readonly rttMs: number;
  readonly congestionWindowBytes: number;
  readonly sentPackets: number;
  readonly receivedPackets: number;
  readonly lostPackets: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  readonly lostBytes: number;
  /** Bidirectional streams open now, of either end. */
  readonly streams: number;
  /** Streams that this end may open right now. */
  readonly streamCredit: number;
}

/** Reads the numbers of a connection. */
export function connectionStats(
  native: Pick<NativeConnection, "stats" | "pathStats">,
  streams: Pick<ConnectionStreams, "count" | "creditLeft">,
): ConnectionStats {
  const total = native.stats();
  const paths = native.pathStats();
  const path = paths.find(({ active }) => active) ?? paths[0];
  return {
    rttMs: path?.rtt ?? 0,
    congestionWindowBytes: path?.cwnd ?? 0,
    sentPackets: total.sent,
    receivedPackets: total.recv,
    lostPackets: total.lost,
    sentBytes: total.sentBytes,
    receivedBytes: total.recvBytes,
    lostBytes: total.lostBytes,
    streams: streams.count,
    streamCredit: streams.creditLeft,
  };
}
