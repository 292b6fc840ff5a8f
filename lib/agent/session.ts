// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What both agents share: a connection to a server, whose streams go to a handler. */
import { CloseCode } from "../qrht/codes.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { explainConnectError, hintOf, reasonOf } from "./connect_error.ts";
import { speaksQrht } from "../qrht/dialect.ts";
import { endingOf } from "../observe/ending.ts";
import { messageOf } from "../errors.ts";
import { logLargeDatagrams } from "../observe/large_datagrams.ts";
import type { Logger } from "../log.ts";
import { timesOf, tunnelThrottle, warnOrDebug } from "../log_throttle.ts";
import { ConnectedPeer } from "../observe/connected_peer.ts";
import { connectResultOf, type Monitor, type TunnelRecord } from "../observe/monitor.ts";
import { drain } from "../tunnel/drain.ts";
import type { TunnelTimeouts } from "../tunnel/pipe.ts";
import { type Control, startControl } from "../qrht/control.ts";
import { type AgentStream, identityOf, type QuicLibrary } from "../quic/mod.ts";
import { type ConnectOptions, MAX_STREAMS, type OpenConnection } from "./open_connection.ts";
import type { CarrierConfig } from "./carrier.ts";
import type { TransportChoice, TransportPolicyOptions } from "./transport_policy.ts";
import type { Resolver } from "../net/resolver.ts";
import type { TcpKeepaliveOptions } from "../net/tcp_keepalive.ts";
import { TaskGroup } from "../task_group.ts";
import { sleep } from "../wait.ts";
import { startTunnelSpan } from "../observe/trace.ts";
import { acceptTunnel, type IncomingTunnel, openFields } from "../qrht/tunnel.ts";
import type { Failure } from "../tunnel/failure.ts";

export interface AgentConfig
  extends TunnelTimeouts, TcpKeepaliveOptions, ConnectOptions, CarrierConfig {
  /** QUIC addresses of the servers: IP addresses, or names, which stand for all their addresses. */
  readonly servers: readonly Authority[];
  /** Time that connecting to a target may take. */
  readonly dialTimeoutMs: number;
  /** Time a client has for the head of its CONNECT request. @default {10000} */
  readonly headTimeoutMs?: number;
  /** How long open tunnels may continue after a stop signal; 0 for not at all. */
  readonly drainTimeoutMs: number;
  /**
   * How long a connection to a draining server may have no tunnel until this end closes it, if the
   * server does not.
   *
   * @default {30000}
   */
  readonly drainedIdleMs?: number;
  /** Name of this agent in the server's log, in addition to its certificate's. */
  readonly name?: string | undefined;
  /** What may carry the datagrams of the connections. */
  readonly transport: TransportChoice;
  /** Times of `auto`. @default those of {@linkcode TransportPolicyOptions} */
  readonly transportTimes?: TransportPolicyOptions;
  /** How long UDP has to work beside TCP until it takes its place. @default {5000} */
  readonly udpTrialMs?: number;
  /** Resolves names of servers. @default {the system's} */
  readonly serverResolver?: Resolver;
  /** Time after which names of servers are resolved again. @default {30000} */
  readonly refreshMs?: number;
  /**
   * Upper bounds of the first pause before reconnecting, and of any pause.
   *
   * @default {{ minMs: 250, maxMs: 10000 }}
   */
  readonly backoff?: { readonly minMs: number; readonly maxMs: number };
}

/** A tunnel as the program behind an agent sees it. */
export interface ServedTunnel extends IncomingTunnel {
  /** Its log fields: connection and stream, and tunnel ID and client if the server sends them. */
  readonly fields: Readonly<Record<string, unknown>>;
  /** Its record in the monitor, which must learn when it is dialled, connected and ended. */
  readonly record: TunnelRecord;
  /** Whether the server may abandon it: see {@linkcode ConnectedPeer}. */
  readonly mayBeAbandoned: boolean;
}

export interface AgentSessionOptions {
  readonly log: Logger;
  /** Records what happens. */
  readonly monitor: Monitor;
  /** Ends everything, after the drain. */
  readonly signal: AbortSignal;
  /** Serves one tunnel until it ends, or the session ends and aborts the signal. Must not throw. */
  serve(tunnel: ServedTunnel, signal: AbortSignal): Promise<void>;
  /** Refuses a tunnel. Must not throw. */
  refuse(tunnel: ServedTunnel, failure: Failure): Promise<void>;
}

