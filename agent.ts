// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-agent: dials the server and serves a proxy's client on every stream that it opens. */
import { NO_BYTES } from "./lib/bytes.ts";
import { CLIENT_PROTOCOLS, type ClientProtocol } from "./lib/tunnel/client_protocol.ts";
import {
  formatFailure,
  readRequest,
  type ReadRequestOptions,
  RequestError,
} from "./lib/agent/client_request.ts";
import { DialError } from "./lib/agent/dial.ts";
import { keepConnected } from "./lib/agent/keep_connected.ts";
import { connectAndCarry, endingOfFailure, type TunnelService } from "./lib/agent/serve.ts";
import type { AgentConfig, ServedTunnel } from "./lib/agent/session.ts";
import { checkAgent } from "./lib/cli/check/programs.ts";
import { chosenLibrary } from "./lib/cli/quic_library.ts";
import { proxyOf } from "./lib/cli/http_proxy.ts";
import { agentTlsFiles, loadTls, serversOf } from "./lib/cli/program_tls.ts";
import { agentInfo } from "./lib/cli/programs.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { type Authority, formatAuthority } from "./lib/net/authority.ts";
import { formatIp } from "./lib/net/ip_address.ts";
import type { Resolver } from "./lib/net/resolver.ts";
import { formatRule, type Rule } from "./lib/net/target_rule.ts";
import { endingOf } from "./lib/observe/ending.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import type { TunnelTimeouts } from "./lib/tunnel/pipe.ts";
import { type Failure, failureOf, NotConnectedError } from "./lib/tunnel/failure.ts";

export interface ConnectAgentConfig extends AgentConfig {
  /** What may be dialled; everything that is not denied when there are none. */
  readonly allow: readonly Rule[];
  /** What must not be dialled, in addition to what is denied by default. */
  readonly deny: readonly Rule[];
  /** Protocols of clients that are served. @default {all} */
  readonly protocols?: readonly ClientProtocol[];
  /** IP addresses and ports that this agent listens on, which are denied by default. */
  readonly ownListeners?: readonly Authority[];
  /** Resolves the names of targets. @default the system's */
  readonly resolver?: Resolver;
}

/** What may change while an agent runs. */
type LiveConfig = Pick<
  ConnectAgentConfig,
  "allow" | "deny" | "dialTimeoutMs" | keyof TunnelTimeouts
>;

const HEAD_TIMEOUT_MS = 10_000;

/** A client that leaves without having asked for anything. */
const NO_REQUEST: Failure = { code: "bad-request", text: "the client sent no request" };

const log = logger("agent");

/** What serving a client takes. */
interface ClientService extends TunnelService, ReadRequestOptions {}

/** What a client has asked for, as the log has it. */
interface Requested {
  readonly via: ClientProtocol;
  readonly target: string;
}

/** Runs an agent until the signal aborts. Reconnects without limit. */
export async function runAgent(
  config: ConnectAgentConfig,
  options: {
    readonly signal: AbortSignal;
    readonly monitor?: Monitor;
    /** Registers what is told what applies to new tunnels from now on. */
    readonly follow?: (change: (changes: LiveConfig) => void) => void;
  },
): Promise<void> {
  const { signal, monitor = new Monitor("proxy-agent") } = options;
  log.info("agent started", {
    servers: config.servers.map(formatAuthority).join(","),
    ...ruleFields(config),
    clients: (config.protocols ?? CLIENT_PROTOCOLS).join(","),
  });
  let service = serviceOf(config);
  options.follow?.((changes) => {
    service = serviceOf({ ...config, ...changes });
    log.info("new tunnels follow other rules", { ...ruleFields(changes) });
  });
  await keepConnected(config, {
    log,
    monitor,
    signal,
    serve: (tunnel, ended) => serveClient(tunnel, service, ended),
    refuse: (tunnel, { code, text }) => refuse(tunnel, new NotConnectedError(code, text)),
  });
  log.info("agent stopped");
}

/** What an agent does for its clients as it is configured. */
function serviceOf(config: ConnectAgentConfig): ClientService {
  const { allow, deny, dialTimeoutMs, tcpKeepaliveMs, resolver, ownListeners: own } = config;
  const { protocols = CLIENT_PROTOCOLS, headTimeoutMs = HEAD_TIMEOUT_MS } = config;
  return {
    dialTimeoutMs,
    protocols,
    timeoutMs: headTimeoutMs,
    timeouts: config,
    tcpKeepaliveMs,
    rules: { allow, deny, own },
    resolver,
    log,
  };
}

function ruleFields({ allow, deny }: Pick<ConnectAgentConfig, "allow" | "deny">) {
  return { allow: formatRules(allow), deny: formatRules(deny) };
}

function formatRules(rules: readonly Rule[]): string | undefined {
  return rules.length > 0 ? rules.map(formatRule).join(",") : undefined;
}

/** Serves one request to the end of its tunnel. */
async function serveClient(
  tunnel: ServedTunnel,
  service: ClientService,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  const { carrier, fields, record } = tunnel;
  let requested: Requested | undefined;
  try {
    const request = await readRequest(tunnel, service);
    if (!request) {
      endRefused(tunnel, NO_REQUEST);
      return await tunnel.failed(NO_REQUEST, NO_BYTES);
    }
    const { name, via } = request;
    requested = { via, target: name };
    record.facts.via = via;
    record.connecting(name);
    log.trace("connect request", { ...fields, ...requested });
    await connectAndCarry(tunnel, { ...request, since }, service, signal);
  } catch (error) {
    if (error instanceof NotConnectedError) return await refuse(tunnel, error, requested);
    const ending = endingOf(error, "client", "agent");
    log.debug("tunnel refused", { ...fields, ...requested, ...ending });
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

/** Answers with the cause and ends the tunnel. */
async function refuse(
  tunnel: ServedTunnel,
  error: NotConnectedError,
  requested?: Requested,
): Promise<void> {
  const failure = failureOf(error);
  // The denied address is only logged: clients must not learn what names resolve to here.
  const address = error instanceof DialError && error.ip ? formatIp(error.ip) : undefined;
  endRefused(tunnel, failure, { ...requested, address });
  const answer = error instanceof RequestError
    ? error.answer
    : formatFailure(error, requested?.via ?? "connect");
  await tunnel.failed(failure, answer);
}

if (import.meta.main) {
  const live = {
    allow: true,
    deny: true,
    dialTimeoutMs: true,
    halfOpenTimeoutMs: true,
    idleTimeoutMs: true,
    writeTimeoutMs: true,
  } as const satisfies Record<keyof LiveConfig, true>;
  await runProgram({
    ...agentInfo,
    check: checkAgent,
    async run(values, surroundings) {
      const { tryOut, ...library } = chosenLibrary(values);
      const tls = await loadTls(agentTlsFiles(values), surroundings.monitor, tryOut);
      void tls.watch(surroundings);
      surroundings.ready();
      const { ownListeners } = surroundings;
      const servers = serversOf(values, tls.server);
      const proxy = proxyOf({ ...values, ...library }, surroundings.env, log);
      await runAgent({ ...values, ...library, ...proxy, servers, tls, ownListeners }, {
        ...surroundings,
        follow: (change) => surroundings.follow({ live, apply: change }),
      });
    },
  });
}
