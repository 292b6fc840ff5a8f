// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The state of a running program: its peers, its tunnels, and totals of ended ones. Metrics, status
 * page, readiness and snapshots read it. It costs one object per tunnel.
 */
import type { ClientProtocol } from "../tunnel/client_protocol.ts";
import type { FileCertificate } from "../tls/material.ts";
import type { ProgramName } from "../version.ts";
import type { Ending } from "./ending.ts";
import {
  type CloseInfo,
  ConnectionClosedError,
  type EndpointStats,
  type PeerStats,
  type QuicLibrary,
  tlsAlertOf,
} from "../quic/mod.ts";
import type { TracedEnding, TunnelSpan } from "./trace.ts";
import type { FailureCode } from "../tunnel/failure.ts";
import type { Carried, PipeUnderWay } from "../tunnel/pipe.ts";

/**
 * A peer acknowledges PINGs, sent every 2 s. If it is silent for longer than this, it may be gone.
 */
export const RESPONSIVE_MS = 3_000;

/** A peer at the other end of a QUIC connection: an agent, as a server sees it, or a server. */
export interface Peer {
  /** Its name in the log. */
  readonly name: string;
  /** Its IP address and port now. */
  readonly address: string;
  /** What carries the datagrams of the connection. */
  readonly transport: "udp" | "tcp";
  /** When UDP is to be tried again, in ms since 1970, by an agent that does so. */
  readonly nextUdpTrialAt?: number | undefined;
  readonly alpn: string;
  /** When it connected, in ms since 1970. */
  readonly since: number;
  /** Whether it has announced that it accepts, or opens, no further tunnels. */
  readonly isDraining: boolean;
  /**
   * Whether a packet of it has arrived within {@linkcode RESPONSIVE_MS}, and nothing says that it
   * may be gone.
   */
  readonly isResponsive: boolean;
  /** Names of the groups that an agent belongs to, where a server has several. */
  readonly groups?: readonly string[];
  /** What makes its connection. */
  readonly library?: QuicLibrary;
  stats(): PeerStats;
}

/** Agents of a server that serve the same clients: one of several groups. */
export interface GroupFacts {
  readonly name: string;
  /** Clients that wait for one of its agents, or for a stream of one. */
  readonly waiting: number;
  /** Where clients connect that only it serves. */
  readonly listeners: readonly string[];
  /** Targets that are routed to it, the most specific first. */
  readonly routes: readonly string[];
}

/** What is known about a tunnel so far. */
export interface TunnelFacts {
  /** The tunnel's id, or the stream's where there is none. */
  id?: string | undefined;
  client?: string | undefined;
  /** What it has connected to; only servers know it. */
  front?: FrontKind | undefined;
  /** Name of the group that serves it; only servers with several know it. */
  group?: string | undefined;
  /** The requested target; only agents know it. */
  target?: string | undefined;
  /** Protocol of the client, such as `socks5`; only agents know it. */
  via?: ClientProtocol | undefined;
  /** Name of the agent that carries it, or address of the server that it is from. */
  peer?: string | undefined;
}

/** How a tunnel ended; `result` says why an agent has not connected it. */
export type TunnelEnding = TracedEnding & Ending & { readonly result?: FailureCode | undefined };

/** What carries the bytes of a server's clients: the kinds of its listeners for them. */
export const frontKinds = ["tcp", "tls", "unix"] as const;
export type FrontKind = typeof frontKinds[number];

/** Why a server has not served a connection. */
export type ConnectionRefusal =
  | "max-connections"
  | "health-check"
  | "proxy-header"
  /** Of clients of listeners with routes: no request, or one for a target without a route. */
  | "bad-request"
  | "no-route"
  /** Of TLS clients: a handshake that has failed or took too long, or that there are too many. */
  | "handshake"
  | "handshake-limit"
  /** A certificate that is missing or wrong, or has no admitted name. */
  | "certificate"
  | "not-admitted";

/** Why a server has not taken a connection for a carrier of an agent. */
export const carrierRefusals = [
  "handshake",
  "limit",
  "request",
  "proxy-header",
  "health-check",
] as const;
export type CarrierRefusal = typeof carrierRefusals[number];

