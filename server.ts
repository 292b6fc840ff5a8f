// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-server: each TCP connection becomes a QUIC stream to one of the agents that are connected. */
import { acceptEach } from "./lib/net/accept.ts";
import { type Authority, formatAuthority, formatSocketAddress } from "./lib/net/authority.ts";
import { listNames } from "./lib/tls/certificate.ts";
import { clientCertificateFaults, reasonsOf } from "./lib/tls/faults.ts";
import { checkServer } from "./lib/cli/check/programs.ts";
import type { Cidr } from "./lib/net/cidr.ts";
import { identifyClient } from "./lib/server/client.ts";
import { ConnectedAgent } from "./lib/server/connected_agent.ts";
import type { Duplex } from "./lib/tunnel/duplex.ts";
import { tcpDuplex } from "./lib/tunnel/tcp_duplex.ts";
import { endingOf, summarize } from "./lib/observe/ending.ts";
import { messageOf, UsageError } from "./lib/errors.ts";
import { hintForServer } from "./lib/observe/hints.ts";
import { logLargeDatagrams } from "./lib/observe/large_datagrams.ts";
import { loadTls, serverTlsFiles } from "./lib/cli/program_tls.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { handshakeResultOf, Monitor, type Tunnel } from "./lib/observe/monitor.ts";
import { onAbort } from "./lib/on_abort.ts";
import { drain } from "./lib/tunnel/drain.ts";
import { pipeDuplex, type TunnelTimeouts } from "./lib/tunnel/pipe.ts";
import { serverInfo } from "./lib/cli/programs.ts";
import { CloseCode } from "./lib/qrht/codes.ts";
import { startControl } from "./lib/qrht/control.ts";
import {
  ConnectionClosedError,
  describeClose,
  type ListenOptions,
  type PathOptions,
  pathOptions,
  type QuicConnection,
  QuicEndpoint,
  type QuicStream,
  tlsAlertOf,
  type TlsIdentity,
  type TlsSource,
} from "./lib/quic/mod.ts";
import { AgentRegistry, NoAgentError, type RegistryOptions } from "./lib/server/registry.ts";
import { Route, type RoutePolicy } from "./lib/server/route.ts";
import { TaskGroup } from "./lib/task_group.ts";
import { Throttle } from "./lib/server/throttle.ts";
import { startTunnelSpan } from "./lib/observe/trace.ts";
import { openFields } from "./lib/qrht/tunnel.ts";

export interface ServerConfig
  extends RoutePolicy, TunnelTimeouts, PathOptions, Omit<RegistryOptions, "random"> {
  /** Where clients connect. */
  readonly listenTcp: Authority;
  /** Where agents connect. */
  readonly listenQuic: Authority;
  /** Asked at the start of each handshake. */
  readonly tls: TlsIdentity | TlsSource;
  readonly alpn: readonly string[];
  /** Names of certificates whose agents are let in, as `--agent-name` has them; none for every agent. */
  readonly agentNames: readonly string[];
  /** Networks whose connections begin with a header of the PROXY protocol. */
  readonly acceptProxyProtocol: readonly Cidr[];
  /** Clients served at a time; further ones are closed at once. */
  readonly maxConnections: number;
  /** Agents connected at a time; further ones are sent away. */
  readonly maxAgents: number;
  /** Time that tunnels may go on when the server is told to stop; 0 for none. */
  readonly drainTimeoutMs: number;
  /** What the agents' logs are to call this server. */
  readonly name?: string | undefined;
}

export interface ServerOptions {
  /** Stops the server, after the drain. */
  readonly signal: AbortSignal;
  /** Called once both listeners are bound. */
  readonly ready?: (addresses: { tcp: Deno.NetAddr; quic: Deno.NetAddr }) => void;
  /** Is told what happens. */
  readonly monitor?: Monitor;
}

/** What to do when clients come and no agent is there. */
const NO_AGENT_HINT = "start an agent; if one runs, its log says why it cannot connect";

/** Clients that may come at once, until they are taken; of more, the system has some try again a second later. */
const TCP_BACKLOG = 4_096;

