// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-server: each TCP connection becomes a QUIC stream to one of the agents that are connected. */
import { type Authority, formatAuthority } from "./lib/authority.ts";
import { describeCertificate } from "./lib/certificate.ts";
import { tcpDuplex } from "./lib/duplex.ts";
import { messageOf, UsageError } from "./lib/errors.ts";
import { runProgram } from "./lib/lifecycle.ts";
import { logger } from "./lib/log.ts";
import { pipeDuplex, summarize } from "./lib/pipe.ts";
import { serverFlags } from "./lib/program_flags.ts";
import {
  type CloseInfo,
  ConnectionClosedError,
  describeClose,
  type QuicConnection,
  QuicEndpoint,
  type QuicStream,
  tlsAlertOf,
  type TlsIdentity,
} from "./lib/quic/mod.ts";
import { type Agent, AgentRegistry } from "./lib/registry.ts";
import { loadTlsMaterial } from "./lib/tls.ts";

export interface ServerConfig {
  /** Where clients connect. */
  readonly listenTcp: Authority;
  /** Where agents connect. */
  readonly listenQuic: Authority;
  readonly tls: TlsIdentity;
  readonly alpn: readonly string[];
  /** Time a client waits for an agent when there is none; 0 for not at all. */
  readonly agentWaitMs: number;
  /** Time a client waits for a stream of an agent that has no credit left. @default {10000} */
  readonly openTimeoutMs?: number;
}

export interface ServerOptions {
  /** Stops the server. */
  readonly signal: AbortSignal;
  /** Called once both listeners are bound. */
  readonly ready?: (addresses: { tcp: Deno.NetAddr; quic: Deno.NetAddr }) => void;
}

/** Agents that a connection is offered to, when one after the other goes away just then. */
const MAX_ATTEMPTS = 3;

/** Pause after a failed accept, such as one for want of file descriptors. */
const ACCEPT_RETRY_MS = 50;

/** Application error code of a server that stops. */
const SERVER_STOPS = 0;

const log = logger("server");

/** An agent that is connected. */
class ConnectedAgent implements Agent {
  readonly name: string;
  constructor(readonly connection: QuicConnection) {
    this.name = nameOf(connection.peerCertificates?.[0]);
  }

  get hasCredit(): boolean {
    return this.connection.hasStreamCredit;
  }

  get fields() {
    const { host, port } = this.connection.remoteAddr;
    return {
      agent: this.name,
      remote: formatAuthority({ hostname: host, port }),
      connection: this.connection.number,
    };
  }
}

function nameOf(certificate: Uint8Array | undefined): string {
  try {
    return certificate ? describeCertificate(certificate).names[0] ?? "" : "";
  } catch {
    // BoringSSL has accepted it; that this end cannot read its names takes nothing from that.
    return "";
  }
}

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
  if (signal.aborted) stop();
  await Promise.all([
    acceptAgents(endpoint, registry),
    acceptClients(listener, registry, config, signal),
  ]);
  signal.removeEventListener("abort", stop);
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
): Promise<void> {
  for (;;) {
    log.info("waiting for new quic client session");
    let connection: QuicConnection;
    try {
      connection = await endpoint.accept();
    } catch (error) {
      if (error instanceof ConnectionClosedError) return;
      throw error;
    }
    const agent = new ConnectedAgent(connection);
    registry.add(agent);
    log.info("agent connected", { ...agent.fields, alpn: connection.alpn, agents: registry.size });
    connection.closed.then((info) => {
      registry.remove(agent);
      log.info("agent disconnected", {
        ...agent.fields,
        reason: describeClose(info),
        agents: registry.size,
      });
    });
  }
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
  client: Deno.TcpConn,
  registry: AgentRegistry<ConnectedAgent>,
  config: ServerConfig,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  const from = addressOf(client.remoteAddr);
  const carrier = tcpDuplex(client);
  try {
    log.debug("accepted tcp connection", { client: from });
    const { agent, stream } = await openStream(registry, config, signal);
    const fields = { client: from, ...agent.fields, stream: stream.id };
    log.trace("stream opened", fields);
    const result = await pipeDuplex(carrier, stream, { signal });
    log.debug("tunnel ended", {
      ...fields,
      ...summarize(result, since, { a: "client", b: "agent" }),
    });
  } catch (error) {
    carrier.abort();
    if (!signal.aborted) log.warn("client refused", { client: from, error: messageOf(error) });
  }
}

async function openStream(
  registry: AgentRegistry<ConnectedAgent>,
  config: ServerConfig,
  signal: AbortSignal,
): Promise<{ agent: ConnectedAgent; stream: QuicStream }> {
  const { agentWaitMs, openTimeoutMs = 10_000 } = config;
  for (let attempt = 1;; attempt++) {
    const agent = await registry.pick(agentWaitMs);
    const late = deadline(
      openTimeoutMs,
      `no stream credit from agent ${agent.name} in ${openTimeoutMs} ms`,
    );
    try {
      const stream = await agent.connection.openStream({
        signal: AbortSignal.any([signal, late.signal]),
      });
      return { agent, stream };
    } catch (error) {
      if (!(error instanceof ConnectionClosedError) || attempt === MAX_ATTEMPTS) throw error;
    } finally {
      late.clear();
    }
  }
}

/** A signal that aborts with an error after a time, unless it is cleared before. */
function deadline(ms: number, message: string): { signal: AbortSignal; clear: () => void } {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(new Error(message)), ms);
  return { signal: controller.signal, clear: () => clearTimeout(timer) };
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
