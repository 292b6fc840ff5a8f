// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Monitor, Observer, Peer, TunnelRecord } from "./monitor.ts";
import type { StatusHistory } from "./status.ts";

/** Together ten minutes. */
const INTERVAL_MS = 5_000;
const INTERVALS = 120;

/** The times that are kept of one interval: enough for a 99th percentile. */
const MAX_TIMES = 1_000;

/** Bytes a second of a peer's connection. */
export interface PeerRates {
  readonly sent: number;
  readonly received: number;
}

interface Interval {
  readonly sentBytesPerSecond: number;
  readonly receivedBytesPerSecond: number;
  readonly connected: number;
  readonly failed: number;
  readonly open: number;
  readonly connectP50Ms: number | null;
  readonly connectP99Ms: number | null;
}

/** The last minutes of a program, interval by interval. */
export class History implements Observer {
  readonly #monitor: Monitor;
  readonly #intervals: Interval[] = [];
  #rates = new Map<Peer, PeerRates>();
  /** When the last interval ended, and what there was then. */
  #at = Date.now();
  #carried;
  #peers = new Map<Peer, PeerRates>();
  #connected = 0;
  #failed = 0;
  #times: number[] = [];

  constructor(monitor: Monitor) {
    this.#monitor = monitor;
    this.#carried = monitor.carried;
  }

  /** Begins a new interval at regular times, until the signal aborts. */
  run(signal: AbortSignal): void {
    const timer = setInterval(() => this.tick(), INTERVAL_MS);
    signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  }

  connected(_: TunnelRecord, seconds: number): void {
    // Each is kept with the same probability.
    const i = this.#connected++;
    const place = i < MAX_TIMES ? i : Math.floor(Math.random() * (i + 1));
    if (place < MAX_TIMES) this.#times[place] = seconds * 1_000;
  }

  ended({ connectedAt }: TunnelRecord): void {
    if (connectedAt === undefined) this.#failed++;
  }

  /** Ends an interval. */
  tick(now = Date.now()): void {
    const seconds = Math.max(now - this.#at, 1) / 1_000;
    const { carried, tunnels, peers } = this.#monitor;
    const times = this.#times.sort((a, b) => a - b);
    this.#intervals.push({
      sentBytesPerSecond: (carried.aToB - this.#carried.aToB) / seconds,
      receivedBytesPerSecond: (carried.bToA - this.#carried.bToA) / seconds,
      connected: this.#connected,
      failed: this.#failed,
      open: tunnels.size,
      connectP50Ms: quantile(times, 0.5),
      connectP99Ms: quantile(times, 0.99),
    });
    if (this.#intervals.length > INTERVALS) this.#intervals.shift();
    const totals = new Map<Peer, PeerRates>();
    this.#rates = new Map();
    for (const peer of peers) {
      const { sentBytes: sent, receivedBytes: received } = peer.stats();
      if (sent === undefined || received === undefined) continue;
      const before = this.#peers.get(peer) ?? { sent: 0, received: 0 };
      totals.set(peer, { sent, received });
      this.#rates.set(peer, {
        sent: (sent - before.sent) / seconds,
        received: (received - before.received) / seconds,
      });
    }
    this.#peers = totals;
    this.#carried = carried;
    this.#at = now;
    this.#connected = this.#failed = 0;
    this.#times = [];
  }

  /** Of the last interval; undefined of a peer whose bytes are not known. */
  ratesOf(peer: Peer): PeerRates | undefined {
    if (peer.stats().sentBytes === undefined) return undefined;
    return this.#rates.get(peer) ?? { sent: 0, received: 0 };
  }

  status(): StatusHistory {
    const column = <K extends keyof Interval>(name: K) =>
      this.#intervals.map((interval) => interval[name]);
    return {
      intervalMs: INTERVAL_MS,
      at: new Date(this.#at).toISOString(),
      sentBytesPerSecond: column("sentBytesPerSecond"),
      receivedBytesPerSecond: column("receivedBytesPerSecond"),
      connected: column("connected"),
      failed: column("failed"),
      open: column("open"),
      connectP50Ms: column("connectP50Ms"),
      connectP99Ms: column("connectP99Ms"),
    };
  }
}

/** Of numbers in their order, by the nearest rank; null when there are none. */
function quantile(sorted: readonly number[], q: number): number | null {
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? null;
}
