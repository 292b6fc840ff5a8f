// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The metrics of a program, in the text format of Prometheus. docs/metrics.md describes them.
 *
 * Where konnectivity (apiserver-network-proxy) has a metric for the same fact, the name that follows the prefix, the
 * meaning and the buckets are the same. No label holds a client or a target.
 */
import { cpuUsage } from "node:process";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Reason } from "./ending.ts";
import type {
  ConnectionRefusal,
  HandshakeResult,
  Monitor,
  Observer,
  Tunnel,
  TunnelEnding,
} from "./monitor.ts";
import type { ConnectionStats } from "./quic/mod.ts";
import type { ProgramName } from "./programs.ts";
import { readinessOf } from "./readiness.ts";
import { version } from "./version.ts";

/** Buckets of konnectivity, in seconds. */
const DIAL_BUCKETS = {
  server: [0.000001, 0.00001, 0.0001, 0.005, 0.025, 0.1, 0.5, 2.5, 12.5],
  agent: [0.005, 0.025, 0.1, 0.5, 2.5, 10, 30],
};
const DURATION_BUCKETS = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 14400, 43200, 86400];

/** Why a server's dial has failed, in konnectivity's words, by how the tunnel ended. */
const dialFailures: Partial<Record<Reason, string>> = {
  "no-agent": "no_agent",
  "refused": "error_response",
  "connect-timeout": "backend_dial_timeout",
  "connection-lost": "backend_close",
  "connection-closed": "backend_close",
};

/** A value that is read when it is asked for. */
type Read = () => number;

/** The metrics of one program. */
export class Metrics implements Observer {
  readonly #registry = new Registry();
  readonly #prefix: string;
  readonly #isServer: boolean;
  readonly #monitor: Monitor;
  readonly #tunnels;
  readonly #dialDuration;
  readonly #dialFailures;
  readonly #duration;
  readonly #handshakes;
  readonly #accepted: Counter | undefined;
  readonly #refused: Counter<"reason"> | undefined;

