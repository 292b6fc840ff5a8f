// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-server: forwards each TCP connection to a connected agent, over a QUIC stream. */
import { checkServer } from "./lib/cli/check/programs.ts";
import { clientTlsFiles, loadClientTls, loadTls, serverTlsFiles } from "./lib/cli/program_tls.ts";
import { refuseWithoutMakeCerts } from "./lib/cli/program_flags.ts";
import { serverInfo } from "./lib/cli/programs.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { messageOf } from "./lib/errors.ts";
import { logger } from "./lib/log.ts";
import { acceptEach } from "./lib/net/accept.ts";
import { type Authority, formatAuthority, formatSocketAddress } from "./lib/net/authority.ts";
import { libc } from "./lib/net/libc.ts";
import { logTcpKeepalive } from "./lib/net/tcp_keepalive.ts";
import { logLargeDatagrams } from "./lib/observe/large_datagrams.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import { CloseCode } from "./lib/qrht/codes.ts";
import { startControl } from "./lib/qrht/control.ts";
import {
  ConnectionClosedError,
  describeClose,
  pathOptions,
  type QuicConnection,
  type QuicEndpoint,
  type QuicStream,
} from "./lib/quic/mod.ts";
import { rejectionOf } from "./lib/server/admission.ts";
import type { ServerConfig } from "./lib/server/config.ts";
import { ConnectedAgent } from "./lib/server/connected_agent.ts";
import { failedHandshakeLog } from "./lib/server/handshake_log.ts";
import { answerTo, giveAnswer } from "./lib/server/answer.ts";
import { AGENT_WAIT_MS, type Front, type FrontClient, type FrontMode } from "./lib/server/front.ts";
import {
  agentsOfFronts,
  changeFronts,
  clientsWithin,
  haveSameAddresses,
  listenForAgents,
  openFronts,
} from "./lib/server/listeners.ts";
import { AgentGroups } from "./lib/server/groups.ts";
import { type ClientService, serveClient } from "./lib/server/serve_client.ts";
import { LogThrottle, timesOf, tunnelThrottle, warnOrDebug } from "./lib/log_throttle.ts";
import type { TcpAddress } from "./lib/server/front.ts";
import { TaskGroup } from "./lib/task_group.ts";
import { listNames } from "./lib/tls/certificate.ts";
import { sleep } from "./lib/wait.ts";
import { drain } from "./lib/tunnel/drain.ts";
import type { TunnelTimeouts } from "./lib/tunnel/pipe.ts";
import { NotConnectedError } from "./lib/tunnel/failure.ts";

export interface ServerOptions {
  /** Stops the server, after the drain. */
  readonly signal: AbortSignal;
  /** Called once all listeners are bound. */
  readonly ready?: (listening: { fronts: readonly Front[]; quic: Authority }) => void;
  /** Records what happens. */
  readonly monitor?: Monitor;
  /**
   * Registers what takes another configuration over for new clients and agents. It throws a
   * `UsageError`, and changes nothing, when that contradicts itself.
   */
  readonly follow?: (change: (changes: LiveConfig) => void) => void;
}

/** What may change while a server runs. The addresses of listeners stay. */
type LiveConfig =
  & Pick<
    ServerConfig,
    | "listenTcp"
    | "routes"
    | "agentNames"
    | "agentWaitMs"
    | "connectTimeoutMs"
    | "maxAttempts"
    | "retryOn"
    | "drainTimeoutMs"
  >
  & TunnelTimeouts;

/** What the parts of a running server share. */
interface Server extends ClientService {
  config: ServerConfig;
  routePolicies: ClientService["routePolicies"];
  timeouts: TunnelTimeouts;
  readonly fronts: readonly Front[];
  /** Clients at a time, within what there are file descriptors for. */
  readonly maxConnections: number;
  /** All connected agents. Those that accept tunnels are in the registry. */
  readonly agents: Set<ConnectedAgent>;
  readonly clients: TaskGroup;
  /** Clients that are told that there are too many. */
  readonly turnedAway: TaskGroup;
  /** Rate limit of lines about too many clients. */
  readonly throttle: LogThrottle;
}

/** Time in which clients are accepted that have come before a listener is closed. */
const RETIRING_MS = 25;

/** Clients that are answered at a time beyond those that are served. */
const MAX_REFUSALS = 32;

