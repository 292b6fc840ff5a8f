// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Statuses for tests of the status page: of a program that is busy, of an idle one, and of one whose peers are hostile. */
import type {
  Status,
  StatusGroup,
  StatusHistory,
  StatusPeer,
  StatusTunnel,
} from "../../lib/observe/status.ts";

const NOW = Date.UTC(2026, 0, 31, 12, 0, 0);
const HISTORY = 120;

export const PROGRAMS = ["proxy-server", "proxy-agent", "proxy-passthrough"] as const;

export const HOSTILE_NAMES = [
  "<script>document.title='hacked'</script>",
  `"><img src=x onerror="document.title='hacked'">`,
  "' onmouseover='alert(1)",
  "</title></style></script><h1>",
  "&lt;b&gt; &amp;amp; ${1} `x`",
  "agent-\u202Egpj.exe\u202C\u0000\u0007\r\n",
  "سلام עולם 你好 🙂",
  "\uD800",
  "x".repeat(5_000),
];

const time = (secondsAgo: number) => new Date(NOW - secondsAgo * 1_000).toISOString();

function history(length: number, of = (index: number) => index): StatusHistory {
  const indexes = Array.from({ length }, (_, index) => index);
  const latency = (index: number) => index % 40 > 25 && index % 40 < 34 ? null : 4 + of(index) * 3;
  return {
    intervalMs: 5_000,
    at: time(0),
    sentBytesPerSecond: indexes.map((index) => 400_000 * of(index)),
    receivedBytesPerSecond: indexes.map((index) => 2_400_000 * of(index + 7)),
    connected: indexes.map((index) => Math.round(6 * of(index))),
    failed: indexes.map((index) => index % 17 === 0 ? 2 : 0),
    open: indexes.map((index) => Math.round(30 * of(index / 3))),
    connectP50Ms: indexes.map(latency),
    connectP99Ms: indexes.map((index) => {
      const median = latency(index);
      return median === null ? null : median * (3 + of(index * 3));
    }),
  };
}

function peers(program: Status["program"]): StatusPeer[] {
  const word = program === "proxy-server" ? "agent" : "server";
  return (["serving", "draining", "silent"] as const).map((state, index) => ({
    name: `${word}-${index + 1}.example`,
    address: index === 1 ? "[2001:db8:85a3::8a2e:370:7334]:40123" : `192.0.2.${index + 1}:40123`,
    state,
    transport: index === 1 ? "tcp" : "udp",
    nextUdpTrialAt: index === 1 && program !== "proxy-server" ? time(-75) : undefined,
    alpn: index === 2 ? "quic-echo-example" : "qrht/1",
    since: time(7_405 * (index + 1) ** 3),
    streams: 12 - index * 5,
    streamCredit: 88 + index * 5,
    rttMs: 0.84 * 21 ** index,
    lostPackets: index * 61,
    sentPackets: 120_345,
    sentBytes: 41_000_000_000 / (index + 1),
    receivedBytes: 1_234_567 * (index + 1),
    sentBytesPerSecond: index === 0 ? 2_400_000 : 0,
    receivedBytesPerSecond: index === 0 ? 401_200 : 0,
  }));
}

function group(name: string, agents: number): StatusGroup {
  const ready = agents > 0;
  const [listeners, routes] = [["0.0.0.0:8443"], ["10.1.0.0/16", "*.a.internal:443"]];
  return { name, ready, agents, waiting: 3, listeners, routes };
}

function tunnels(program: Status["program"], count: number): StatusTunnel[] {
  return Array.from({ length: count }, (_, index) => ({
    id: `c136${index.toString(16).padStart(8, "0")}`,
    client: `198.51.100.${index % 250}:${40_000 + index}`,
    ...(program === "proxy-server" ? {} : { target: `kubelet-${index % 7}.internal:10250` }),
    peer: program === "proxy-server" ? "agent-1.example" : "server-1.example",
    state: index === 0 ? "connecting" : "open",
    since: time(index ** 2),
    sent: index === 0 ? 0 : 517 * index ** 3,
    received: index === 0 ? 0 : 90_001 * index ** 3,
  }));
}

/** A program with three peers, in each of their states, and certificates in each of theirs. */
export function busyStatus(program: Status["program"] = "proxy-server"): Status {
  const names = ["quic-tunnel-server", "tunnel.example", "spiffe://cluster/server"];
  const certificate = (
    flag: string,
    expiry: Status["certificates"][number]["expiry"],
    days: number,
  ) => ({
    flag,
    subject: "O=example, CN=quic-tunnel-server",
    names,
    notBefore: time(40 * 86_400),
    notAfter: time(-days * 86_400 - 3_600),
    expiry,
  });
  return {
    program,
    name: "edge-1",
    version: "0.1.0",
    at: time(0),
    startedAt: time(273_912),
    ready: true,
    checks: [
      { name: "listening", ok: true },
      { name: "certificates", ok: true },
      { name: program === "proxy-server" ? "agents" : "servers", ok: true },
    ],
    certificates: [
      certificate("--cert-file", "far", 364),
      certificate("--client-ca-file", "soon", 23),
      certificate("--client-ca-file", "urgent", 1),
      certificate("--client-ca-file", "expired", -3),
    ],
    peers: peers(program),
    groups: program === "proxy-server" ? [group("cluster-a", 2), group("db-*,*.db", 0)] : [],
    tunnels: { open: 9, latest: tunnels(program, 9) },
    history: history(HISTORY, (index) => 1.6 + Math.sin(index / 9) + Math.sin(index * 1.7) / 3),
  };
}

/** A program that has just started, alone. */
export function idleStatus(program: Status["program"] = "proxy-server"): Status {
  const { name: _, ...busy } = busyStatus(program);
  const peerWord = program === "proxy-server" ? "agents" : "servers";
  return {
    ...busy,
    startedAt: time(3),
    ready: false,
    checks: [
      { name: "listening", ok: true },
      { name: peerWord, ok: false, problem: "none is connected" },
    ],
    certificates: [],
    peers: [],
    groups: [],
    tunnels: { open: 0, latest: [] },
    history: history(0),
  };
}

/** A program with many tunnels, in which every text that comes from elsewhere means harm. */
export function hostileStatus(program: Status["program"] = "proxy-server"): Status {
  const status = busyStatus(program);
  const name = (index: number) => HOSTILE_NAMES[index % HOSTILE_NAMES.length]!;
  return {
    ...status,
    name: name(0),
    ready: false,
    checks: [...status.checks, { name: name(1), ok: false, problem: name(8) }],
    certificates: HOSTILE_NAMES.map((subject) => ({
      ...status.certificates[0]!,
      subject,
      names: HOSTILE_NAMES,
    })),
    peers: HOSTILE_NAMES.map((hostile) => ({
      ...status.peers[0]!,
      name: hostile,
      address: hostile,
      alpn: hostile,
    })),
    groups: HOSTILE_NAMES.map((hostile) => ({ ...group(hostile, 0), routes: HOSTILE_NAMES })),
    tunnels: {
      open: 12_345,
      latest: tunnels(program, 200).map((tunnel, index) => ({
        ...tunnel,
        id: name(index),
        client: name(index + 1),
        peer: name(index + 2),
        ...(program === "proxy-server" ? {} : { target: name(index + 3) }),
      })),
    },
  };
}
