// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-server: each TCP connection becomes a QUIC stream to one of the agents that are connected. */
import { type Authority, formatAuthority } from "./lib/authority.ts";
import type { Cidr } from "./lib/cidr.ts";
import { identifyClient } from "./lib/client.ts";
import { ConnectedAgent } from "./lib/connected_agent.ts";
import { DialectCount } from "./lib/dialect.ts";
import { type Duplex, tcpDuplex } from "./lib/duplex.ts";
import { messageOf, UsageError } from "./lib/errors.ts";
import { formatSocketAddress } from "./lib/ip_address.ts";
import { runProgram } from "./lib/lifecycle.ts";
import { logger } from "./lib/log.ts";
import { pipeDuplex, summarize } from "./lib/pipe.ts";
import { serverFlags } from "./lib/program_flags.ts";
import { startControl } from "./lib/qrht/control.ts";
import {
  type CloseInfo,
  ConnectionClosedError,
  describeClose,
  type QuicConnection,
  QuicEndpoint,
  tlsAlertOf,
  type TlsIdentity,
} from "./lib/quic/mod.ts";
import { AgentRegistry } from "./lib/registry.ts";
import { Route, type RoutePolicy } from "./lib/route.ts";
import { loadTlsMaterial } from "./lib/tls.ts";
import { openFields } from "./lib/tunnel.ts";

export interface ServerConfig extends RoutePolicy {
  /** Where clients connect. */
  readonly listenTcp: Authority;
  /** Where agents connect. */
  readonly listenQuic: Authority;
  readonly tls: TlsIdentity;
  readonly alpn: readonly string[];
  /** Networks whose connections begin with a header of the PROXY protocol. @default {[]} */
  readonly acceptProxyProtocol?: readonly Cidr[];
  /** What the agents' logs are to call this server. */
  readonly name?: string | undefined;
}

export interface ServerOptions {
  /** Stops the server. */
  readonly signal: AbortSignal;
  /** Called once both listeners are bound. */
  readonly ready?: (addresses: { tcp: Deno.NetAddr; quic: Deno.NetAddr }) => void;
}

/** Pause after a failed accept, such as one for want of file descriptors. */
const ACCEPT_RETRY_MS = 50;

/** Errors of accepting that concern one client only: a load balancer's health check may end by a reset. */
const goneBeforeAccepted = [
  Deno.errors.NotConnected,
  Deno.errors.ConnectionAborted,
  Deno.errors.ConnectionReset,
];

/** Application error code of a server that stops. */
const SERVER_STOPS = 0;

const log = logger("server");

/**
 * Runs a server until the signal aborts.
 *
 * @throws {UsageError} when an address cannot be bound
 */