const log = logger("server");

/**
 * Runs a server until the signal aborts.
 *
 * @throws {UsageError} when an address cannot be bound
 */
export async function runServer(config: ServerConfig, options: ServerOptions): Promise<void> {
  const { signal, monitor = new Monitor("proxy-server") } = options;
  await using endpoint = listenForAgents(config.listenQuic, {
    tls: config.tls,
    alpn: config.alpn,
    // Agents open no tunnels, in either dialect.
    maxStreams: 0,
    ...pathOptions(config),
    handshakeFailed: failedHandshakeLog(log, monitor, config.tls),
  });
  const groups = new AgentGroups<ConnectedAgent, QuicStream>({
    ...config,
    fronts: agentsOfFronts(config),
  });
  using opened = new DisposableStack();
  const fronts = await openFronts(config, opened, { log, monitor });
  for (const { kind, address, group, fields } of fronts) {
    log.info("{front} listener on {address}", { front: kind, address, group, ...fields });
  }
  log.info("quic listener on {address}", { address: formatAuthority(endpoint.addr) });
  logTcpKeepalive(log, config);
  const maxConnections = clientsWithin(config.maxConnections, log);
  options.ready?.({ fronts, quic: endpoint.addr });

  const ended = new AbortController();
  const server: Server = {
    config,
    fronts,
    maxConnections,
    routePolicies: policiesOf(config),
    timeouts: config,
    acceptProxyProtocol: config.acceptProxyProtocol,
    groups,
    agents: new Set(),
    clients: new TaskGroup(),
    turnedAway: new TaskGroup(),
    throttle: new LogThrottle(),
    refusals: tunnelThrottle(),
    monitor,
    log,
    stopping: signal,
    ended: ended.signal,
  };
  report(server, endpoint);
  options.follow?.((changes) => changeTo({ ...config, ...changes }, server));
  const closed = new AbortController();
  const closeFronts = async () => {
    if (closed.signal.aborted) return;
    for (const front of fronts) front.retire();
    await sleep(RETIRING_MS);
    closed.abort();
    opened.dispose();
  };
  const { promise: stopped, resolve: stop } = Promise.withResolvers<unknown>();
  const serveClients = async () => {
    const accepting = Promise.all(
      fronts.map((front) =>
        acceptEach(front, log, closed.signal, (client) => takeClient(client, front, server))
      ),
    );
    await Promise.race([accepting, stopped]);
    await drainClients(server, closeFronts);
    await closeFronts();
    await accepting;
    server.groups.stopWaiting();
    ended.abort(new Error("the server stops"));
    await endpoint.close(CloseCode.ServerStopped, "server stopped");
    await server.clients.ended();
    await server.turnedAway.ended();
  };
  signal.addEventListener("abort", stop);
  try {
    if (signal.aborted) stop(undefined);
    await Promise.all([acceptAgents(endpoint, server), serveClients()]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
  log.info("server stopped");
}

function policiesOf(config: ServerConfig): ClientService["routePolicies"] {
  const policyOf = (mode: FrontMode) => ({
    ...config,
    agentWaitMs: config.agentWaitMs ?? AGENT_WAIT_MS[mode],
  });
  return { raw: policyOf("raw"), "http-connect": policyOf("http-connect") };
}

/**
 * Takes a configuration over for new clients and agents. Agents that it leaves nothing get no
 * further tunnels, and go when those that they have are over.
 *
 * @throws {UsageError} when it contradicts itself: then nothing has changed
 */
function changeTo(config: ServerConfig, server: Server): void {
  const { groups, fronts, agents, monitor, stopping } = server;
  if (stopping.aborted) return;
  const { agentNames } = config;
  groups.change(
    { routes: config.routes, fronts: agentsOfFronts(config) },
    (agent) => agent.isAdmittedBy(agentNames),
  );
  changeFronts(fronts, config);
  server.config = config;
  server.routePolicies = policiesOf(config);
  server.timeouts = config;
  monitor.readFrom({ groups: groups.factsWith(fronts) });
  for (const agent of agents) {
    const ofAgent = agent.isAdmittedBy(agentNames) ? groups.ofAgent(agent) : [];
    agent.groups = ofAgent.flatMap(({ name }) => name ?? []);
    if (ofAgent.length === 0 && !agent.isDraining) void sendAway(agent);
  }
}

/** How often it is looked whether an agent that is sent away has tunnels. */
const SENT_AWAY_MS = 1_000;

/** Closes the connection of an agent when it has no tunnel any more. Never rejects. */
async function sendAway(agent: ConnectedAgent): Promise<void> {
  const { connection, fields } = agent;
  log.warn("agent is no longer admitted", { ...fields, tunnels: connection.streamCount });
  agent.isDraining = true;
  agent.control?.drain();
  let isClosed = false;
  connection.closed.then(() => isClosed = true);
  while (!isClosed && connection.streamCount > 0) {
    await Promise.race([sleep(SENT_AWAY_MS), connection.closed]);
  }
  connection.close(CloseCode.NotAdmitted, "no longer admitted");
}

/** Tells the monitor that the server listens, of its limits, and of the datagrams that come. */
function report(
  { monitor, groups, fronts, maxConnections, config: { maxAgents, maxPending } }: Server,
  endpoint: QuicEndpoint,
): void {
  monitor.isListening = true;
  const limits = {
    connections: maxConnections,
    agents: maxAgents,
    pending_opens: maxPending,
  };
  monitor.readFrom({
    waiting: () => groups.pending,
    groups: groups.factsWith(fronts),
    capacity: () => limits,
    datagrams: () => endpoint.stats,
  });
}

/** Takes agents until the endpoint is closed. */
async function acceptAgents(endpoint: QuicEndpoint, server: Server): Promise<void> {
  const { groups, agents, monitor, stopping } = server;
  const rejections = tunnelThrottle();
  log.info("waiting for new quic client session");
  for (;;) {
    let connection: QuicConnection;
    try {
      connection = await endpoint.accept();
    } catch (error) {
      if (error instanceof ConnectionClosedError) return;
      throw error;
    }
    const { agentNames, maxAgents } = server.config;
    const agent = new ConnectedAgent(connection, agentNames);
    agent.doubtPredecessors(agents);
    const ofAgent = groups.ofAgent(agent);
    agent.groups = ofAgent.flatMap(({ name }) => name ?? []);
    const rejection = rejectionOf(agent, {
      maxAgents,
      active: groups.size,
      isOfUse: ofAgent.length > 0,
      connected: agents.size,
      isStopping: stopping.aborted,
    });
    const result = rejection?.result ?? "ok";
    monitor.notify((observer) => observer.handshake?.(result));
    if (rejection === undefined) serveAgent(agent, server);
    else {
      const { code, reason, hint } = rejection;
      const times = rejections.pass();
      log[warnOrDebug(times)]("agent refused", {
        ...agent.fields,
        names: listNames(agent.names),
        reason,
        hint,
        times: timesOf(times),
      });
      connection.close(code, reason);
    }
  }
}

/** Offers an agent clients until it drains or its connection ends. */
function serveAgent(agent: ConnectedAgent, server: Server): void {
  const { groups, agents, monitor } = server;
  const { connection, fields, alpn } = agent;
  agents.add(agent);
  connection.maySpare = () => groups.hasAnother(agent);
  monitor.peers.add(agent);
  groups.add(agent);
  const { length } = agent.groups;
  const groupFields = length > 0 && { groups: listNames(agent.groups) };
  log.info("agent connected", { ...fields, alpn, ...groupFields, agents: groups.size });
  listenTo(agent, server);
  logLargeDatagrams(connection, log, fields);
  connection.closed.then((info) => {
    agents.delete(agent);
    monitor.peers.delete(agent);
    groups.remove(agent);
    log.info("agent disconnected", {
      ...agent.fields,
      reason: describeClose(info),
      agents: groups.size,
    });
  });
}

/** Handles an agent's control stream. */
function listenTo(
  agent: ConnectedAgent,
  { groups, fronts, config: { name, mode } }: Server,
): void {
  const answers = mode === undefined &&
    fronts.some((front) => front.mode === "http-connect" && groups.reaches(front.group, agent));
  agent.control = startControl(agent.connection, { program: "proxy-server", name }, {
    hello: (hello) => {
      log.info("hello from agent", { ...agent.fields, ...hello });
      if (!answers || hello.program !== "proxy-passthrough") return;
      const hint = "set --mode=raw, or http-connect if the upstream speaks CONNECT";
      log.warn("passthrough agent behind a front for CONNECT", { ...agent.fields, hint });
    },
    drain: () => {
      agent.isDraining = true;
      groups.remove(agent);
      log.info("agent is draining", { ...agent.fields, agents: groups.size });
    },
    violated: (error) =>
      log.error("agent violates the protocol", { ...agent.fields, error: messageOf(error) }),
  });
}

/** Serves a client, unless there are too many. */
function takeClient(connection: FrontClient, front: Front, server: Server): void {
  const { clients, turnedAway, throttle, monitor, maxConnections, ended } = server;
  monitor.notify((observer) => observer.accepted?.(front.kind));
  if (clients.size < maxConnections) return clients.add(serveClient(connection, front, server));
  const error = `${maxConnections} clients are already connected`;
  const { carrier, remote } = connection;
  if (front.mode === "http-connect" && turnedAway.size < MAX_REFUSALS) {
    const answer = answerTo(new NotConnectedError("overloaded", error));
    turnedAway.add(giveAnswer(carrier, answer, ended));
  } else void carrier[Symbol.asyncDispose]().then(undefined, () => {});
  monitor.notify((observer) => observer.refused?.("max-connections", front.kind));
  const times = throttle.pass();
  if (times === undefined) return;
  const client = remote && formatSocketAddress(remote);
  log.warn("clients refused", { client, error, times, front: front.kind });
}

/**
 * Tells the agents to drain, and lets open tunnels continue for a time. Clients are accepted until no
 * tunnel is open, or the last part of the drain begins, as long as agents are there to serve them.
 */
async function drainClients(server: Server, closeFronts: () => Promise<void>): Promise<void> {
  const { config, groups, agents, clients, monitor } = server;
  const { drainTimeoutMs } = config;
  if (drainTimeoutMs === 0) return;
  if (clients.size === 0) await closeFronts();
  if (clients.size === 0) return;
  log.info("draining", { tunnels: clients.size, drainTimeoutMs });
  const unserved = groups.seal();
  for (const agent of agents) agent.control?.drain();
  const isDrained = await drain(clients, {
    timeoutMs: drainTimeoutMs,
    settled: (ms) => Promise.all(Array.from(agents, ({ connection }) => connection.settled(ms))),
    cutSilent: (ms) => monitor.cutSilent(ms),
    accepting: { unserved, stop: closeFronts },
  });
  if (isDrained) return;
  log.warn("resetting tunnels after the drain timeout", { tunnels: clients.size, drainTimeoutMs });
}

/**
 * Gives up the permission to write files, which only a Unix socket needs: to be bound, and without
 * the C library to be removed.
 */
function stopWriting(): void {
  Deno.permissions.revokeSync({ name: "write" });
}

if (import.meta.main) {
  const live = {
    listenTcp: (from: unknown, to: unknown) =>
      haveSameAddresses(from as readonly TcpAddress[], to as readonly TcpAddress[]),
    routes: true,
    agentNames: true,
    agentWaitMs: true,
    connectTimeoutMs: true,
    maxAttempts: true,
    retryOn: true,
    drainTimeoutMs: true,
    halfOpenTimeoutMs: true,
    idleTimeoutMs: true,
    writeTimeoutMs: true,
  } as const satisfies Record<keyof LiveConfig, unknown>;
  await runProgram({
    ...serverInfo,
    check: checkServer,
    async makeCerts(values, write) {
      // Loaded only here: it is large, and a running server issues nothing.
      const { makeCerts } = await import("./lib/certs/make_certs.ts");
      await makeCerts({ ...values, makeCerts: values.makeCerts! }, write);
    },
    async run(values, surroundings) {
      refuseWithoutMakeCerts(values);
      if (values.udsName === undefined) stopWriting();
      const { monitor } = surroundings;
      const tls = await loadTls(serverTlsFiles(values), monitor);
      const clientFiles = clientTlsFiles(values);
      const clientTls = clientFiles && await loadClientTls(clientFiles, tls, monitor);
      const ready = () => {
        if (libc) stopWriting();
        void tls.watch(surroundings);
        void clientTls?.watch(surroundings);
        surroundings.ready();
      };
      await runServer({ ...values, tls, clientTls }, {
        ...surroundings,
        ready,
        follow: (change) => surroundings.follow({ live, apply: change }),
      });
    },
  });
}
