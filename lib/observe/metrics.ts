// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The metrics of a program, in the text format of Prometheus. docs/metrics.md describes them.
 *
 * If konnectivity (apiserver-network-proxy) has the same metric, its name after the prefix, its
 * meaning and its buckets are the same. No label contains a client or a target.
 */
import { CLIENT_PROTOCOLS } from "../tunnel/client_protocol.ts";
import { type Counter, type Histogram, Registry } from "prom-client";
import type { Reason } from "../tunnel/errors.ts";
import { failureCodes } from "../tunnel/failure.ts";
import { MetricSet, type ReadLabelled } from "./metric_set.ts";
import {
  type CarrierRefusal,
  carrierRefusals,
  type ConnectionRefusal,
  type FrontKind,
  frontKinds,
  type GroupFacts,
  type HandshakeResult,
  type Monitor,
  type Observer,
  type Peer,
  type TunnelEnding,
  type TunnelRecord,
} from "./monitor.ts";
import { labelOf, PeerTotals } from "./peer_totals.ts";
import type { PeerStats } from "../quic/mod.ts";
import { addProcessMetrics } from "./process_metrics.ts";
import { readinessOf } from "./readiness.ts";
import { usabilityOf } from "../tls/usability.ts";

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

// All values of some labels. Each series starts at 0, so that rate() includes the first event.
const serverDialFailures: readonly { reason: ServerDialFailure; code: string }[] = [
  ...(["no_agent", "backend_dial_timeout", "backend_close", "frontend_close", "other"] as const)
    .map((reason) => ({ reason, code: "" })),
  ...["", ...failureCodes].map((code) => ({ reason: "error_response" as const, code })),
];
const commonRefusals = [
  "max-connections",
  "health-check",
  "proxy-header",
  "bad-request",
  "no-route",
] as const satisfies ConnectionRefusal[];
const tlsRefusals = [
  "handshake",
  "handshake-limit",
  "certificate",
  "not-admitted",
] as const satisfies ConnectionRefusal[];
const refusals = frontKinds.flatMap((front) =>
  [...commonRefusals, ...(front === "tls" ? tlsRefusals : [])].map((reason) => ({ reason, front }))
);
const handshakeResults: Readonly<Record<"server" | "agent", readonly HandshakeResult[]>> = {
  server: ["ok", "tls", "timeout", "not-admitted", "refused", "error"],
  agent: ["ok", "tls", "timeout", "error"],
};

const transports = ["udp", "tcp"] as const satisfies Peer["transport"][];

function isServing({ isDraining, isResponsive }: Peer): boolean {
  return !isDraining && isResponsive;
}

/** The metrics of one program. */
export class Metrics implements Observer {
  readonly #registry = new Registry();
  readonly #metrics: MetricSet;
  readonly #monitor: Monitor;
  readonly #tunnels: Counter<"by" | "reason">;
  readonly #dialDuration: Histogram;
  readonly #dialFailures: Counter;
  readonly #duration: Histogram;
  readonly #handshakes: Counter<"result">;
  readonly #transportChanges: Counter<"transport"> | undefined;
  readonly #accepted: Counter<"front"> | undefined;
  readonly #refused: Counter<"reason" | "front"> | undefined;
  readonly #carriersRefused: Counter<"reason"> | undefined;
  /** Tunnels of each group that were not connected. */
  readonly #groupFailures = new Map<string, number>();
  readonly #byProtocol: Counter<"via"> | undefined;
  readonly #peerTotals = new PeerTotals();
  /** The connections at the last scrape, those to peers of one name together. */
  #peers: ReadonlyMap<string, PeerStats> = new Map();

