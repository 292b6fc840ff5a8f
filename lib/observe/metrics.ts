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
import type { Reason } from "../tunnel/errors.ts";
import { failureCodes } from "../qrht/failure.ts";
import type {
  ConnectionRefusal,
  HandshakeResult,
  Monitor,
  Observer,
  Tunnel,
  TunnelEnding,
} from "./monitor.ts";
import { PeerTotals } from "./peer_totals.ts";
import type { ConnectionStats } from "../quic/mod.ts";
import { version } from "../version.ts";
import { readinessOf } from "./readiness.ts";

/** Buckets of konnectivity, in seconds. */
const DIAL_BUCKETS = {
  server: [0.000001, 0.00001, 0.0001, 0.005, 0.025, 0.1, 0.5, 2.5, 12.5],
  agent: [0.005, 0.025, 0.1, 0.5, 2.5, 10, 30],
};
const DURATION_BUCKETS = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 14400, 43200, 86400];

/** Why a server's dial has failed, in konnectivity's words, by how the tunnel ended. */
const dialFailures: Partial<Record<Reason, ServerDialFailure>> = {
  "no-agent": "no_agent",
  "refused": "error_response",
  "connect-timeout": "backend_dial_timeout",
  "connection-lost": "backend_close",
  "connection-closed": "backend_close",
};

type ServerDialFailure =
  | "no_agent"
  | "error_response"
  | "backend_dial_timeout"
  | "backend_close"
  | "frontend_close"
  | "other";

