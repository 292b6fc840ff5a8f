// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-server: forwards each TCP connection to a connected agent, over a QUIC stream. */
import { checkServer } from "./lib/cli/check/programs.ts";
import {
  clientTlsFiles,
  loadClientTls,
  loadTls,
  serverTlsFiles,
  tryOutFallback,
} from "./lib/cli/program_tls.ts";
import { refuseWithoutMakeCerts } from "./lib/cli/program_flags.ts";
import { serverInfo } from "./lib/cli/programs.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { LogThrottle, tunnelThrottle } from "./lib/log_throttle.ts";
import { acceptEach } from "./lib/net/accept.ts";
import { type Authority, formatAuthority, formatSocketAddress } from "./lib/net/authority.ts";
import { libc } from "./lib/net/libc.ts";
import { logTcpKeepalive } from "./lib/net/tcp_keepalive.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import { CloseCode } from "./lib/qrht/codes.ts";
import { pathOptions, type QuicEndpoint, type QuicStream } from "./lib/quic/mod.ts";
import { answerTo, giveAnswer } from "./lib/server/answer.ts";
import type { ServerConfig } from "./lib/server/config.ts";
import type { ConnectedAgent } from "./lib/server/connected_agent.ts";
import { drainClients } from "./lib/server/drain_clients.ts";
import type { FallbackListener } from "./lib/server/fallback_listener.ts";
import type { Front, FrontClient } from "./lib/server/front.ts";
import { AgentGroups } from "./lib/server/groups.ts";
import { failedHandshakeLog } from "./lib/server/handshake_log.ts";
import {
  agentsOfFronts,
  clientsWithin,
  listenForAgents,
  openFallback,
  openFronts,
} from "./lib/server/listeners.ts";
import { changeTo, live, type LiveConfig } from "./lib/server/reload.ts";
import { policiesOf, type RunningServer } from "./lib/server/running_server.ts";
import { acceptAgents } from "./lib/server/serve_agents.ts";
import { serveClient } from "./lib/server/serve_client.ts";
import { TaskGroup } from "./lib/task_group.ts";
import { NotConnectedError } from "./lib/tunnel/failure.ts";
import { sleep } from "./lib/wait.ts";

export interface ServerOptions {
  /** Stops the server, after the drain. */
  readonly signal: AbortSignal;
  /** Called once all listeners are bound. */
  readonly ready?: (
    listening: { fronts: readonly Front[]; quic: Authority; fallback?: Authority | undefined },
  ) => void;
  /** Records what happens. */
  readonly monitor?: Monitor;
  /**
   * Registers what takes another configuration over for new clients and agents. It rejects with a
   * `UsageError`, and changes nothing, when that contradicts itself.
   */
  readonly follow?: (change: (changes: LiveConfig) => Promise<void>) => void;
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
  const { listenFallback } = config;
  using fallback = listenFallback &&
    openFallback(listenFallback, config, endpoint, { log, monitor });
  if (fallback) log.info("fallback listener on {address}", { address: fallback.address });
  logTcpKeepalive(log, config);
  const maxConnections = clientsWithin(config.maxConnections, fallback?.maxCarriers ?? 0, log);
  options.ready?.({ fronts, quic: endpoint.addr, fallback: fallback?.addr });

  const ended = new AbortController();
  const server: RunningServer = {
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
  report(server, endpoint, fallback);
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
    fallback?.close();
    await endpoint.close(CloseCode.ServerStopped, "server stopped");
    await fallback?.ended();
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

/** Tells the monitor that the server listens, of its limits, and of the datagrams that come. */
function report(
  { monitor, groups, fronts, maxConnections, config: { maxAgents, maxPending } }: RunningServer,
  endpoint: QuicEndpoint,
  fallback: FallbackListener | undefined,
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
    carriers: () => fallback?.carriers ?? 0,
  });
}

/** Serves a client, unless there are too many. */
function takeClient(connection: FrontClient, front: Front, server: RunningServer): void {
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
 * Gives up the permission to write files, which only a Unix socket needs: to be bound, and without
 * the C library to be removed.
 */
function stopWriting(): void {
  Deno.permissions.revokeSync({ name: "write" });
}

if (import.meta.main) {
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
      const tryOut = values.listenFallback && tryOutFallback;
      const tls = await loadTls(serverTlsFiles(values), monitor, tryOut);
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
