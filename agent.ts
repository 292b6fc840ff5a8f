// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-agent: dials the server and serves HTTP CONNECT on every stream that the server opens. */
import { NO_BYTES } from "./lib/bytes.ts";
import { formatRule, type Rule } from "./lib/agent/acl.ts";
import { runAgentLinks } from "./lib/agent/keep_connected.ts";
import type { AgentConfig, ServedTunnel } from "./lib/agent/session.ts";
import { formatAuthority } from "./lib/net/authority.ts";
import { checkAgent } from "./lib/cli/check/programs.ts";
import { ConnectHeadParser, type ConnectHeadResult } from "./lib/tunnel/connect_head.ts";
import {
  CONNECT_OK,
  formatConnectResponse,
  formatProxyStatus,
} from "./lib/tunnel/connect_response.ts";
import { dial, DialError } from "./lib/agent/dial.ts";
import { type Duplex, prepend, writeAll } from "./lib/tunnel/duplex.ts";
import { tcpDuplex } from "./lib/tunnel/tcp_duplex.ts";
import { endingOf, summarize } from "./lib/observe/ending.ts";
import { type Failure, failureOf, failures, NotConnectedError } from "./lib/qrht/failure.ts";
import { agentTlsFiles, loadTls } from "./lib/cli/program_tls.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { formatIp } from "./lib/net/ip_address.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import { pipeDuplex } from "./lib/tunnel/pipe.ts";
import { agentInfo } from "./lib/cli/programs.ts";
import type { Resolver } from "./lib/net/resolver.ts";
import { within } from "./lib/wait.ts";

export interface ConnectAgentConfig extends AgentConfig {
  /** What may be dialled; everything that is not denied when there are none. */
  readonly allow: readonly Rule[];
  /** What must not be dialled, beside what is denied by default. */
  readonly deny: readonly Rule[];
  /** Resolves the names of targets. @default the system's */
  readonly resolver?: Resolver;
}

/** Name of this proxy in Proxy-Status (RFC 9209). */
const PROXY_NAME = "quic-tunnel-agent";

/** A client that leaves without having asked for anything. */
const NO_REQUEST: Failure = { code: "bad-request", text: "the client has not asked for anything" };

const log = logger("agent");

type Answer = Extract<ConnectHeadResult, { kind: "connect" }>;

/** Runs an agent until the signal aborts. Reconnects for ever. */
export async function runAgent(
  config: ConnectAgentConfig,
  options: { readonly signal: AbortSignal; readonly monitor?: Monitor },
): Promise<void> {
  const { signal, monitor = new Monitor("proxy-agent") } = options;
  log.info("agent started", {
    servers: config.servers.map(formatAuthority).join(","),
    allow: formatRules(config.allow),
    deny: formatRules(config.deny),
  });
  await runAgentLinks(config, {
    program: "proxy-agent",
    log,
    monitor,
    signal,
    serve: (tunnel, ended) => serveConnect(tunnel, config, ended),
    refuse: (tunnel, { code, text }) => refuse(tunnel, new NotConnectedError(code, text)),
  });
  log.info("agent stopped");
}

function formatRules(rules: readonly Rule[]): string | undefined {
  return rules.length > 0 ? rules.map(formatRule).join(",") : undefined;
}

/** Serves one CONNECT request to the end of its tunnel. */
async function serveConnect(
  tunnel: ServedTunnel,
  config: ConnectAgentConfig,
  signal: AbortSignal,
): Promise<void> {
  const { dialTimeoutMs, headTimeoutMs = 10_000, allow, deny, resolver } = config;
  const since = performance.now();
  const { carrier, fields, record } = tunnel;
  let target: string | undefined;
  try {
    const request = await readHead(carrier, headTimeoutMs);
    if (!request) {
      tellRefused(tunnel, NO_REQUEST);
      return await tunnel.failed(NO_REQUEST, NO_BYTES);
    }
    target = request.authority;
    record.connecting(target);
    log.trace("connect request", { ...fields, target });
    record.span?.dials(request.target);
    const connection = await dial(request.target, {
      timeoutMs: dialTimeoutMs,
      signal,
      rules: { allow, deny },
      resolver,
    });
    record.span?.connected(connection.remoteAddr);
    const upstream = tcpDuplex(connection);
    try {
      record.connected();
      tunnel.connected();
      await writeAll(carrier, CONNECT_OK);
    } catch (error) {
      upstream.abort();
      throw error;
    }
    const client = prepend(request.rest, carrier);
    const result = await pipeDuplex(client, upstream, { ...config, signal, watch: record.watch });
    const summary = summarize(result, since, "agent");
    log.debug("tunnel ended", { ...fields, target, ...summary });
    record.end(summary);
  } catch (error) {
    if (error instanceof NotConnectedError) return await refuse(tunnel, error, target);
    const ending = endingOf(error, "client", "agent");
    log.debug("tunnel refused", { ...fields, target, ...ending });
    record.end(ending);
    carrier.abort();
  }
}

function tellRefused(
  { fields, record }: ServedTunnel,
  { code, text }: Failure,
  more: Record<string, unknown> = {},
): void {
  const ending = { by: failures[code].by, reason: "refused", result: code, error: text } as const;
  log.debug("tunnel refused", { ...fields, ...more, ...ending });
  record.end(ending);
}

/** Undefined when the client left before it had asked for anything. */
async function readHead(carrier: Duplex, timeoutMs: number): Promise<Answer | undefined> {
  const parser = new ConnectHeadParser();
  const buffer = new Uint8Array(4096);
  const giveUpAt = performance.now() + timeoutMs;
  const late = () =>
    new NotConnectedError("bad-request", `request head not complete in ${timeoutMs} ms`, {
      status: 408,
    });
  for (;;) {
    const n = await within(giveUpAt - performance.now(), carrier.read(buffer), late);
    if (n === null && parser.byteLength === 0) return undefined;
    if (n === null) throw new NotConnectedError("bad-request", "the request ends within its head");
    const result = parser.push(buffer.subarray(0, n));
    if (result.kind === "connect") return result;
    if (result.kind === "reject") {
      throw new NotConnectedError("bad-request", result.reason, {
        status: result.status,
        proxyError: "http_request_error",
      });
    }
  }
}

/** Answers with the cause, in the reason phrase since that is all that kube-apiserver shows, and ends the tunnel. */
async function refuse(
  tunnel: ServedTunnel,
  error: NotConnectedError,
  target?: string,
): Promise<void> {
  const { status, message, proxyError } = error;
  const failure = failureOf(error);
  // The address that a rule has denied is for the log alone: clients need not learn what names mean here.
  const address = error instanceof DialError && error.ip ? formatIp(error.ip) : undefined;
  tellRefused(tunnel, failure, { target, address });
  const proxyStatus = formatProxyStatus({
    proxy: PROXY_NAME,
    ...(proxyError && { error: proxyError }),
    details: message,
  });
  await tunnel.failed(
    failure,
    formatConnectResponse(status, message, [["Proxy-Status", proxyStatus]]),
  );
}

if (import.meta.main) {
  await runProgram({
    ...agentInfo,
    check: checkAgent,
    async run(values, surroundings) {
      const tls = await loadTls(agentTlsFiles(values), surroundings.monitor);
      void tls.watch(surroundings);
      await runAgent({ ...values, tls }, surroundings);
    },
  });
}
