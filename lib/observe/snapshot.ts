// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { logger } from "../log.ts";
import type { Monitor } from "./monitor.ts";

/** Only the oldest tunnels are logged: they are the most likely to be stuck. */
const MAX_TUNNELS = 1_000;

const log = logger("snapshot");

/** Logs the state of a program: a line per group, peer and tunnel, oldest first, and their numbers. */
export function logSnapshot({ peers, tunnels, groups, established }: Monitor): void {
  for (const { name, waiting } of groups) {
    const ofGroup = [...peers].filter(({ groups }) => groups?.includes(name));
    log.info("group", { name, agents: ofGroup.length, waiting });
  }
  for (const peer of peers) {
    const { name, address, transport, nextUdpTrialAt, alpn, library, isDraining, isResponsive } =
      peer;
    const { streams, rttMs, lostPackets, sentPackets } = peer.stats();
    const age = secondsSince(peer.since);
    const state = isDraining ? "draining" : isResponsive ? "serving" : "silent";
    log.info("peer", {
      name,
      address,
      alpn,
      library: library === "deno" ? library : undefined,
      state,
      transport,
      nextUdpTrialS: nextUdpTrialAt === undefined ? undefined : -secondsSince(nextUdpTrialAt),
      ageS: age,
      streams,
      rttMs,
      lostPackets,
      sentPackets,
    });
  }
  for (const { facts, connectedAt, since, carried } of [...tunnels].slice(0, MAX_TUNNELS)) {
    const { id, client, group, target, peer } = facts;
    log.info("tunnel", {
      tunnel: id,
      client,
      group,
      target,
      peer,
      state: connectedAt === undefined ? "connecting" : "open",
      ageS: secondsSince(since),
      sent: carried.aToB,
      received: carried.bToA,
    });
  }
  log.info("snapshot", { peers: peers.size, tunnels: tunnels.size, connected: established });
}

function secondsSince(time: number): number {
  return Math.round((Date.now() - time) / 1_000);
}
