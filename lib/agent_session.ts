// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What both agents share: a connection to the server that is kept up, whose streams go to a handler. */
import { lookup } from "node:dns/promises";
import { type Authority, formatAuthority, isIpAddress } from "./authority.ts";
import { explainServerCertificate } from "./certificate.ts";
import { messageOf } from "./errors.ts";
import type { Logger } from "./log.ts";
import { reconnect } from "./reconnect.ts";
import {
  ConnectionClosedError,
  describeClose,
  type HostPort,
  type QuicConnection,
  QuicEndpoint,
  type QuicStream,
  tlsAlertOf,
  type TlsIdentity,
} from "./quic/mod.ts";
import { loadTlsMaterial } from "./tls.ts";

export interface AgentConfig {
  /** Where the server listens for QUIC. */
  readonly server: Authority;
  /** Name that the server's certificate must have; sent as SNI. */
  readonly serverName: string;
  readonly tls: TlsIdentity;
  readonly alpn: readonly string[];
  /** Time that connecting to a target may take. */
  readonly dialTimeoutMs: number;
}

export interface AgentSessionOptions {
  readonly log: Logger;
  /** Ends everything. */
  readonly signal: AbortSignal;
  /** Serves one stream to its end, or to that of the session, which aborts the signal. Must not throw. */
  serve(stream: QuicStream, signal: AbortSignal): Promise<void>;
}

/** Application error code of an agent that leaves. */
export const AGENT_LEAVES = 100;

/** Interval of the PINGs that keep the connection, and a NAT's mapping, alive. */
const KEEPALIVE_MS = 2_000;

const RESOLVE_TIMEOUT_MS = 5_000;

interface Session {
  readonly endpoint: QuicEndpoint;
  readonly connection: QuicConnection;
}

/** Connects to the server and serves its streams until the signal aborts. Reconnects for ever. */
export async function runAgentSession(
  config: AgentConfig,
  options: AgentSessionOptions,
): Promise<void> {
  const { log, signal } = options;
  const server = formatAuthority(config.server);
  await reconnect<Session>({
    signal,
    connect: (signal) => connect(config, log, signal),
    serve: (session) => serve(config, options, session),
    failed: (error, retryInMs) =>
      log.warn("cannot connect to the server", { server, error: messageOf(error), retryInMs }),
  });
}

/** Certificates and key of an agent, from the files that its flags name. */
export function loadAgentTls(
  files: { caFile: string; certFile: string; certKey: string },
): Promise<TlsIdentity> {
  const { caFile, certFile, certKey } = files;
  return loadTlsMaterial({ caFile, caFlag: "--ca-file", certFile, keyFile: certKey });
}

async function connect(config: AgentConfig, log: Logger, signal: AbortSignal): Promise<Session> {
  const peer = await resolve(config.server);
  log.debug("dialing quic server", { server: formatAuthority(config.server), address: peer.host });
  const endpoint = new QuicEndpoint({
    hostname: peer.host.includes(":") ? "::" : "0.0.0.0",
    port: 0,
  });
  try {
    const { tls, alpn, serverName } = config;
    const connection = await endpoint.connect(peer, serverName, {
      tls,
      alpn,
      keepAliveMs: KEEPALIVE_MS,
    }, signal);
    return { endpoint, connection };
  } catch (error) {
    await endpoint.close();
    throw explain(error, config);
  }
}

async function serve(
  config: AgentConfig,
  options: AgentSessionOptions,
  session: Session,
): Promise<{ healthyMs: number }> {
  const { endpoint, connection } = session;
  const { log, signal } = options;
  const fields = { server: formatAuthority(config.server), connection: connection.number };
  const since = performance.now();
  log.info("connected to quic server", { ...fields, alpn: connection.alpn });
  const leave = () => connection.close(AGENT_LEAVES, "agent stopped");
  signal.addEventListener("abort", leave);
  if (signal.aborted) leave();
  const ended = new AbortController();
  const serving = new Set<Promise<void>>();
  try {
    for (;;) {
      const stream = await connection.acceptStream();
      log.trace("stream accepted", { ...fields, stream: stream.id });
      const served = options.serve(stream, ended.signal).finally(() => serving.delete(served));
      serving.add(served);
    }
  } catch (error) {
    if (!(error instanceof ConnectionClosedError)) throw error;
    const level = signal.aborted ? "info" : "warn";
    log[level]("disconnected from quic server", { ...fields, reason: describeClose(error.info) });
  } finally {
    signal.removeEventListener("abort", leave);
    ended.abort(new Error("the connection to the server is closed"));
    await Promise.all(serving);
    await endpoint.close(AGENT_LEAVES);
  }
  return { healthyMs: performance.now() - since };
}

async function resolve(server: Authority): Promise<HostPort> {
  if (isIpAddress(server.hostname)) return { host: server.hostname, port: server.port };
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no answer in ${RESOLVE_TIMEOUT_MS} ms`)),
      RESOLVE_TIMEOUT_MS,
    );
  });
  try {
    const { address } = await Promise.race([lookup(server.hostname), late]);
    return { host: address, port: server.port };
  } catch (error) {
    throw new Error(`cannot resolve ${JSON.stringify(server.hostname)}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    clearTimeout(timer);
  }
}

/** Says what is wrong with the server's certificate, if that was the cause. */
function explain(error: unknown, config: AgentConfig): unknown {
  if (!(error instanceof ConnectionClosedError)) return error;
  const { info } = error;
  if (info.by !== "local" || tlsAlertOf(info) === undefined) return error;
  const cause = explainServerCertificate(error.peerCertificates, config.tls.ca, config.serverName);
  return cause ? new Error(`${error.message}: ${cause}`, { cause: error }) : error;
}
