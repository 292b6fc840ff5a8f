// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What both agents share: a connection to the server that is kept up, whose streams go to a handler. */
import { lookup } from "node:dns/promises";
import { type Authority, formatAuthority, isIpAddress } from "./authority.ts";
import { explainServerCertificate } from "./certificate.ts";
import { DialectCount } from "./dialect.ts";
import { messageOf } from "./errors.ts";
import type { Logger } from "./log.ts";
import { type Control, startControl } from "./qrht/control.ts";
import { reconnect } from "./reconnect.ts";
import {
  ConnectionClosedError,
  describeClose,
  type HostPort,
  identityOf,
  type QuicConnection,
  QuicEndpoint,
  type QuicStream,
  tlsAlertOf,
  type TlsIdentity,
  type TlsSource,
} from "./quic/mod.ts";
import { ReloadingTls } from "./tls_reload.ts";
import { acceptTunnel, type Failure, type IncomingTunnel, openFields } from "./tunnel.ts";
import { within } from "./within.ts";

export interface AgentConfig {
  /** Where the server listens for QUIC. */
  readonly server: Authority;
  /** Name that the server's certificate must have; sent as SNI. */
  readonly serverName: string;
  /** Asked at each connect. */
  readonly tls: TlsIdentity | TlsSource;
  readonly alpn: readonly string[];
  /** Time that connecting to a target may take. */
  readonly dialTimeoutMs: number;
  /** Time a client has for the head of its CONNECT request. @default {10000} */
  readonly headTimeoutMs?: number;
  /** Time that tunnels may go on when the agent is told to stop; 0 for none. @default {0} */
  readonly drainTimeoutMs?: number;
  /** What the server's log is to call this agent, beside the name in its certificate. */
  readonly name?: string | undefined;
}

/** A tunnel as the program behind an agent sees it. */
export interface ServedTunnel extends IncomingTunnel {
  /** What the log says of it: stream, and tunnel id and client where the server tells them. */
  readonly fields: Readonly<Record<string, unknown>>;
}

export interface AgentSessionOptions {
  /** Name of the program. */
  readonly program: string;
  readonly log: Logger;
  /** Ends everything, after the drain. */
  readonly signal: AbortSignal;
  /** Serves one tunnel to its end, or to that of the session, which aborts the signal. Must not throw. */
  serve(tunnel: ServedTunnel, signal: AbortSignal): Promise<void>;
  /** Refuses a tunnel. Must not throw. */
  refuse(tunnel: ServedTunnel, failure: Failure): Promise<void>;
}

/** Application error code of an agent that leaves. */
export const AGENT_LEAVES = 100;

/** Interval of the PINGs that keep the connection, and a NAT's mapping, alive. */
const KEEPALIVE_MS = 2_000;

const RESOLVE_TIMEOUT_MS = 5_000;

/** Connections of this process to servers. */
const dialects = new DialectCount();

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
): Promise<ReloadingTls> {
  const { caFile, certFile, certKey } = files;
  return ReloadingTls.load({ caFile, caFlag: "--ca-file", certFile, keyFile: certKey });
}

async function connect(config: AgentConfig, log: Logger, signal: AbortSignal): Promise<Session> {
  const peer = await resolve(config.server);
  log.debug("dialing quic server", { server: formatAuthority(config.server), address: peer.host });
  const endpoint = new QuicEndpoint({
    hostname: peer.host.includes(":") ? "::" : "0.0.0.0",
    port: 0,
  });
  const { alpn, serverName } = config;
  const tls = identityOf(config.tls);
  try {
    const connection = await endpoint.connect(peer, serverName, {
      tls,
      alpn,
      keepAliveMs: KEEPALIVE_MS,
    }, signal);
    return { endpoint, connection };
  } catch (error) {
    await endpoint.close();
    throw explain(error, tls, serverName);
  }
}