// What there may be of some labels. Each begins at 0, so that the first event is a change that rate() sees.
const serverDialFailures: readonly { reason: ServerDialFailure; code: string }[] = [
  ...(["no_agent", "backend_dial_timeout", "backend_close", "frontend_close", "other"] as const)
    .map((reason) => ({ reason, code: "" })),
  ...["", ...failureCodes].map((code) => ({ reason: "error_response" as const, code })),
];
const refusals: readonly ConnectionRefusal[] = ["max-connections", "health-check", "proxy-header"];
const handshakeResults: Readonly<Record<"server" | "agent", readonly HandshakeResult[]>> = {
  server: ["ok", "tls", "timeout", "not-admitted", "refused", "error"],
  agent: ["ok", "tls", "timeout", "error"],
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
  readonly #dialFailures: Counter;
  readonly #duration;
  readonly #handshakes;
  readonly #peerTotals = new PeerTotals();
  /** The connections at the last scrape, those to peers of one name together. */
  #peers: ReadonlyMap<string, ConnectionStats> = new Map();
  readonly #accepted: Counter | undefined;
  readonly #refused: Counter<"reason"> | undefined;

  constructor(monitor: Monitor) {
    this.#monitor = monitor;
    this.#isServer = monitor.isServer;
    const end = this.#isServer ? "server" : "agent";
    this.#prefix = `quic_tunnel_${end}_`;
    this.#addState();
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
        "Clients that were not connected to a target, by reason; code is what the agent has said.",
        ["reason", "code"],
        serverDialFailures,
      )
      : this.#counter(
        "endpoint_dial_failure_total",
        "Targets that were not connected to, by reason.",
        ["reason"],
        failureCodes.map((reason) => ({ reason })),
      );
    this.#handshakes = this.#counter(
      "handshakes_total",
      "QUIC handshakes, by result.",
      ["result"],
      handshakeResults[end].map((result) => ({ result })),
    );
    if (this.#isServer) {
      this.#accepted = this.#counter("accepted_connections_total", "TCP connections accepted.");
      this.#refused = this.#counter(
        "refused_connections_total",
        "TCP connections for which no agent was looked for, by reason.",
        ["reason"],
        refusals.map((reason) => ({ reason })),
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
    this.#peers = this.#peerTotals.take(this.#monitor.peers);
    return this.#registry.metrics();
  }

  connected(_: Tunnel, seconds: number): void {
    this.#dialDuration.observe(seconds);
  }

  ended({ connectedAt }: Tunnel, { by, reason, result }: TunnelEnding): void {
    this.#tunnels.inc({ by: by ?? "", reason });
    // In the raw dialect, a tunnel counts as connected until the agent has reset it.
    if (connectedAt !== undefined && reason !== "refused") {
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

  #addState(): void {
    const monitor = this.#monitor;
    const { peers, tunnels } = monitor;
    const serving = () =>
      [...peers].filter(({ isDraining, isResponsive }) => !isDraining && isResponsive).length;
    if (this.#isServer) {
      this.#gauge("ready_backends", "Agents that take tunnels, and answer.", serving);
      this.#gauge(
        "connected_agents",
        "Agents connected, those included that drain or do not answer.",
        () => peers.size,
      );
      this.#gauge(
        "pending_opens",
        "Clients that wait for an agent, or for a stream of one.",
        () => monitor.waiting,
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
      this.#capacity();
    } else {
      this.#gauge("open_server_connections", "Connections to servers.", () => peers.size);
      this.#gauge(
        "known_servers",
        "Addresses of servers that it is to be connected to.",
        () => monitor.knownServers,
      );
      this.#gauge(
        "open_endpoint_connections",
        "Connections to targets.",
        () => monitor.established,
      );
    }
    this.#gauge("ready", "Whether the program is ready, as /readyz has it.", () => {
      const checks = readinessOf(monitor);
      return checks.every(({ problem }) => problem === undefined) ? 1 : 0;
    });
    this.#carried();
    this.#quic();
    this.#certificates();
  }

  #capacity(): void {
    const monitor = this.#monitor;
    new Gauge({
      name: `${this.#prefix}capacity`,
      help: "How many connections, agents and pending opens the server takes at a time.",
      labelNames: ["of"],
      registers: [this.#registry],
      collect() {
        for (const [of, most] of Object.entries(monitor.capacity)) this.set({ of }, most);
      },
    });
  }

  #carried(): void {
    const monitor = this.#monitor;
    this.#reread("carried_bytes_total", "Bytes that tunnels have carried, open ones included.", {
      label: "direction",
      fill(counter) {
        const { aToB, bToA } = monitor.carried;
        counter.inc({ direction: "to_target" }, aToB);
        counter.inc({ direction: "to_client" }, bToA);
      },
    });
  }

  /** The connections, those to peers of one name together. */
  #quic(): void {
    const label = this.#isServer ? "agent" : "server";
    const peers = () => this.#peers;
    const gauge = (name: string, help: string, of: keyof ConnectionStats, unit = 1) =>
      new Gauge({
        name: `${this.#prefix}quic_${name}`,
        help,
        labelNames: [label],
        registers: [this.#registry],
        collect() {
          this.reset();
          for (const [name, stats] of peers()) this.set({ [label]: name }, stats[of] * unit);
        },
      });
    const counter = (name: string, help: string, of: keyof ConnectionStats) =>
      this.#reread(`quic_${name}_total`, help, {
        label,
        fill(counter) {
          for (const [name, stats] of peers()) counter.inc({ [label]: name }, stats[of]);
        },
      });
    gauge("smoothed_rtt_seconds", "Smoothed round-trip time.", "rttMs", 1 / 1_000);
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
        for (const { flag, info } of monitor.certificates) {
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

  /** @param known what there may be of its labels, if that is little */
  #counter<Label extends string = never>(
    name: string,
    help: string,
    labelNames: Label[] = [],
    known: readonly Record<Label, string>[] = [],
  ): Counter<Label> {
    const registers = [this.#registry];
    const counter = new Counter({ name: this.#prefix + name, help, labelNames, registers });
    for (const labels of known) counter.inc(labels, 0);
    return counter;
  }

  /** A counter of what is counted elsewhere. @param fill gives it its values anew each time */
  #reread(
    name: string,
    help: string,
    { label, fill }: { label: string; fill: (counter: Counter) => void },
  ): void {
    new Counter({
      name: this.#prefix + name,
      help,
      labelNames: [label],
      registers: [this.#registry],
      collect() {
        this.reset();
        fill(this);
      },
    });
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: this.#prefix + name, help, buckets, registers: [this.#registry] });
  }
}