/**
 * How long a replaced connection in the raw dialect may have no tunnel until it is closed. The raw
 * dialect cannot announce that, so a stream opened just then is lost for its client. A server that
 * has run out of stream credit opens none.
 */
const RAW_QUIET_MS = 1_000;

/**
 * Share of its streams that a connection may lose before it is replaced. The rest is enough to
 * serve until the replacement is connected.
 */
const MAX_CUT_SHARE = 0.5;

/** A connection to a server, whose streams are served until it ends. */
export class AgentSession extends ConnectedPeer {
  /** Address of the server. */
  override readonly name: string;
  override readonly library: QuicLibrary;
  readonly #opened: OpenConnection;
  readonly #config: AgentConfig;
  readonly #options: AgentSessionOptions;
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #tunnels = new TaskGroup();
  readonly #refusals = tunnelThrottle();
  /** Streams that the server has opened so far. */
  #streams = 0;
  #serverDrains = false;
  #isReplaced = false;
  /** When UDP is to be tried again, in ms since 1970. */
  override nextUdpTrialAt: number | undefined = undefined;
  /** Aborts when the connection has ended. */
  readonly #ended = new AbortController();
  readonly #replaceable = Promise.withResolvers<void>();
  #control: Control | undefined;

  private constructor(
    opened: OpenConnection,
    address: Authority,
    config: AgentConfig,
    options: AgentSessionOptions,
  ) {
    super(opened.connection);
    this.#opened = opened;
    this.#config = config;
    this.#options = options;
    const { number, id: cid, library } = opened.connection;
    this.library = library;
    this.name = formatAuthority(address);
    this.#fields = { server: this.name, connection: number, cid };
  }

  /**
   * Connects to a server.
   *
   * @param address its IP address and port
   * @param open makes the connection
   * @throws with the cause in its message when that fails
   * @throws the signal's reason when it aborts first
   */
  static async connect(
    address: Authority,
    config: AgentConfig,
    options: AgentSessionOptions,
    signal: AbortSignal,
    open: (signal: AbortSignal) => Promise<OpenConnection>,
  ): Promise<AgentSession> {
    options.log.debug("dialing quic server", { server: formatAuthority(address) });
    const tls = identityOf(config.tls);
    try {
      const opened = await open(signal);
      options.monitor.notify((observer) => observer.handshake?.("ok"));
      return new AgentSession(opened, address, config, options);
    } catch (error) {
      if (!signal.aborted) {
        options.monitor.notify((observer) => observer.handshake?.(connectResultOf(error)));
      }
      throw explainConnectError(error, tls, config.serverName);
    }
  }

  override get isDraining(): boolean {
    return this.#serverDrains || this.#isReplaced;
  }

  /** Resolves when this connection is to be replaced: it has ended, or the server is draining. */
  get replaceable(): Promise<void> {
    return this.#replaceable.promise;
  }