export async function runServer(config: ServerConfig, options: ServerOptions): Promise<void> {
  const { signal } = options;
  const registry = new AgentRegistry<ConnectedAgent>();
  await using endpoint = listenQuic(config);
  using listener = listenTcp(config.listenTcp);
  log.info("tcp listener on {address}", { address: addressOf(listener.addr as Deno.NetAddr) });
  log.info("quic listener on {address}", { address: addressOf(endpoint.addr) });
  options.ready?.({ tcp: listener.addr as Deno.NetAddr, quic: endpoint.addr });

  const stop = () => {
    listener.close();
    registry.stopWaiting();
    void endpoint.close(SERVER_STOPS, "server stopped");
  };
  signal.addEventListener("abort", stop);
  try {
    if (signal.aborted) stop();
    await Promise.all([
      acceptAgents(endpoint, registry, config),
      acceptClients(listener, registry, config, signal),
    ]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
  log.info("server stopped");
}

function listenQuic(config: ServerConfig): QuicEndpoint {
  const { listenQuic: address, tls, alpn } = config;
  return bind("--listen-quic", address, () =>
    new QuicEndpoint({
      hostname: address.hostname,
      port: address.port,
      listen: { tls, alpn, handshakeFailed: logFailedHandshake },
    }));
}

function listenTcp(address: Authority): Deno.TcpListener {
  return bind(
    "--listen-tcp",
    address,
    () => Deno.listen({ hostname: address.hostname, port: address.port }),
  );
}

function bind<T>(flag: string, address: Authority, open: () => T): T {
  try {
    return open();
  } catch (error) {
    throw new UsageError(
      `cannot listen on ${flag} ${formatAuthority(address)}: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

/** A peer that failed to show who it is, is worth a line; one that never answered is noise. */
function logFailedHandshake(info: CloseInfo, { host, port }: { host: string; port: number }): void {
  const level = tlsAlertOf(info) === undefined ? "debug" : "warn";
  log[level]("agent refused", {
    remote: formatAuthority({ hostname: host, port }),
    reason: describeClose(info),
  });
}

async function acceptAgents(
  endpoint: QuicEndpoint,
  registry: AgentRegistry<ConnectedAgent>,
  config: ServerConfig,
): Promise<void> {
  const dialects = new DialectCount();
  for (;;) {
    log.info("waiting for new quic client session");
    let connection: QuicConnection;
    try {
      connection = await endpoint.accept();
    } catch (error) {
      if (error instanceof ConnectionClosedError) return;
      throw error;
    }
    serveAgent(new ConnectedAgent(connection), registry, dialects, config);
  }
}

/** Offers an agent clients until it drains or its connection ends. */
function serveAgent(
  agent: ConnectedAgent,
  registry: AgentRegistry<ConnectedAgent>,
  dialects: DialectCount,
  config: ServerConfig,
): void {
  const { connection, fields } = agent;
  const { alpn } = connection;
  registry.add(agent);
  dialects.opened(alpn);
  log.info("agent connected", {
    ...fields,
    alpn,
    agents: registry.size,
    speaking: dialects.of(alpn).now,
    connections: dialects.of(alpn).ever,
  });
  listenTo(agent, registry, config);
  connection.closed.then((info) => {
    registry.remove(agent);
    dialects.closed(alpn);
    log.info("agent disconnected", {
      ...agent.fields,
      reason: describeClose(info),
      agents: registry.size,
    });
  });
}

/** What an agent says on its control stream. */
function listenTo(
  agent: ConnectedAgent,
  registry: AgentRegistry<ConnectedAgent>,
  { name }: ServerConfig,
): void {
  startControl(agent.connection, { program: "proxy-server", name }, {
    hello: (hello) => log.info("agent says hello", { ...agent.fields, ...hello }),
    drain: () => {
      registry.remove(agent);
      agent.drain();
      log.info("agent drains", { ...agent.fields, agents: registry.size });
    },
    violated: (error) =>
      log.error("agent violates the protocol", { ...agent.fields, error: messageOf(error) }),
  });
}

async function acceptClients(
  listener: Deno.TcpListener,
  registry: AgentRegistry<ConnectedAgent>,
  config: ServerConfig,
  signal: AbortSignal,
): Promise<void> {
  const serving = new Set<Promise<void>>();
  while (!signal.aborted) {
    let client: Deno.TcpConn;
    try {
      client = await listener.accept();
    } catch (error) {
      if (signal.aborted) break;
      if (goneBeforeAccepted.some((type) => error instanceof type)) {
        log.debug("client left before it was accepted", { error: messageOf(error) });
        continue;
      }
      log.error("cannot accept a connection", { error: messageOf(error) });
      await new Promise((resolve) => setTimeout(resolve, ACCEPT_RETRY_MS));
      continue;
    }
    const served = serveClient(client, registry, config, signal).finally(() =>
      serving.delete(served)
    );
    serving.add(served);
  }
  await Promise.all(serving);
}

/** Finds an agent for a client and carries its bytes, to their end. */
async function serveClient(
  connection: Deno.TcpConn,
  registry: AgentRegistry<ConnectedAgent>,
  config: ServerConfig,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  const tunnelId = crypto.getRandomValues(new Uint8Array(16));
  let fields: Record<string, unknown> = { client: addressOf(connection.remoteAddr) };
  let carrier: Duplex | undefined;
  const leave = () => carrier?.abort();
  signal.addEventListener("abort", leave);
  try {
    carrier = tcpDuplex(connection);
    const client = await identifyClient(carrier, connection, config.acceptProxyProtocol ?? []);
    if (!client) {
      log.debug("health check", fields);
      return carrier.abort();
    }
    const { address, listener, via } = client;
    const open = { tunnelId, client: address, listener };
    fields = { ...openFields(open), via: via && formatSocketAddress(via) };
    log.debug("accepted tcp connection", fields);
    const route = new Route(open, { ...config, registry, log, fields, signal });
    const result = await pipeDuplex(client.carrier, await route.connect(), { signal });
    log.debug("tunnel ended", {
      ...fields,
      ...route.fields,
      ...summarize(result, since, { a: "client", b: "agent" }),
    });
  } catch (error) {
    carrier?.abort();
    if (!signal.aborted) log.warn("client refused", { ...fields, error: messageOf(error) });
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

function addressOf(addr: Deno.NetAddr): string {
  return formatAuthority({ hostname: addr.hostname, port: addr.port });
}

if (import.meta.main) {
  await runProgram({
    name: "proxy-server",
    summary:
      "Takes TCP connections and carries each, on a QUIC stream, to an agent that has dialled in.",
    flags: serverFlags,
    async run(values, signal) {
      const tls = await loadTlsMaterial({
        caFile: values.clientCaFile,
        caFlag: "--client-ca-file",
        certFile: values.certFile,
        keyFile: values.certKey,
      });
      await runServer({ ...values, tls }, { signal });
    },
  });
}
