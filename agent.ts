// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-agent: dials the server and serves HTTP CONNECT on every stream that the server opens. */
import { NO_BYTES } from "./lib/bytes.ts";
import { formatRule, type Rule } from "./lib/agent/acl.ts";
import { DialError } from "./lib/agent/dial.ts";
import { keepConnected } from "./lib/agent/keep_connected.ts";
import { connectAndCarry, endingOfFailure, type TunnelService } from "./lib/agent/serve.ts";
import type { AgentConfig, ServedTunnel } from "./lib/agent/session.ts";
import { checkAgent } from "./lib/cli/check/programs.ts";
import { agentTlsFiles, loadTls } from "./lib/cli/program_tls.ts";
import { agentInfo } from "./lib/cli/programs.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { type Authority, formatAuthority } from "./lib/net/authority.ts";
import { formatIp } from "./lib/net/ip_address.ts";
import type { Resolver } from "./lib/net/resolver.ts";
import { endingOf } from "./lib/observe/ending.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import { type Failure, failureOf, NotConnectedError } from "./lib/tunnel/failure.ts";
import { ConnectHeadParser, type ConnectHeadResult } from "./lib/tunnel/connect_head.ts";
import { CONNECT_OK, formatRefusal } from "./lib/tunnel/connect_response.ts";
import { type Duplex, prepend } from "./lib/tunnel/duplex.ts";
import { within } from "./lib/wait.ts";

export interface ConnectAgentConfig extends AgentConfig {
  /** What may be dialled; everything that is not denied when there are none. */
  readonly allow: readonly Rule[];
  /** What must not be dialled, in addition to what is denied by default. */
  readonly deny: readonly Rule[];
  /** IP addresses and ports that this agent listens on, which are denied by default. */
  readonly ownListeners?: readonly Authority[];
  /** Resolves the names of targets. @default the system's */
  readonly resolver?: Resolver;
}

const HEAD_TIMEOUT_MS = 10_000;

/** A client that leaves without having asked for anything. */
const NO_REQUEST: Failure = { code: "bad-request", text: "the client sent no request" };

const log = logger("agent");

type Answer = Extract<ConnectHeadResult, { kind: "connect" }>;

/** What serving a CONNECT request takes. */
interface ConnectService extends TunnelService {
  readonly headTimeoutMs: number;
}

/** Runs an agent until the signal aborts. Reconnects without limit. */
export async function runAgent(
  config: ConnectAgentConfig,
  options: { readonly signal: AbortSignal; readonly monitor?: Monitor },
): Promise<void> {
  const { signal, monitor = new Monitor("proxy-agent") } = options;
  const { allow, deny, dialTimeoutMs, tcpKeepaliveMs, resolver } = config;
  const { headTimeoutMs = HEAD_TIMEOUT_MS } = config;
  log.info("agent started", {
    servers: config.servers.map(formatAuthority).join(","),
    allow: formatRules(allow),
    deny: formatRules(deny),
  });
  const rules = { allow, deny, own: config.ownListeners };
  const service = {
    dialTimeoutMs,
    headTimeoutMs,
    timeouts: config,
    tcpKeepaliveMs,
    rules,
    resolver,
    log,
  };
  await keepConnected(config, {
    log,
    monitor,
    signal,
    serve: (tunnel, ended) => serveConnect(tunnel, service, ended),
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
  service: ConnectService,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  const { carrier, fields, record } = tunnel;
  let name: string | undefined;
  try {
    const request = await readHead(carrier, service.headTimeoutMs);
    if (!request) {
      endRefused(tunnel, NO_REQUEST);
      return await tunnel.failed(NO_REQUEST, NO_BYTES);
    }
    const { target, authority, rest } = request;
    name = authority;
    record.connecting(name);
    log.trace("connect request", { ...fields, target: name });
    const client = prepend(rest, carrier);
    const destination = { target, name, since, client, answer: CONNECT_OK };
    await connectAndCarry(tunnel, destination, service, signal);
  } catch (error) {
    if (error instanceof NotConnectedError) return await refuse(tunnel, error, name);
    const ending = endingOf(error, "client", "agent");
    log.debug("tunnel refused", { ...fields, target: name, ...ending });
    record.end(ending);
    carrier.abort();
  }
}

function endRefused(
  { fields, record }: ServedTunnel,
  failure: Failure,
  more: Record<string, unknown> = {},
): void {
  const ending = endingOfFailure(failure);
  log.debug("tunnel refused", { ...fields, ...more, ...ending });
  record.end(ending);
}

/** Undefined when the client left before it sent a request. */
async function readHead(carrier: Duplex, timeoutMs: number): Promise<Answer | undefined> {
  const parser = new ConnectHeadParser();
  const buffer = new Uint8Array(4096);
  const giveUpAt = performance.now() + timeoutMs;
  const late = () =>
    new NotConnectedError("bad-request", `request head not complete within ${timeoutMs} ms`, {
      status: 408,
    });
  for (;;) {
    const n = await within(giveUpAt - performance.now(), carrier.read(buffer), late);
    if (n === null && parser.byteLength === 0) return undefined;
    if (n === null) {
      throw new NotConnectedError("bad-request", "the connection ends within the request head");
    }
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

/** Answers with the cause and ends the tunnel. */
async function refuse(
  tunnel: ServedTunnel,
  error: NotConnectedError,
  target?: string,
): Promise<void> {
  const failure = failureOf(error);
  // The denied address is only logged: clients must not learn what names resolve to here.
  const address = error instanceof DialError && error.ip ? formatIp(error.ip) : undefined;
  endRefused(tunnel, failure, { target, address });
  await tunnel.failed(failure, formatRefusal(error));
}

if (import.meta.main) {
  await runProgram({
    ...agentInfo,
    check: checkAgent,
    async run(values, surroundings) {
      const tls = await loadTls(agentTlsFiles(values), surroundings.monitor);
      void tls.watch(surroundings);
      surroundings.ready();
      const { ownListeners } = surroundings;
      await runAgent({ ...values, tls, ownListeners }, surroundings);
    },
  });
}