  /** Serves streams until the connection has ended, and they with it. Never rejects. */
  async serve(): Promise<void> {
    const { log, signal, monitor } = this.#options;
    monitor.peers.add(this);
    const other = {
      transport: this.transport === "udp" ? undefined : this.transport,
      library: this.library === "deno" ? this.library : undefined,
    };
    log.info("connected to quic server", { ...this.#fields, alpn: this.alpn, ...other });
    logLargeDatagrams(this.connection, log, this.#fields);
    let leaving: Promise<void> | undefined;
    const leave = () => leaving = this.#leave();
    try {
      this.#control = this.#listen();
      signal.addEventListener("abort", leave);
      if (signal.aborted) void leave();
      for (;;) {
        const stream = await this.connection.acceptStream();
        log.trace("stream accepted", { ...this.#fields, stream: stream.id });
        this.#streams++;
        this.#tunnels.add(this.#serveStream(stream));
      }
    } catch (error) {
      const isExpected = signal.aborted || this.#serverDrains || this.#isReplaced;
      const level = isExpected ? "info" : "warn";
      log[level]("disconnected from quic server", {
        ...this.#fields,
        reason: reasonOf(error),
        hint: isExpected ? undefined : hintOf(error),
      });
      this.#ended.abort(error);
    }
    monitor.peers.delete(this);
    signal.removeEventListener("abort", leave);
    this.#replaceable.resolve();
    await this.#tunnels.ended();
    await leaving;
    await this.#opened.close(CloseCode.AgentLeaves);
  }

  async #leave(): Promise<void> {
    await this.#drain();
    this.connection.close(CloseCode.AgentLeaves, "agent stopped");
  }

  /** Lets open tunnels continue for a time, and delivers their last bytes. New ones are refused. */
  async #drain(): Promise<void> {
    const { drainTimeoutMs } = this.#config;
    if (drainTimeoutMs === 0) return;
    const { log, monitor } = this.#options;
    log.info("draining", { ...this.#fields, tunnels: this.#tunnels.size, drainTimeoutMs });
    this.#control?.drain();
    const settled = (ms: number) => this.connection.settled(ms);
    const cutSilent = (ms: number) => monitor.cutSilent(ms);
    if (await drain(this.#tunnels, { timeoutMs: drainTimeoutMs, settled, cutSilent })) return;
    log.warn("resetting tunnels after the drain timeout", {
      ...this.#fields,
      tunnels: this.#tunnels.size,
    });
  }

  /** Handles the server's control stream. */
  #listen(): Control | undefined {
    const { log, monitor: { program } } = this.#options;
    return startControl(this.connection, { program, name: this.#config.name }, {
      hello: (hello) => log.info("hello from server", { ...this.#fields, ...hello }),
      drain: () => {
        log.info("server is draining", { ...this.#fields, tunnels: this.#tunnels.size });
        this.#serverDrains = true;
        this.#replaceable.resolve();
        void this.#leaveWhenIdle("the server is draining");
      },
      violated: (error) =>
        log.error("server violates the protocol", { ...this.#fields, error: messageOf(error) }),
    });
  }

  /** Replaces this connection before the server runs out of streams. */
  #replaceIfCut(): void {
    const { log } = this.#options;
    const { maxStreams = MAX_STREAMS } = this.#config;
    const { cutStreams } = this.connection;
    if (this.#isReplaced || this.#ended.signal.aborted || cutStreams < maxStreams * MAX_CUT_SHARE) {
      return;
    }
    log.info("replacing connection", { ...this.#fields, cutStreams, maxStreams });
    this.replace();
  }

  /** Another connection takes the place of this one, which ends when it has no tunnel any more. */
  replace(): void {
    if (this.#isReplaced || this.#ended.signal.aborted) return;
    this.#isReplaced = true;
    this.#control?.drain();
    this.#replaceable.resolve();
    void this.#leaveWhenIdle("the connection was replaced");
  }

  /**
   * Closes the connection after a time without a tunnel. A server that drains, or has received
   * DRAIN, opens no more tunnels, and may close the connection itself.
   */
  async #leaveWhenIdle(reason: string): Promise<void> {
    const { drainedIdleMs = 30_000 } = this.#config;
    const idleMs = speaksQrht(this.alpn) ? drainedIdleMs : RAW_QUIET_MS;
    while (!this.#ended.signal.aborted) {
      await this.#tunnels.ended();
      const before = this.#streams;
      await sleep(idleMs, this.#ended.signal);
      if (this.#streams === before) return this.connection.close(CloseCode.AgentLeaves, reason);
    }
  }

  async #serveStream(stream: AgentStream): Promise<void> {
    const { log, monitor, signal, serve, refuse } = this.#options;
    const own = { stream: stream.id, cid: this.connection.id };
    const record = monitor.begin({ id: `${stream.id}`, peer: this.name });
    try {
      const accepted = await acceptTunnel(stream, this.alpn);
      if (!accepted) {
        const ending = { by: "server", reason: "end" } as const;
        record.end(ending);
        return log.debug("tunnel refused", { ...own, ...ending });
      }
      const { tunnel: id, client } = openFields(accepted.open);
      const fields = { stream: stream.id, tunnel: id, client, cid: own.cid };
      record.facts.client = client;
      record.facts.id = id ?? record.facts.id;
      record.span = startTunnelSpan("agent", { ...accepted.open, ...own });
      const mayBeAbandoned = this.mayAbandonStreams;
      const tunnel = { ...accepted, fields, record, mayBeAbandoned };
      // The raw dialect cannot refuse: the client would only see an end, instead of another agent.
      const isRefused = signal.aborted && speaksQrht(this.alpn);
      if (!isRefused) return await serve(tunnel, this.#ended.signal);
      await refuse(tunnel, { code: "draining", text: "the agent is draining" });
    } catch (error) {
      stream.abort();
      const ending = endingOf(error, "server", "agent");
      record.end(ending);
      const times = this.#refusals.pass();
      const level = warnOrDebug(times);
      log[level]("stream refused", { ...own, ...ending, times: timesOf(times) });
    } finally {
      this.#replaceIfCut();
    }
  }
}
