// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-agent: dials the server and serves HTTP CONNECT on every stream that the server opens. */
import { formatRule, type Rule } from "./lib/agent/acl.ts";
import { runAgentLinks } from "./lib/agent/keep_connected.ts";
import { type AgentConfig, loadAgentTls, type ServedTunnel } from "./lib/agent/session.ts";
import { formatAuthority } from "./lib/net/authority.ts";
import { checkAgent } from "./lib/cli/check/programs.ts";
import {
  CONNECT_OK,
  ConnectHeadParser,
  type ConnectHeadResult,
  formatConnectResponse,
  formatProxyStatus,
} from "./lib/tunnel/connect_head.ts";
import { dial, DialError, type DialFailure, failureOf } from "./lib/agent/dial.ts";
import { type Duplex, prepend, tcpDuplex, writeAll } from "./lib/tunnel/duplex.ts";
import { endingOf, summarize } from "./lib/observe/ending.ts";
import { type Failure, type FailureCode, refusedBy } from "./lib/qrht/failure.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { formatIp } from "./lib/net/ip_address.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import { pipeDuplex } from "./lib/tunnel/pipe.ts";
import { agentInfo } from "./lib/cli/programs.ts";
import type { Resolver } from "./lib/net/resolver.ts";
import { within } from "./lib/wait.ts";

export interface ConnectAgentConfig extends AgentConfig {
  /** What may be dialled; everything that is not denied when there are none. @default {[]} */
  readonly allow?: readonly Rule[];
  /** What must not be dialled, beside what is denied by default. @default {[]} */
  readonly deny?: readonly Rule[];
  /** Resolves the names of targets. @default the system's */
  readonly resolver?: Resolver;
}

/** Name of this proxy in Proxy-Status (RFC 9209). */
const PROXY_NAME = "quic-tunnel-agent";

/** A client that leaves without having asked for anything. */
const NO_REQUEST: Failure = { code: "bad-request", text: "the client has not asked for anything" };

const log = logger("agent");

type Answer = Extract<ConnectHeadResult, { kind: "connect" }>;

/** A request that is answered with something else than a tunnel. */
class Refusal extends Error {
  override readonly name = "Refusal";
  constructor(
    readonly status: number,
    reason: string,
    readonly code: FailureCode = "bad-request",
    readonly proxyError?: DialFailure | "http_request_error",
    options?: ErrorOptions,
  ) {
    super(reason, options);
  }
}

/** Status of a dial that failed; everything else is 502. */
const dialStatus: Partial<Record<DialFailure, number>> = {
  destination_ip_prohibited: 403,
  http_request_denied: 403,
  connection_timeout: 504,
  dns_timeout: 504,
  connection_limit_reached: 503,
};

/** Runs an agent until the signal aborts. Reconnects for ever. */
export async function runAgent(
  config: ConnectAgentConfig,
  options: { readonly signal: AbortSignal; readonly monitor?: Monitor },
): Promise<void> {
  const { signal, monitor = new Monitor() } = options;
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
    refuse: (tunnel, { code, text }) => refuse(tunnel, new Refusal(503, text, code)),
  });
  log.info("agent stopped");
}

function formatRules(rules: readonly Rule[] = []): string | undefined {
  return rules.length > 0 ? rules.map(formatRule).join(",") : undefined;
}

/** Serves one CONNECT request to the end of its tunnel. */
async function serveConnect(
  tunnel: ServedTunnel,
  config: ConnectAgentConfig,
  signal: AbortSignal,
): Promise<void> {
  const { dialTimeoutMs, headTimeoutMs = 10_000, allow = [], deny = [], resolver } = config;
  const since = performance.now();
  const { carrier, fields, record } = tunnel;
  let target: string | undefined;
  try {
    const request = await readHead(carrier, headTimeoutMs);
    if (!request) {
      tellRefused(tunnel, NO_REQUEST);
      return await tunnel.failed(NO_REQUEST, new Uint8Array(0));
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
    }).catch(refuseDial);
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
    if (error instanceof Refusal) return await refuse(tunnel, error, target);
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
  const ending = { by: refusedBy(code), reason: "refused", result: code, error: text } as const;
  log.debug("tunnel refused", { ...fields, ...more, ...ending });
  record.end(ending);
}

/** Undefined when the client left before it had asked for anything. */
async function readHead(carrier: Duplex, timeoutMs: number): Promise<Answer | undefined> {
  const parser = new ConnectHeadParser();
  const buffer = new Uint8Array(4096);
  const giveUpAt = performance.now() + timeoutMs;
  const late = () => new Refusal(408, `request head not complete in ${timeoutMs} ms`);
  for (;;) {
    const n = await within(giveUpAt - performance.now(), carrier.read(buffer), late);
    if (n === null && parser.byteLength === 0) return undefined;
    if (n === null) throw new Refusal(400, "the request ends within its head");
    const result = parser.push(buffer.subarray(0, n));
    if (result.kind === "connect") return result;
    if (result.kind === "reject") {
      throw new Refusal(result.status, result.reason, "bad-request", "http_request_error");
    }
  }
}

function refuseDial(error: unknown): never {
  if (!(error instanceof DialError)) throw error;
  const { message, failure } = error;
  throw new Refusal(dialStatus[failure] ?? 502, message, failureOf(error).code, failure, {
    cause: error,
  });
}

/** The address that a rule has denied: for the log alone, as clients need not learn what names mean here. */
function addressDenied({ cause }: Refusal): string | undefined {
  return cause instanceof DialError && cause.ip ? formatIp(cause.ip) : undefined;
}

/** Answers with the cause, in the reason phrase since that is all that kube-apiserver shows, and ends the tunnel. */
async function refuse(tunnel: ServedTunnel, refusal: Refusal, target?: string): Promise<void> {
  const { status, message, code, proxyError } = refusal;
  const failure = { code, text: message };
  tellRefused(tunnel, failure, { target, address: addressDenied(refusal) });
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
    async run(values, { signal, onHangup, monitor }) {
      const tls = await loadAgentTls(values);
      void tls.watch({ signal, onHangup });
      monitor.certificates = () => tls.current.certificates;
      await runAgent({ ...values, tls }, { signal, monitor });
    },
  });
}
