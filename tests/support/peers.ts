// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Peer } from "../../lib/observe/monitor.ts";
import type { ConnectionStats } from "../../lib/quic/mod.ts";
import type { CertificateInfo } from "../../lib/tls/certificate.ts";
import type { FileCertificate } from "../../lib/tls/material.ts";

const none: ConnectionStats = {
  rttMs: 0,
  congestionWindowBytes: 0,
  sentPackets: 0,
  receivedPackets: 0,
  lostPackets: 0,
  sentBytes: 0,
  receivedBytes: 0,
  lostBytes: 0,
  streams: 0,
  streamCredit: 0,
};

/** A peer as a monitor knows it, without a connection, of which all can be changed. */
export function fakePeer(name: string, stats: Partial<ConnectionStats> = {}) {
  const peer = {
    name,
    address: "192.0.2.1:8888",
    transport: "udp" as "udp" | "tcp",
    alpn: "qrht/1",
    since: Date.now(),
    isDraining: false,
    isResponsive: true,
    now: { ...none, ...stats },
    stats: () => peer.now,
  };
  return peer satisfies Peer;
}

/** A peer on Deno's own QUIC, which tells the number of its streams only. */
export function fakePeerOnDeno(name: string, streams: number): Peer {
  return { ...fakePeer(name), library: "deno", stats: () => ({ streams }) };
}

/** A certificate as a monitor knows it, of which nothing but its end is known. */
export function fakeCertificate(notAfter: Date, flag = "--cert-file"): FileCertificate {
  return { flag, info: { notAfter } as CertificateInfo };
}