async function serve(
  config: AgentConfig,
  options: AgentSessionOptions,
  session: Session,
): Promise<{ healthyMs: number }> {
  const { endpoint, connection } = session;
  const { log, signal } = options;
  const { alpn } = connection;
  const fields = { server: formatAuthority(config.server), connection: connection.number };
  const since = performance.now();
  dialects.opened(alpn);
  log.info("connected to quic server", { ...fields, alpn, connections: dialects.of(alpn).ever });
  const ended = new AbortController();
  const serving = new Set<Promise<void>>();
  let control: Control | undefined;
  const leave = async () => {
    await drain(connection, control, config, { log, serving, fields });
    connection.close(AGENT_LEAVES, "agent stopped");
  };
  try {
    control = listen(connection, config, options, fields);
    signal.addEventListener("abort", leave);
    if (signal.aborted) void leave();
    for (;;) {
      const stream = await connection.acceptStream();
      log.trace("stream accepted", { ...fields, stream: stream.id });
      const served = serveStream(stream, alpn, options, ended.signal)
        .finally(() => serving.delete(served));
      serving.add(served);
    }
  } catch (error) {
    if (!(error instanceof ConnectionClosedError)) throw error;
    const level = signal.aborted ? "info" : "warn";
    log[level]("disconnected from quic server", { ...fields, reason: describeClose(error.info) });
  } finally {
    dialects.closed(alpn);
    signal.removeEventListener("abort", leave);
    ended.abort(new Error("the connection to the server is closed"));
    await Promise.all(serving);
    await endpoint.close(AGENT_LEAVES);
  }
  return { healthyMs: performance.now() - since };
}

/** Lets tunnels go on for a time, and what they have sent last be delivered; new ones are refused meanwhile. */
async function drain(
  connection: QuicConnection,
  control: Control | undefined,
  { drainTimeoutMs = 0 }: AgentConfig,
  { log, serving, fields }: {
    readonly log: Logger;
    readonly serving: ReadonlySet<Promise<void>>;
    readonly fields: Readonly<Record<string, unknown>>;
  },
): Promise<void> {
  if (drainTimeoutMs === 0 || serving.size === 0) return;
  const giveUpAt = performance.now() + drainTimeoutMs;
  log.info("draining", { ...fields, tunnels: serving.size, drainTimeoutMs });
  control?.drain();
  const late = () => new Error("too late");
  await within(drainTimeoutMs, allSettled(serving), late).catch(() => {});
  await connection.settled(giveUpAt - performance.now());
}

/** Waits until all have ended, those included that are added meanwhile. */
async function allSettled(running: ReadonlySet<Promise<void>>): Promise<void> {
  while (running.size > 0) await Promise.all(running);
}

/** What a server says on its control stream. */
function listen(
  connection: QuicConnection,
  { name }: AgentConfig,
  { program, log }: AgentSessionOptions,
  fields: Record<string, unknown>,
): Control | undefined {
  return startControl(connection, { program, name }, {
    hello: (hello) => log.info("server says hello", { ...fields, ...hello }),
    drain: () => log.info("server drains", fields),
    violated: (error) =>
      log.error("server violates the protocol", { ...fields, error: messageOf(error) }),
  });
}

async function serveStream(
  stream: QuicStream,
  alpn: string,
  options: AgentSessionOptions,
  signal: AbortSignal,
): Promise<void> {
  try {
    const accepted = await acceptTunnel(stream, alpn);
    if (!accepted) return;
    const fields = { stream: stream.id, ...openFields(accepted.open) };
    const tunnel = { ...accepted, fields };
    if (!options.signal.aborted) return await options.serve(tunnel, signal);
    await options.refuse(tunnel, { code: "draining", text: "the agent takes no further tunnels" });
  } catch (error) {
    stream.abort();
    options.log.warn("stream refused", { stream: stream.id, error: messageOf(error) });
  }
}

async function resolve(server: Authority): Promise<HostPort> {
  if (isIpAddress(server.hostname)) return { host: server.hostname, port: server.port };
  const late = () => new Error(`no answer in ${RESOLVE_TIMEOUT_MS} ms`);
  try {
    const { address } = await within(RESOLVE_TIMEOUT_MS, lookup(server.hostname), late);
    return { host: address, port: server.port };
  } catch (error) {
    throw new Error(`cannot resolve ${JSON.stringify(server.hostname)}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Says what is wrong with the server's certificate, if that was the cause. */
function explain(error: unknown, { ca }: TlsIdentity, serverName: string): unknown {
  if (!(error instanceof ConnectionClosedError)) return error;
  const { info } = error;
  if (info.by !== "local" || tlsAlertOf(info) === undefined) return error;
  const cause = explainServerCertificate(error.peerCertificates, ca, serverName);
  return cause ? new Error(`${error.message}: ${cause}`, { cause: error }) : error;
}