  constructor(monitor: Monitor) {
    const { isServer } = monitor;
    const end = isServer ? "server" : "agent";
    const prefix = `quic_tunnel_${end}_`;
    const metrics = new MetricSet(this.#registry, prefix);
    this.#metrics = metrics;
    this.#monitor = monitor;
    if (isServer) {
      this.#addServer();
      this.#addGroups();
    } else this.#addAgent();
    this.#addState();
    this.#addConnections(isServer ? "agent" : "server");
    this.#tunnels = metrics.counter(
      "tunnels_total",
      "Ended tunnels, by the party that ended them and the reason.",
      ["by", "reason"],
    );
    this.#dialDuration = metrics.histogram(
      "dial_duration_seconds",
      isServer
        ? "Time until an agent has connected a client to its target, in seconds."
        : "Time until a target is connected, including name resolution, in seconds.",
      DIAL_BUCKETS[end],
    );
    this.#duration = metrics.histogram(
      "connection_duration_seconds",
      "How long tunnels were connected, in seconds.",
      DURATION_BUCKETS,
    );
    this.#dialFailures = isServer
      ? metrics.counter(
        "dial_failures_total",
        "Clients that were not connected to a target, by reason; code is the cause that the agent reported.",
        ["reason", "code"],
        serverDialFailures,
      )
      : metrics.counter(
        "endpoint_dial_failure_total",
        "Targets that were not connected, by reason.",
        ["reason"],
        failureCodes.map((reason) => ({ reason })),
      );
    this.#handshakes = metrics.counter(
      "handshakes_total",
      "QUIC handshakes, by result.",
      ["result"],
      handshakeResults[end].map((result) => ({ result })),
    );
    if (!isServer) {
      this.#transportChanges = metrics.counter(
        "transport_changes_total",
        "Changes of what carries the datagrams of connections to servers, by the new transport.",
        ["transport"],
        transports.map((transport) => ({ transport })),
      );
    }
    if (isServer) {
      this.#accepted = metrics.counter(
        "accepted_connections_total",
        "Accepted connections of clients, by the listener.",
        ["front"],
        frontKinds.map((front) => ({ front })),
      );
      this.#refused = metrics.counter(
        "refused_connections_total",
        "Connections refused before an agent was selected, by reason and listener.",
        ["reason", "front"],
        refusals,
      );
      this.#carriersRefused = metrics.counter(
        "refused_carriers_total",
        "Connections to the fallback listener that no agent has come through, by reason.",
        ["reason"],
        carrierRefusals.map((reason) => ({ reason })),
      );
    }
    if (monitor.program === "proxy-agent") {
      this.#byProtocol = metrics.counter(
        "client_requests_total",
        "Requests of clients, by protocol, counted when their tunnel ends.",
        ["via"],
        CLIENT_PROTOCOLS.map((via) => ({ via })),
      );
    }
    addProcessMetrics(this.#registry, prefix, monitor.startedAt);
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

  connected(_: TunnelRecord, seconds: number): void {
    this.#dialDuration.observe(seconds);
  }

  ended({ connectedAt, facts }: TunnelRecord, { by, reason, result }: TunnelEnding): void {
    this.#tunnels.inc({ by: by ?? "", reason });
    if (facts.via) this.#byProtocol?.inc({ via: facts.via });
    // In the raw dialect, a tunnel counts as connected until the agent has reset it, or has taken
    // too long to answer.
    if (connectedAt !== undefined && reason !== "refused" && reason !== "connect-timeout") {
      this.#duration.observe((performance.now() - connectedAt) / 1_000);
    } else if (this.#monitor.isServer) {
      const cause = by === "client" ? "frontend_close" : dialFailures[reason] ?? "other";
      this.#dialFailures.inc({ reason: result ? "error_response" : cause, code: result ?? "" });
      const { group } = facts;
      if (group !== undefined) {
        this.#groupFailures.set(group, (this.#groupFailures.get(group) ?? 0) + 1);
      }
    } else if (result) this.#dialFailures.inc({ reason: result });
  }

  accepted(front: FrontKind): void {
    this.#accepted?.inc({ front });
  }

  refused(reason: ConnectionRefusal, front: FrontKind): void {
    this.#refused?.inc({ reason, front });
  }

  carrierRefused(reason: CarrierRefusal): void {
    this.#carriersRefused?.inc({ reason });
  }

  handshake(result: HandshakeResult): void {
    this.#handshakes.inc({ result });
  }

  transportChanged(transport: Peer["transport"]): void {
    this.#transportChanges?.inc({ transport });
  }

  #addServer(): void {
    const [metrics, monitor] = [this.#metrics, this.#monitor];
    const { peers, tunnels } = monitor;
    metrics.gauge(
      "ready_backends",
      "Agents that accept tunnels and respond.",
      () => [...peers].filter(isServing).length,
    );
    metrics.gauge(
      "connected_agents",
      "Connected agents, including those that drain or do not respond.",
      () => peers.size,
    );
    metrics.gauge(
      "pending_opens",
      "Clients that wait for an agent, or for a stream of one.",
      () => monitor.waiting,
    );
    metrics.gauge(
      "pending_backend_dials",
      "Clients that are not connected to their target yet.",
      () => tunnels.size - monitor.established,
    );
    metrics.gauge(
      "established_connections",
      "Clients that are connected to their target.",
      () => monitor.established,
    );
    metrics.gauge("http_connections", "Open client connections.", () => tunnels.size);
    metrics.gauge(
      "carriers",
      "Connections to the fallback listener, which carry QUIC in place of UDP.",
      () => monitor.carriers,
    );
    metrics.counters(
      "quic_dropped_datagrams_total",
      "UDP datagrams that the QUIC listener has dropped, by reason.",
      "reason",
      () => Object.entries(monitor.datagrams?.dropped ?? {}),
    );
    metrics.total(
      "quic_retries_total",
      "QUIC Retry packets sent.",
      () => monitor.datagrams?.retries ?? 0,
    );
  }

  /** Those of several groups; where there are none, nothing. */
  #addGroups(): void {
    const [metrics, monitor] = [this.#metrics, this.#monitor];
    const read = (countOf: (group: GroupFacts) => number): ReadLabelled => () =>
      monitor.groups.map((group) => [labelOf(group.name), countOf(group)]);
    const gauge = (name: string, help: string, countOf: (group: GroupFacts) => number) =>
      metrics.gauges(`group_${name}`, `${help}, by group of agents.`, "group", read(countOf));
    const agentsOf = (group: string) =>
      [...monitor.peers].filter(({ groups }) => groups?.includes(group));
    gauge(
      "ready_backends",
      "Agents that accept tunnels and respond",
      ({ name }) => agentsOf(name).filter(isServing).length,
    );
    gauge("connected_agents", "Connected agents", ({ name }) => agentsOf(name).length);
    gauge("http_connections", "Open client connections", ({ name }) => monitor.openOfGroup(name));
    gauge(
      "pending_opens",
      "Clients that wait for an agent, or for a stream of one",
      ({ waiting }) => waiting,
    );
    metrics.counters(
      "group_dial_failures_total",
      "Clients that were not connected to a target, by group of agents.",
      "group",
      read(({ name }) => this.#groupFailures.get(name) ?? 0),
    );
  }

  #addAgent(): void {
    const [metrics, monitor] = [this.#metrics, this.#monitor];
    metrics.gauge(
      "open_server_connections",
      "Connections to servers, including draining ones.",
      () => monitor.peers.size,
    );
    metrics.gauge(
      "known_servers",
      "Addresses of --server, after name resolution.",
      () => monitor.knownServers,
    );
    metrics.gauge(
      "open_endpoint_connections",
      "Connections to targets.",
      () => monitor.established,
    );
    metrics.gauges(
      "quic_library",
      "Connections to servers, by what makes them: binding or deno.",
      "library",
      () => {
        const counts = Map.groupBy(monitor.peers, ({ library }) => library ?? "binding");
        return Array.from(counts, ([library, peers]) => [library, peers.length] as const);
      },
    );
  }

  /** What both ends have. */
  #addState(): void {
    const [metrics, monitor] = [this.#metrics, this.#monitor];
    metrics.gauges(
      "transport_connections",
      `Connections to ${monitor.isServer ? "agents" : "servers"}, by what carries their datagrams.`,
      "transport",
      () =>
        transports.map((transport) => [
          transport,
          [...monitor.peers].filter((peer) => peer.transport === transport).length,
        ]),
    );
    metrics.gauge("ready", "1 while /readyz returns 200, else 0.", () => {
      const checks = readinessOf(monitor);
      return checks.every(({ problem }) => problem === undefined) ? 1 : 0;
    });
    metrics.gauges(
      "capacity",
      monitor.isServer
        ? "Limits of the server: connections, agents and pending opens."
        : "Limits of the agent: connections to targets.",
      "of",
      () => Object.entries(monitor.capacity),
    );
    metrics.counters(
      "carried_bytes_total",
      "Bytes carried by tunnels, including open ones.",
      "direction",
      () => {
        const { aToB, bToA } = monitor.carried;
        return [["to_target", aToB], ["to_client", bToA]];
      },
    );
    metrics.total(
      "log_dropped_lines_total",
      "Log lines dropped because stderr is not read, or cannot be written.",
      () => monitor.droppedLogLines,
    );
    metrics.gauges(
      "certificate_expiration_timestamp_seconds",
      "When a file stops to be of use: expiry of the own certificate, or of the last CA.",
      "file",
      () => {
        const files = usabilityOf(monitor.certificates, new Date());
        return files.map(({ flag, decisive }) =>
          [flag.replace(/^--/, ""), decisive.notAfter.getTime() / 1_000] as const
        );
      },
    );
  }

  /** The connections, those to peers of one name together. */
  #addConnections(label: "agent" | "server"): void {
    const read = (of: keyof PeerStats, unit = 1) => () =>
      [...this.#peers].flatMap(([name, { [of]: value }]) =>
        value === undefined ? [] : [[name, value * unit] as const]
      );
    const gauge = (name: string, help: string, of: keyof PeerStats, unit?: number) =>
      this.#metrics.gauges(`quic_${name}`, help, label, read(of, unit));
    const counter = (name: string, help: string, of: keyof PeerStats) =>
      this.#metrics.counters(`quic_${name}_total`, help, label, read(of));
    gauge("smoothed_rtt_seconds", "Smoothed round-trip time.", "rttMs", 1 / 1_000);
    gauge("congestion_window_bytes", "Congestion window.", "congestionWindowBytes");
    gauge("streams", "Open streams.", "streams");
    gauge("stream_credit", "Streams that this end may open now.", "streamCredit");
    counter("sent_packets", "Packets sent.", "sentPackets");
    counter("received_packets", "Packets received.", "receivedPackets");
    counter("lost_packets", "Sent packets that were lost.", "lostPackets");
    counter("sent_bytes", "Bytes of UDP payload sent.", "sentBytes");
    counter("received_bytes", "Bytes of UDP payload received.", "receivedBytes");
  }
}