/** What the parts of a running server share. */
interface Server {
  readonly config: ServerConfig;
  /** The agents that take tunnels. */
  readonly registry: AgentRegistry<ConnectedAgent, QuicStream>;
  /** Every agent that is connected. */
  readonly agents: Set<ConnectedAgent>;
  readonly clients: TaskGroup;
  readonly monitor: Monitor;
  /** Clients that were too many. */
  readonly refusals: Throttle;
  /** Aborts when the server is told to stop. */
  readonly stopping: AbortSignal;
  /** Aborts when what is still under way is cut off. */
  readonly ended: AbortSignal;
}

const log = logger("server");

/**
 * Runs a server until the signal aborts.
 *
 * @throws {UsageError} when an address cannot be bound
 */
export async function runServer(config: ServerConfig, options: ServerOptions): Promise<void> {
  const { signal, monitor = new Monitor("proxy-server") } = options;
  await using endpoint = listenQuic(config, monitor);
  using listener = listenTcp(config.listenTcp);
  log.info("tcp listener on {address}", { address: addressOf(listener.addr as Deno.NetAddr) });
  log.info("quic listener on {address}", { address: addressOf(endpoint.addr) });
  options.ready?.({ tcp: listener.addr as Deno.NetAddr, quic: endpoint.addr });

  const ended = new AbortController();
  const server: Server = {
    config,
    registry: new AgentRegistry(config),
    agents: new Set(),
    clients: new TaskGroup(),
    monitor,
    refusals: new Throttle(),
    stopping: signal,
    ended: ended.signal,
  };
  monitor.isListening = true;
  const { maxConnections, maxAgents } = config;
  const pending_opens = server.registry.maxPending;
  monitor.readFrom({
    waiting: () => server.registry.pending,
    capacity: () => ({ connections: maxConnections, agents: maxAgents, pending_opens }),
  });
  const serveClients = async () => {
    await acceptEach(listener, log, signal, (client) => takeClient(client, server));
    await drainClients(server);
    server.registry.stopWaiting();
    ended.abort(new Error("the server stops"));
    await endpoint.close(CloseCode.ServerStopped, "server stopped");
    await server.clients.ended();
  };
  const stop = () => listener.close();
  signal.addEventListener("abort", stop);
  try {
    if (signal.aborted) stop();
    await Promise.all([acceptAgents(endpoint, server), serveClients()]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
  log.info("server stopped");
}

/** Tells the agents to open no further tunnels, and lets those that are open continue for a time. */
async function drainClients({ config, registry, agents, clients }: Server): Promise<void> {
  const { drainTimeoutMs } = config;
  if (drainTimeoutMs === 0 || clients.size === 0) return;
  log.info("draining", { tunnels: clients.size, drainTimeoutMs });
  registry.seal();
  for (const agent of agents) agent.control?.drain();
  const settled = (ms: number) =>
    Promise.all(Array.from(agents, ({ connection }) => connection.settled(ms)));
  if (await drain(clients, drainTimeoutMs, settled)) return;
  log.warn("tunnels are cut off", { tunnels: clients.size, drainTimeoutMs });
}

function listenQuic(config: ServerConfig, monitor: Monitor): QuicEndpoint {
  const { listenQuic: address, tls, alpn } = config;
  return bind("--listen-quic", address, () =>
    new QuicEndpoint({
      hostname: address.hostname,
      port: address.port,
      listen: { tls, alpn, ...pathOptions(config), handshakeFailed: failedHandshakeLog(monitor) },
    }));
}

function listenTcp(address: Authority): Deno.TcpListener {
  return bind(
    "--listen-tcp",
    address,
    () => Deno.listen({ hostname: address.hostname, port: address.port, tcpBacklog: TCP_BACKLOG }),
  );
}

/** What to do about a port that is taken; `bind()` says which. */
function portTaken({ port }: Authority): string {
  return `another program has port ${port}, perhaps a proxy-server: stop it, or choose another port`;
}

function bind<T>(flag: string, address: Authority, open: () => T): T {
  try {
    return open();
  } catch (error) {
    const hint = error instanceof Deno.errors.AddrInUse ? `; ${portTaken(address)}` : "";
    throw new UsageError(
      `cannot listen on ${flag} ${formatAuthority(address)}: ${messageOf(error)}${hint}`,
      { cause: error },
    );
  }
}

/** TLS alert (RFC 8446 §6.2). */
const UNKNOWN_CA = 48;

/** Time between two lines about failed handshakes of a level: anybody can cause them. */
const FAILED_HANDSHAKE_LINE_MS = 100;

/** Logs failed handshakes, with how many there were since the last line where that was not the only one. */
function failedHandshakeLog(monitor: Monitor): NonNullable<ListenOptions["handshakeFailed"]> {
  const throttles = {
    warn: new Throttle(FAILED_HANDSHAKE_LINE_MS),
    debug: new Throttle(FAILED_HANDSHAKE_LINE_MS),
  };
  return (info, { host, port }, certificates) => {
    monitor.notify((observer) => observer.handshake?.(handshakeResultOf(info)));
    // A peer that failed to show who it is, is worth a line; one that never answered is noise.
    const level = tlsAlertOf(info) === undefined ? "debug" : "warn";
    const times = throttles[level].pass();
    if (times === undefined) return;
    const alert = info.by === "local" ? tlsAlertOf(info) : undefined;
    const faults = alert === undefined
      ? []
      : clientCertificateFaults(certificates, alert !== UNKNOWN_CA);
    log[level]("agent refused", {
      remote: formatAuthority({ hostname: host, port }),
      reason: describeClose(info),
      error: reasonsOf(faults),
      hint: hintForServer(info, faults),
      times: times > 1 ? times : undefined,
    });
  };
}

async function acceptAgents(endpoint: QuicEndpoint, server: Server): Promise<void> {
  log.info("waiting for new quic client session");
  for (;;) {
    let connection: QuicConnection;
    try {
      connection = await endpoint.accept();
    } catch (error) {
      if (error instanceof ConnectionClosedError) return;
      throw error;
    }
    const agent = new ConnectedAgent(connection, server.config.agentNames);
    const refusal = refusalOf(agent, server);
    const result = refusal?.result ?? "ok";
    server.monitor.notify((observer) => observer.handshake?.(result));
    if (refusal === undefined) serveAgent(agent, server);
    else {
      const { code, reason, hint } = refusal;
      log.warn("agent refused", { ...agent.fields, names: listNames(agent.names), reason, hint });
      connection.close(code, reason);
    }
  }
}

interface Refusal {
  readonly result: "not-admitted" | "refused";
  readonly code: number;
  readonly reason: string;
  readonly hint?: string;
}

/** Why an agent is not taken; undefined when it is. */
function refusalOf(
  { isAllowed }: ConnectedAgent,
  { config: { maxAgents }, registry, agents, stopping }: Server,
): Refusal | undefined {
  if (!isAllowed) {
    const reason = "not admitted: the certificate has no name that is let in";
    const hint = "give --agent-name one of its names";
    return { result: "not-admitted", code: CloseCode.NotAdmitted, reason, hint };
  }
  const reason = stopping.aborted
    ? "the server drains"
    // Those that leave may be replaced meanwhile, as often as there are others.
    : registry.size >= maxAgents || agents.size >= 2 * maxAgents
    ? `${maxAgents} agents are connected already`
    : undefined;
  return reason === undefined
    ? undefined
    : { result: "refused", code: CloseCode.NoFurtherAgents, reason };
}

/** Offers an agent clients until it drains or its connection ends. */
function serveAgent(agent: ConnectedAgent, server: Server): void {
  const { registry, agents, monitor } = server;
  const { connection, fields, alpn } = agent;
  agents.add(agent);
  monitor.peers.add(agent);
  registry.add(agent);
  log.info("agent connected", { ...fields, alpn, agents: registry.size });
  listenTo(agent, server);
  logLargeDatagrams(connection, log, fields);
  connection.closed.then((info) => {
    agents.delete(agent);
    monitor.peers.delete(agent);
    registry.remove(agent);
    log.info("agent disconnected", {
      ...agent.fields,
      reason: describeClose(info),
      agents: registry.size,
    });
  });
}

/** What an agent says on its control stream. */
function listenTo(agent: ConnectedAgent, { registry, config: { name } }: Server): void {
  agent.control = startControl(agent.connection, { program: "proxy-server", name }, {
    hello: (hello) => log.info("agent says hello", { ...agent.fields, ...hello }),
    drain: () => {
      agent.isDraining = true;
      registry.remove(agent);
      log.info("agent drains", { ...agent.fields, agents: registry.size });
    },
    violated: (error) =>
      log.error("agent violates the protocol", { ...agent.fields, error: messageOf(error) }),
  });
}

/** Serves a client, unless there are too many. */
function takeClient(connection: Deno.TcpConn, server: Server): void {
  const { clients, refusals, monitor, config: { maxConnections } } = server;
  monitor.notify((observer) => observer.accepted?.());
  if (clients.size < maxConnections) return clients.add(serveClient(connection, server));
  const client = addressOf(connection.remoteAddr);
  connection.close();
  monitor.notify((observer) => observer.refused?.("max-connections"));
  const times = refusals.pass();
  if (times === undefined) return;
  const error = `${maxConnections} clients are connected already`;
  log.warn("clients refused", { client, error, times });
}

/** Finds an agent for a client and carries its bytes, to their end. */
async function serveClient(connection: Deno.TcpConn, server: Server): Promise<void> {
  const { config, registry, monitor, stopping, ended: signal } = server;
  const since = performance.now();
  const tunnelId = crypto.getRandomValues(new Uint8Array(16));
  let fields: Record<string, unknown> = { client: addressOf(connection.remoteAddr) };
  let carrier: Duplex | undefined;
  let record: Tunnel | undefined;
  const leave = () => carrier?.abort();
  const stay = onAbort(signal, leave);
  try {
    carrier = tcpDuplex(connection);
    const client = await identifyClient(carrier, connection, config.acceptProxyProtocol);
    if (!client) {
      monitor.notify((observer) => observer.refused?.("health-check"));
      log.debug("health check", fields);
      return await carrier[Symbol.asyncDispose]();
    }
    const { address, listener, via } = client;
    const open = { tunnelId, client: address, listener };
    const own = openFields(open);
    fields = { ...own, via: via && formatSocketAddress(via) };
    record = monitor.begin({ id: own.tunnel, client: own.client });
    log.debug("accepted tcp connection", fields);
    record.span = startTunnelSpan("server", open);
    const route = new Route(open, { ...config, registry, log, fields, span: record.span });
    const tunnel = await route.connect();
    const { connected } = tunnel;
    const { facts, watch } = record;
    connected.then(() => {
      facts.peer = route.agent;
      if (!route.failure) record?.connected();
    }, () => {});
    const result = await pipeDuplex(client.carrier, tunnel, {
      ...config,
      connected,
      signal,
      watch,
    });
    const summary = summarize(result, since, "server", route.failure);
    log.debug("tunnel ended", { ...fields, ...route.fields, ...summary });
    record.end({ ...summary, result: route.failure });
  } catch (error) {
    carrier?.abort();
    const durationMs = Math.round(performance.now() - since);
    const ending = endingOf(error, "client", "server");
    if (record) record.end(signal.aborted ? { by: "server", reason: "stopped" } : ending);
    else monitor.notify((observer) => observer.refused?.("proxy-header"));
    const line = { ...fields, durationMs, ...ending };
    const lacksAgents = error instanceof NoAgentError && registry.size === 0 && !stopping.aborted;
    const hint = lacksAgents ? NO_AGENT_HINT : undefined;
    if (!signal.aborted) log.warn("client refused", { ...line, hint });
    else log.debug("client refused", { ...line, by: "server", reason: "stopped" });
  } finally {
    stay();
  }
}

function addressOf(addr: Deno.NetAddr): string {
  return formatAuthority({ hostname: addr.hostname, port: addr.port });
}

if (import.meta.main) {
  await runProgram({
    ...serverInfo,
    check: checkServer,
    async run(values, surroundings) {
      const tls = await loadTls(serverTlsFiles(values), surroundings.monitor);
      const ready = () => void tls.watch(surroundings);
      await runServer({ ...values, tls }, { ...surroundings, ready });
    },
  });
}
