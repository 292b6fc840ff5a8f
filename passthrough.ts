// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-passthrough: connects to the server, and every stream of the server to one upstream. */
import { keepConnected } from "./lib/agent/keep_connected.ts";
import { connectAndCarry, endingOfFailure, type TunnelService } from "./lib/agent/serve.ts";
import type { AgentConfig, ServedTunnel } from "./lib/agent/session.ts";
import { checkPassthrough } from "./lib/cli/check/programs.ts";
import { chosenLibrary } from "./lib/cli/quic_library.ts";
import { proxyOf } from "./lib/cli/http_proxy.ts";
import { agentTlsFiles, loadTls, serversOf } from "./lib/cli/program_tls.ts";
import { passthroughInfo } from "./lib/cli/programs.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { type LogThrottle, timesOf, tunnelThrottle, warnOrDebug } from "./lib/log_throttle.ts";
import { type Authority, formatAuthority } from "./lib/net/authority.ts";
import { endingOf } from "./lib/observe/ending.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import type { TunnelTimeouts } from "./lib/tunnel/pipe.ts";
import { type Failure, failureOf } from "./lib/tunnel/failure.ts";
import { formatProxyHeader } from "./lib/tunnel/proxy_protocol.ts";

export interface PassthroughConfig extends AgentConfig {
  /** Where every stream goes. */
  readonly upstream: Authority;
  /** Version of the PROXY protocol that tells the upstream who the client is. */
  readonly proxyProtocol: "off" | "v1" | "v2";
}

const log = logger("passthrough");

/** What serving a tunnel takes. */
interface PassthroughService extends TunnelService {
  readonly upstream: Authority;
  /** What the log calls it. */
  readonly name: string;
  readonly proxyProtocol: PassthroughConfig["proxyProtocol"];
  /** Rate limit of warnings about an upstream that cannot be reached. */
  readonly throttle: LogThrottle;
}

/** What may change while it runs. */
type LiveConfig = Pick<PassthroughConfig, "dialTimeoutMs" | keyof TunnelTimeouts>;

/** Runs a passthrough agent until the signal aborts. Reconnects without limit. */
export async function runPassthrough(
  config: PassthroughConfig,
  options: {
    readonly signal: AbortSignal;
    readonly monitor?: Monitor;
    /** Registers what is told the timeouts of new tunnels from now on. */
    readonly follow?: (change: (changes: LiveConfig) => void) => void;
  },
): Promise<void> {
  const { signal, monitor = new Monitor("proxy-passthrough") } = options;
  const { upstream, proxyProtocol, dialTimeoutMs, tcpKeepaliveMs } = config;
  const name = formatAuthority(upstream);
  log.info("passthrough started", {
    servers: config.servers.map(formatAuthority).join(","),
    upstream: name,
  });
  let service: PassthroughService = {
    upstream,
    name,
    proxyProtocol,
    dialTimeoutMs,
    timeouts: config,
    tcpKeepaliveMs,
    log,
    throttle: tunnelThrottle(),
  };
  options.follow?.((timeouts) => {
    service = { ...service, dialTimeoutMs: timeouts.dialTimeoutMs, timeouts };
  });
  await keepConnected(config, {
    log,
    monitor,
    signal,
    serve: (tunnel, ended) => serveTunnel(tunnel, service, ended),
    refuse: (tunnel, failure) => refuse(tunnel, failure, service),
  });
  log.info("passthrough stopped");
}

/** Connects one tunnel to the upstream, and carries it to its end. */
async function serveTunnel(
  tunnel: ServedTunnel,
  service: PassthroughService,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  const { carrier, fields, record } = tunnel;
  const { upstream: target, name } = service;
  record.connecting(name);
  try {
    const header = proxyHeader(tunnel, service.proxyProtocol);
    const destination = { target, name, since, client: carrier, header };
    await connectAndCarry(tunnel, destination, service, signal);
  } catch (error) {
    if (!signal.aborted) return await refuse(tunnel, failureOf(error), service);
    const ending = endingOf(signal.reason, "server", "agent");
    log.debug("tunnel refused", { ...fields, ...ending });
    record.end(ending);
    carrier.abort();
  }
}

/** The header of the PROXY protocol that tells the upstream who the client is. */
function proxyHeader(
  { open: { client, listener, tunnelId } }: ServedTunnel,
  version: PassthroughConfig["proxyProtocol"],
): Uint8Array | undefined {
  if (version === "off") return undefined;
  const header = { client, listener, uniqueId: tunnelId };
  return formatProxyHeader(version === "v1" ? 1 : 2, header);
}

async function refuse(
  tunnel: ServedTunnel,
  failure: Failure,
  { throttle }: PassthroughService,
): Promise<void> {
  const ending = endingOfFailure(failure);
  tunnel.record.end(ending);
  const times = throttle.pass();
  const level = warnOrDebug(times);
  log[level]("cannot reach the upstream", {
    ...tunnel.fields,
    ...ending,
    times: timesOf(times),
  });
  await tunnel.failed(failure);
}

if (import.meta.main) {
  const live = {
    dialTimeoutMs: true,
    halfOpenTimeoutMs: true,
    idleTimeoutMs: true,
    writeTimeoutMs: true,
  } as const satisfies Record<keyof LiveConfig, true>;
  await runProgram({
    ...passthroughInfo,
    check: checkPassthrough,
    async run(values, surroundings) {
      const { tryOut, ...library } = chosenLibrary(values);
      const tls = await loadTls(agentTlsFiles(values), surroundings.monitor, tryOut);
      void tls.watch(surroundings);
      surroundings.ready();
      const servers = serversOf(values, tls.server);
      const proxy = proxyOf({ ...values, ...library }, surroundings.env, log);
      await runPassthrough({ ...values, ...library, ...proxy, servers, tls }, {
        ...surroundings,
        follow: (change) => surroundings.follow({ live, apply: change }),
      });
    },
  });
}
