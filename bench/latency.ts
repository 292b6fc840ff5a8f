// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long a new connection through the tunnel takes to its first byte, in both dialects. */
import { UdpRelay } from "../tests/support/udp_relay.ts";
import type { Program } from "./program.ts";
import { type Spread, spreadOf } from "./report.ts";
import { download } from "./transfer.ts";

/** What is between server and agent, and how much is measured there. */
interface Link {
  readonly name: string;
  /** One way. */
  readonly delayMs: number;
  /** Runs of each dialect, in turns. */
  readonly runs: number;
  /** Connections of a run, one after the other. */
  readonly connections: number;
}

const links: readonly Link[] = [
  { name: "loopback", delayMs: 0, runs: 5, connections: 200 },
  { name: "50 ms round trip", delayMs: 25, runs: 3, connections: 20 },
];

/** Connections of each tunnel before any is measured. */
const WARM_UP_CONNECTIONS = 50;

/** What the dialects are called, and the ALPN names that they are spoken under. */
export const dialects = { "qrht/1": "qrht/1", raw: "quic-echo-example" } as const;
type Dialect = keyof typeof dialects;

/** Times to the first byte over one link, in milliseconds. */
export interface Latency {
  readonly link: string;
  readonly dialect: Dialect;
  /** Medians of the runs. */
  readonly p50: readonly number[];
  /** 99th percentiles of the runs. */
  readonly p99: readonly number[];
}

/** A tunnel that is up, by the port that clients connect to. */
export interface LatencyTunnel extends AsyncDisposable {
  readonly port: number;
  readonly programs: readonly Program[];
}

/** @param start starts a tunnel whose agent connects through `via` in place of the server's own QUIC port */
export async function measureLatency(
  start: (alpn: string, via: (quicPort: number) => number) => Promise<LatencyTunnel>,
  signal: AbortSignal,
): Promise<Latency[]> {
  const latencies: Latency[] = [];
  for (const link of links) latencies.push(...await measureLink(link, start, signal));
  return latencies;
}

async function measureLink(
  { name, delayMs, runs, connections }: Link,
  start: Parameters<typeof measureLatency>[0],
  signal: AbortSignal,
): Promise<Latency[]> {
  await using started = new AsyncDisposableStack();
  const subjects = [];
  for (const [dialect, alpn] of Object.entries(dialects)) {
    const via = (quicPort: number) => {
      if (delayMs === 0) return quicPort;
      return started.use(new UdpRelay({ host: "127.0.0.1", port: quicPort }, { delayMs })).addr
        .port;
    };
    const { port } = started.use(await start(alpn, via));
    await connectMany(port, WARM_UP_CONNECTIONS, signal);
    subjects.push({
      link: name,
      dialect: dialect as Dialect,
      port,
      p50: [] as number[],
      p99: [] as number[],
    });
  }
  for (let run = 0; run < runs; run++) {
    for (const { port, p50, p99 } of subjects) {
      const times = (await connectMany(port, connections, signal)).sort((a, b) => a - b);
      p50.push(times[times.length >> 1]!);
      p99.push(times[Math.floor(times.length * 0.99)]!);
    }
  }
  return subjects.map(({ port: _, ...latency }) => latency);
}

/** Times to the only byte of each, in milliseconds. */
async function connectMany(port: number, count: number, signal: AbortSignal): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) times.push(await download(port, 1, signal) * 1_000);
  return times;
}

/** What a new connection takes in this project's dialect, in parts of what it takes in the raw one. */
export function latencyRatio(latencies: readonly Latency[], link: string): Spread {
  const [own, raw] = (["qrht/1", "raw"] as const).map((dialect) =>
    latencies.find((latency) => latency.link === link && latency.dialect === dialect)!
  );
  const pairs = own!.p50.map((time, i) => time / raw!.p50[i]!);
  const { min, max } = spreadOf(pairs);
  return { median: spreadOf(own!.p50).median / spreadOf(raw!.p50).median, min, max };
}

/** The rows of a table. */
export function latencyRows(latencies: readonly Latency[]): string[][] {
  const rows = [["new connection, ms to its first byte", "runs", "p50", "[min to max]", "p99"]];
  for (const { link, dialect, p50, p99 } of latencies) {
    const { median, min, max } = spreadOf(p50);
    rows.push([
      `${link}, ${dialect}`,
      p50.length.toFixed(),
      median.toFixed(2),
      `[${min.toFixed(2)} to ${max.toFixed(2)}]`,
      spreadOf(p99).median.toFixed(2),
    ]);
  }
  return rows;
}
