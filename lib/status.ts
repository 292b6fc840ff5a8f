// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the status page shows, as `/status.json` gives it. Times are RFC 3339, sizes bytes. */
import type { History, StatusHistory } from "./history.ts";
import type { Monitor, Peer, Tunnel } from "./monitor.ts";
import { type ProgramName, readinessOf } from "./readiness.ts";
import { expiryOf } from "./tls_expiry.ts";
import { version } from "./version.ts";

export type { StatusHistory };

export interface Status {
  readonly program: ProgramName;
  /** `--name`. */
  readonly name?: string | undefined;
  readonly version: string;
  readonly at: string;
  readonly startedAt: string;
  readonly ready: boolean;
  readonly checks: readonly StatusCheck[];
  readonly certificates: readonly StatusCertificate[];
  /** Agents of a server, or servers of an agent. */
  readonly peers: readonly StatusPeer[];
  readonly tunnels: {
    readonly open: number;
    /** The latest of them, newest first, at most 200. */
    readonly latest: readonly StatusTunnel[];
  };
  readonly history: StatusHistory;
}

export interface StatusCheck {
  readonly name: string;
  readonly ok: boolean;
  /** What is wrong. */
  readonly problem?: string | undefined;
}

export interface StatusCertificate {
  /** The flag that named its file, such as `--cert-file`. */
  readonly flag: string;
  readonly subject: string;
  readonly names: readonly string[];
  readonly notBefore: string;
  readonly notAfter: string;
  /** How near its end is. */
  readonly expiry: "far" | "soon" | "urgent" | "expired";
}

export interface StatusPeer {
  readonly name: string;
  readonly address: string;
  readonly state: "serving" | "draining" | "silent";
  readonly alpn: string;
  readonly since: string;
  readonly streams: number;
  readonly streamCredit: number;
  /** Smoothed round-trip time, in ms. */
  readonly rttMs: number;
  /** Packets that were lost, of those sent. */
  readonly lostPackets: number;
  readonly sentPackets: number;
  /** UDP payload to and from the peer, since it connected. */
  readonly sentBytes: number;
  readonly receivedBytes: number;
  /** The same per second, over the last interval of the history. */
  readonly sentBytesPerSecond: number;
  readonly receivedBytesPerSecond: number;
}

export interface StatusTunnel {
  readonly id?: string | undefined;
  readonly client?: string | undefined;
  /** Only agents know it. */
  readonly target?: string | undefined;
  readonly peer?: string | undefined;
  readonly state: "connecting" | "open";
  readonly since: string;
  /** Bytes of the client's. */
  readonly sent: number;
  /** Bytes of the target's. */
  readonly received: number;
}

/** Of all tunnels, these are shown. */
const MAX_TUNNELS = 200;

/** What there is to show of a program now. */
export function statusOf(
  { program, name }: { readonly program: ProgramName; readonly name?: string | undefined },
  monitor: Monitor,
  history: History,
  now = new Date(),
): Status {
  const checks = readinessOf(program, monitor, now);
  return {
    program,
    name,
    version,
    at: now.toISOString(),
    startedAt: new Date(monitor.startedAt).toISOString(),
    ready: checks.every(({ problem }) => problem === undefined),
    checks: checks.map(({ name, problem }) => ({ name, ok: problem === undefined, problem })),
    certificates: monitor.certificates().map(({ flag, info }) => ({
      flag,
      subject: info.subject,
      names: info.names,
      notBefore: info.notBefore.toISOString(),
      notAfter: info.notAfter.toISOString(),
      expiry: expiryOf(info, now),
    })),
    peers: Array.from(monitor.peers, (peer) => statusOfPeer(peer, history)),
    tunnels: {
      open: monitor.tunnels.size,
      latest: [...monitor.tunnels].slice(-MAX_TUNNELS).reverse().map(statusOfTunnel),
    },
    history: history.status(),
  };
}

function statusOfPeer(peer: Peer, history: History): StatusPeer {
  const { name, address, alpn, since, isDraining, isResponsive } = peer;
  const { streams, streamCredit, rttMs, lostPackets, sentPackets, sentBytes, receivedBytes } = peer
    .stats();
  const rates = history.ratesOf(peer);
  return {
    name,
    address,
    state: isDraining ? "draining" : isResponsive ? "serving" : "silent",
    alpn,
    since: new Date(since).toISOString(),
    streams,
    streamCredit,
    rttMs,
    lostPackets,
    sentPackets,
    sentBytes,
    receivedBytes,
    sentBytesPerSecond: rates.sent,
    receivedBytesPerSecond: rates.received,
  };
}

function statusOfTunnel({ facts, connectedAt, since, carried }: Tunnel): StatusTunnel {
  return {
    ...facts,
    state: connectedAt === undefined ? "connecting" : "open",
    since: new Date(since).toISOString(),
    sent: carried.aToB,
    received: carried.bToA,
  };
}