/** How a handshake on QUIC has ended. */
export type HandshakeResult = "ok" | "tls" | "timeout" | "not-admitted" | "refused" | "error";

/** The result of a handshake that has failed, by how its connection ended. */
export function handshakeResultOf(info: CloseInfo): HandshakeResult {
  if (tlsAlertOf(info) !== undefined) return "tls";
  return info.by === "timeout" ? "timeout" : "error";
}

/** The result of a handshake that has failed, by the error of the connection. */
export function connectResultOf(error: unknown): HandshakeResult {
  const cause = error instanceof Error && error.cause ? error.cause : error;
  return cause instanceof ConnectionClosedError ? handshakeResultOf(cause.info) : "error";
}

/** Callbacks for events, all optional. They must not throw. */
export interface Observer {
  /** A tunnel was connected, `seconds` after the attempt began. */
  connected?(tunnel: TunnelRecord, seconds: number): void;
  ended?(tunnel: TunnelRecord, ending: TunnelEnding): void;
  /** An agent's connection to a server is over another transport than the one before. */
  transportChanged?(to: Peer["transport"]): void;
  /** A connection of a client was accepted. */
  accepted?(front: FrontKind): void;
  refused?(reason: ConnectionRefusal, front: FrontKind): void;
  /** A connection was refused that an agent may have wanted to use in place of UDP. */
  carrierRefused?(reason: CarrierRefusal): void;
  handshake?(result: HandshakeResult): void;
}

/** A tunnel in progress. */
export class TunnelRecord {
  /** When it began, in ms since 1970. */
  readonly since = Date.now();
  #began = performance.now();
  readonly facts: TunnelFacts;
  /** When it was connected, by `performance.now()`. */
  connectedAt: number | undefined;
  /** Ends with it. */
  span: TunnelSpan | undefined;
  #carried: Carried & Partial<PipeUnderWay> = { aToB: 0, bToA: 0 };
  readonly #monitor: Monitor;

  /** @internal Records come from {@linkcode Monitor.begin}. */
  constructor(monitor: Monitor, facts: TunnelFacts) {
    this.#monitor = monitor;
    this.facts = facts;
  }

  /** Bytes so far: `aToB` of the client's, `bToA` of the target's. */
  get carried(): Carried {
    return this.#carried;
  }

  /** Takes bytes from a pipe, from now on. */
  readonly watch = (pipe: Carried & Partial<PipeUnderWay>): void => {
    this.#carried = pipe;
  };

  /** Cuts it if no byte has moved for a time, in milliseconds, since it was connected. */
  cutIfSilent(ms: number): void {
    this.#carried.abortIfSilent?.(ms);
  }

  /** From now on it is being connected, to a target if that is known now. */
  connecting(target?: string): void {
    if (target !== undefined) this.facts.target = target;
    this.#began = performance.now();
  }

  /** It is connected to its target. */
  connected(): void {
    if (this.connectedAt !== undefined || !this.#monitor.tunnels.has(this)) return;
    this.connectedAt = performance.now();
    this.#monitor.connected(this, (this.connectedAt - this.#began) / 1_000);
  }

  /** It is over. */
  end(ending: TunnelEnding): void {
    this.span?.end(ending);
    this.#monitor.end(this, ending);
  }
}

/** Limits of a program: tunnels, and those of a server: connected agents, waiting clients. */
export type Bounded = "connections" | "agents" | "pending_opens";

/** Values that parts of the program provide and the monitor reads on demand. All are optional. */
export interface Sources {
  /** The certificates in use, the own one first. */
  readonly certificates?: () => readonly FileCertificate[];
  /** Server addresses that an agent keeps connections to. */
  readonly knownServers?: () => number;
  /** Clients of a server that wait for an agent, or for a stream of one. */
  readonly waiting?: () => number;
  /** Groups of a server's agents, if there are several. */
  readonly groups?: () => readonly GroupFacts[];
  /** Limits; none where it is not known. */
  readonly capacity?: () => Readonly<Partial<Record<Bounded, number>>>;
  /** Datagrams of a server's QUIC endpoint. */
  readonly datagrams?: () => EndpointStats;
  /** Carriers of agents, where a server takes some. */
  readonly carriers?: () => number;
  /** Log lines that were dropped because nobody reads them. */
  readonly droppedLogLines?: () => number;
}

/** What one program knows of itself. */
export class Monitor {
  /** When it started, in ms since 1970. */
  readonly startedAt = Date.now();
  readonly tunnels = new Set<TunnelRecord>();
  readonly peers = new Set<Peer>();
  /** Bytes of tunnels that have ended. */
  readonly #carried = { aToB: 0, bToA: 0 };
  #established = 0;
  /** Tunnels of each group. */
  readonly #openOfGroups = new Map<string, number>();
  readonly #observers: Observer[] = [];
  #sources: Sources = {};
  /** Whether a server has bound its listeners. */
  isListening = false;
  isDraining = false;

