// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { History } from "./history.ts";
import type { Monitor, Peer, TunnelRecord } from "./monitor.ts";
import { version } from "../version.ts";
import { readinessOf, readinessOfGroups } from "./readiness.ts";
import type { Status, StatusGroup, StatusPeer, StatusTunnel } from "./status.ts";
import { expiryOf } from "../tls/expiry.ts";

/** Of all tunnels, these are shown. */
const MAX_TUNNELS = 200;

/** What there is to show of a program now. */
export function currentStatus(monitor: Monitor, history: History, now = new Date()): Status {
  const checks = readinessOf(monitor, now);
  return {
    program: monitor.program,
    name: monitor.name,
    version,
    at: now.toISOString(),
    startedAt: new Date(monitor.startedAt).toISOString(),
    ready: checks.every(({ problem }) => problem === undefined),
    checks: checks.map(({ name, problem }) => ({ name, ok: problem === undefined, problem })),
    certificates: monitor.certificates.map(({ flag, info }) => ({
      flag,
      subject: info.subject,
      names: info.names,
      notBefore: info.notBefore.toISOString(),
      notAfter: info.notAfter.toISOString(),
      expiry: expiryOf(info, now),
    })),
    peers: Array.from(monitor.peers, (peer) => statusOfPeer(peer, history)),
    groups: statusOfGroups(monitor),
    tunnels: {
      open: monitor.tunnels.size,
      latest: [...monitor.tunnels].slice(-MAX_TUNNELS).reverse().map(statusOfTunnel),
    },
    history: history.status(),
  };
}

function statusOfPeer(peer: Peer, history: History): StatusPeer {
  const { name, address, groups, transport, alpn, library, since, isDraining, isResponsive } = peer;
  const { nextUdpTrialAt } = peer;
  const { streams, streamCredit, rttMs, lostPackets, sentPackets, sentBytes, receivedBytes } = peer
    .stats();
  const rates = history.ratesOf(peer);
  return {
    name,
    address,
    state: isDraining ? "draining" : isResponsive ? "serving" : "silent",
    transport,
    nextUdpTrialAt: nextUdpTrialAt === undefined
      ? undefined
      : new Date(nextUdpTrialAt).toISOString(),
    groups,
    alpn,
    library,
    since: new Date(since).toISOString(),
    streams,
    streamCredit,
    rttMs,
    lostPackets,
    sentPackets,
    sentBytes,
    receivedBytes,
    sentBytesPerSecond: rates?.sent,
    receivedBytesPerSecond: rates?.received,
  };
}

function statusOfGroups(monitor: Monitor): StatusGroup[] {
  const checks = readinessOfGroups(monitor);
  return monitor.groups.map((group, index) => ({
    ...group,
    ready: checks[index]!.problem === undefined,
    agents: [...monitor.peers].filter(({ groups }) => groups?.includes(group.name)).length,
  }));
}

function statusOfTunnel({ facts, connectedAt, since, carried }: TunnelRecord): StatusTunnel {
  return {
    ...facts,
    state: connectedAt === undefined ? "connecting" : "open",
    since: new Date(since).toISOString(),
    sent: carried.aToB,
    received: carried.bToA,
  };
}