  constructor(program: ProgramName, monitor: Monitor) {
    this.#monitor = monitor;
    this.#isServer = program === "proxy-server";
    const end = this.#isServer ? "server" : "agent";
    this.#prefix = `quic_tunnel_${end}_`;
    this.#addState(program);
    this.#tunnels = this.#counter(
      "tunnels_total",
      "Tunnels that have ended, by who ended them and why.",
      ["by", "reason"],
    );
    this.#dialDuration = this.#histogram(
      "dial_duration_seconds",
      this.#isServer
        ? "Time until an agent has connected a client to its target."
        : "Time until a target was connected to.",
      DIAL_BUCKETS[end],
    );
    this.#duration = this.#histogram(
      "connection_duration_seconds",
      "Time that a tunnel was connected.",
      DURATION_BUCKETS,
    );
    this.#dialFailures = this.#isServer
      ? this.#counter(
        "dial_failures_total",
        "Clients that were not connected to a target; code is what the agent has said.",
        ["reason", "code"],
      )
      : this.#counter(
        "endpoint_dial_failure_total",
        "Targets that were not connected to, by reason.",
        ["reason"],
      );
    this.#handshakes = this.#counter(
      "handshakes_total",
      "QUIC handshakes, by result.",
      ["result"],
    );
    if (this.#isServer) {
      this.#accepted = this.#counter("accepted_connections_total", "TCP connections accepted.");
      this.#refused = this.#counter(
        "refused_connections_total",
        "TCP connections that no agent was looked for.",
        ["reason"],
      );
    }
    this.#addProcess();
  }

  /** Media type of the text. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  /** All metrics now. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  connected(_: Tunnel, seconds: number): void {
    this.#dialDuration.observe(seconds);
  }

  ended({ connectedAt }: Tunnel, { by, reason, result }: TunnelEnding): void {
    this.#tunnels.inc({ by: by ?? "", reason });
    if (connectedAt !== undefined) {
      this.#duration.observe((performance.now() - connectedAt) / 1_000);
    } else if (this.#isServer) {
      const cause = by === "client" ? "frontend_close" : dialFailures[reason] ?? "other";
      this.#dialFailures.inc({ reason: result ? "error_response" : cause, code: result ?? "" });
    } else if (result) this.#dialFailures.inc({ reason: result });
  }

  accepted(): void {
    this.#accepted?.inc();
  }

  refused(reason: ConnectionRefusal): void {
    this.#refused?.inc({ reason });
  }

  handshake(result: HandshakeResult): void {
    this.#handshakes.inc({ result });
  }

  #addState(program: ProgramName): void {
    const monitor = this.#monitor;
    const { peers, tunnels } = monitor;
    const serving = () => [...peers].filter(({ isDraining }) => !isDraining).length;
    if (this.#isServer) {
      this.#gauge("ready_backends", "Agents that take tunnels.", serving);
      this.#gauge(
        "connected_agents",
        "Agents connected, draining ones included.",
        () => peers.size,
      );
      this.#gauge(
        "pending_opens",
        "Clients that wait for an agent, or for a stream of one.",
        () => monitor.waiting?.() ?? 0,
      );
      this.#gauge(
        "pending_backend_dials",
        "Clients that are not connected to their target yet.",
        () => tunnels.size - monitor.established,
      );
      this.#gauge(
        "established_connections",
        "Tunnels that are connected to their target.",
        () => monitor.established,
      );
      this.#gauge("http_connections", "Clients that are served.", () => tunnels.size);
    } else {
      this.#gauge("open_server_connections", "Connections to servers.", () => peers.size);
      this.#gauge(
        "known_server_count",
        "Addresses of servers that it is to be connected to.",
        () => monitor.knownServers?.() ?? 0,
      );
      this.#gauge(
        "open_endpoint_connections",
        "Connections to targets.",
        () => monitor.established,
      );
    }
    this.#gauge("ready", "Whether the program is ready, as /readyz has it.", () => {
      const checks = readinessOf(program, monitor, new Date());
      return checks.every(({ problem }) => problem === undefined) ? 1 : 0;
    });
    this.#carried();
    this.#quic();
    this.#certificates();
  }

  #carried(): void {
    const monitor = this.#monitor;
    this.#counter(
      "carried_bytes_total",
      "Bytes that tunnels have carried, open ones included.",
      ["direction"],
      (counter) => {
        const { aToB, bToA } = monitor.carried;
        counter.inc({ direction: "to_target" }, aToB);
        counter.inc({ direction: "to_client" }, bToA);
      },
    );
  }

  /** The connections, those to peers of one name together. */
  #quic(): void {
    const peer = this.#isServer ? "agent" : "server";
    const byName = (combine: (a: number, b: number) => number, of: keyof ConnectionStats) => {
      const values = new Map<string, number>();
      for (const each of this.#monitor.peers) {
        const value = each.stats()[of];
        const before = values.get(each.name);
        values.set(each.name, before === undefined ? value : combine(before, value));
      }
      return values;
    };
    const sum = (a: number, b: number) => a + b;
    const gauge = (
      name: string,
      help: string,
      of: keyof ConnectionStats,
      { combine = sum, unit = 1 } = {},
    ) =>
      new Gauge({
        name: `${this.#prefix}quic_${name}`,
        help,
        labelNames: [peer],
        registers: [this.#registry],
        collect() {
          this.reset();
          for (const [name, value] of byName(combine, of)) this.set({ [peer]: name }, value * unit);
        },
      });
    const counter = (name: string, help: string, of: keyof ConnectionStats) =>
      this.#counter(`quic_${name}_total`, help, [peer], (counter) => {
        for (const [name, value] of byName(sum, of)) counter.inc({ [peer]: name }, value);
      });
    gauge("smoothed_rtt_seconds", "Smoothed round-trip time.", "rttMs", {
      combine: Math.max,
      unit: 1 / 1_000,
    });
    gauge("congestion_window_bytes", "Congestion window.", "congestionWindowBytes");
    gauge("streams", "Streams open.", "streams");
    gauge("stream_credit", "Streams that may be opened right now.", "streamCredit");
    counter("sent_packets", "Packets sent.", "sentPackets");
    counter("received_packets", "Packets received.", "receivedPackets");
    counter("lost_packets", "Packets sent that were lost.", "lostPackets");
    counter("sent_bytes", "Bytes of UDP payload sent.", "sentBytes");
    counter("received_bytes", "Bytes of UDP payload received.", "receivedBytes");
  }

  #certificates(): void {
    const monitor = this.#monitor;
    new Gauge({
      name: `${this.#prefix}certificate_expiration_timestamp_seconds`,
      help: "When the first of the certificates in a file expires, in seconds since 1970.",
      labelNames: ["file"],
      registers: [this.#registry],
      collect() {
        this.reset();
        const first = new Map<string, number>();
        for (const { flag, info } of monitor.certificates()) {
          const at = info.notAfter.getTime() / 1_000;
          first.set(flag, Math.min(at, first.get(flag) ?? Infinity));
        }
        for (const [flag, at] of first) this.set({ file: flag.replace(/^--/, "") }, at);
      },
    });
  }

  #addProcess(): void {
    const registers = [this.#registry];
    const gauge = (name: string, help: string, read: Read) =>
      new Gauge({
        name,
        help,
        registers,
        collect() {
          this.set(read());
        },
      });
    const startedAt = this.#monitor.startedAt / 1_000;
    new Counter({
      name: "process_cpu_seconds_total",
      help: "User and system CPU time.",
      registers,
      collect() {
        this.reset();
        const { user, system } = cpuUsage();
        this.inc((user + system) / 1e6);
      },
    });
    gauge("process_start_time_seconds", "When the program started, since 1970.", () => startedAt);
    const memory = (name: string, help: string, of: keyof Deno.MemoryUsage) =>
      gauge(name, help, () => Deno.memoryUsage()[of]);
    memory("process_resident_memory_bytes", "Resident memory.", "rss");
    memory("deno_heap_used_bytes", "Memory of JavaScript objects.", "heapUsed");
    memory("deno_heap_size_bytes", "Memory that the JavaScript heap has.", "heapTotal");
    memory("deno_external_memory_bytes", "Memory of buffers outside of it.", "external");
    new Gauge({
      name: "deno_event_loop_lag_seconds",
      help: "Time until a callback that is due at once has run.",
      registers,
      async collect() {
        const asked = performance.now();
        await new Promise((resolve) => setTimeout(resolve, 0));
        this.set((performance.now() - asked) / 1_000);
      },
    });
    const { target } = Deno.build;
    new Gauge({
      name: `${this.#prefix}build_info`,
      help: "Always 1; the labels say what the program is made of.",
      labelNames: ["version", "deno", "target"],
      registers,
    }).set({ version, deno: Deno.version.deno, target }, 1);
  }

  #gauge(name: string, help: string, read: Read): void {
    new Gauge({
      name: this.#prefix + name,
      help,
      registers: [this.#registry],
      collect() {
        this.set(read());
      },
    });
  }

  /** @param fill gives it its values anew each time, where they are counted elsewhere */
  #counter(
    name: string,
    help: string,
    labelNames: string[] = [],
    fill?: (counter: Counter) => void,
  ): Counter {
    return new Counter({
      name: this.#prefix + name,
      help,
      labelNames,
      registers: [this.#registry],
      ...(fill && {
        collect(this: Counter) {
          this.reset();
          fill(this);
        },
      }),
    });
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: this.#prefix + name, help, buckets, registers: [this.#registry] });
  }
}