  /** @param name `--name` of the program */
  constructor(readonly program: ProgramName, readonly name?: string) {}

  observe(observer: Observer): void {
    this.#observers.push(observer);
  }

  /** Calls every observer: `notify((observer) => observer.ended?.(tunnel, ending))`. */
  notify(call: (observer: Observer) => void): void {
    for (const observer of this.#observers) call(observer);
  }

  /** Adds sources; one that was given before is replaced. */
  readFrom(sources: Sources): void {
    this.#sources = { ...this.#sources, ...sources };
  }

  get isServer(): boolean {
    return this.program === "proxy-server";
  }

  get certificates(): readonly FileCertificate[] {
    return this.#sources.certificates?.() ?? [];
  }

  get knownServers(): number {
    return this.#sources.knownServers?.() ?? 0;
  }

  get waiting(): number {
    return this.#sources.waiting?.() ?? 0;
  }

  get groups(): readonly GroupFacts[] {
    return this.#sources.groups?.() ?? [];
  }

  get capacity(): Readonly<Partial<Record<Bounded, number>>> {
    return this.#sources.capacity?.() ?? {};
  }

  get datagrams(): EndpointStats | undefined {
    return this.#sources.datagrams?.();
  }

  get carriers(): number {
    return this.#sources.carriers?.() ?? 0;
  }

  get droppedLogLines(): number {
    return this.#sources.droppedLogLines?.() ?? 0;
  }

  begin(facts: TunnelFacts = {}): TunnelRecord {
    const tunnel = new TunnelRecord(this, facts);
    this.tunnels.add(tunnel);
    this.#countOfGroup(facts, 1);
    return tunnel;
  }

  #countOfGroup({ group }: TunnelFacts, change: number): void {
    if (group === undefined) return;
    this.#openOfGroups.set(group, this.openOfGroup(group) + change);
  }

  /** Tunnels of a group, connected to their targets or not. */
  openOfGroup(group: string): number {
    return this.#openOfGroups.get(group) ?? 0;
  }

  /** @internal */
  connected(tunnel: TunnelRecord, seconds: number): void {
    this.#established++;
    this.notify((observer) => observer.connected?.(tunnel, seconds));
  }

  /** @internal */
  end(tunnel: TunnelRecord, ending: TunnelEnding): void {
    if (!this.tunnels.delete(tunnel)) return;
    this.#countOfGroup(tunnel.facts, -1);
    if (tunnel.connectedAt !== undefined) this.#established--;
    this.#carried.aToB += tunnel.carried.aToB;
    this.#carried.bToA += tunnel.carried.bToA;
    this.notify((observer) => observer.ended?.(tunnel, ending));
  }

  /** Cuts the tunnels in which no byte has moved for a time, in milliseconds. */
  cutSilent(ms: number): void {
    for (const tunnel of this.tunnels) tunnel.cutIfSilent(ms);
  }

  /** Bytes of all tunnels, those that have ended included. */
  get carried(): Carried {
    let { aToB, bToA } = this.#carried;
    for (const { carried } of this.tunnels) {
      aToB += carried.aToB;
      bToA += carried.bToA;
    }
    return { aToB, bToA };
  }

  /** Tunnels that are connected to their targets now. */
  get established(): number {
    return this.#established;
  }
}
