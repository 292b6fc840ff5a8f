// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-passthrough: dials the server and connects every stream that the server opens to one fixed upstream. */
import { runAgentLinks } from "./lib/agent/keep_connected.ts";
import type { AgentConfig, ServedTunnel } from "./lib/agent/session.ts";
import { type Authority, formatAuthority } from "./lib/net/authority.ts";
import { checkPassthrough } from "./lib/cli/check/programs.ts";
import { dial } from "./lib/agent/dial.ts";
import { type Duplex, writeAll } from "./lib/tunnel/duplex.ts";
import { tcpDuplex } from "./lib/tunnel/tcp_duplex.ts";
import { endingOf, summarize } from "./lib/observe/ending.ts";
import { type Failure, failureOf, failures } from "./lib/qrht/failure.ts";
import { agentTlsFiles, loadTls } from "./lib/cli/program_tls.ts";
import { runProgram } from "./lib/cli/run_program.ts";
import { logger } from "./lib/log.ts";
import { Monitor } from "./lib/observe/monitor.ts";
import { pipeDuplex } from "./lib/tunnel/pipe.ts";
import { passthroughInfo } from "./lib/cli/programs.ts";
import { formatProxyHeader } from "./lib/tunnel/proxy_protocol.ts";

export interface PassthroughConfig extends AgentConfig {
  /** Where every stream goes. */
  readonly upstream: Authority;
  /** Version of the PROXY protocol that tells the upstream who the client is. */
  readonly proxyProtocol: "off" | "v1" | "v2";
}

const log = logger("passthrough");

/** Runs a passthrough agent until the signal aborts. Reconnects for ever. */
export async function runPassthrough(
  config: PassthroughConfig,
  options: { readonly signal: AbortSignal; readonly monitor?: Monitor },
): Promise<void> {
  const { signal, monitor = new Monitor("proxy-passthrough") } = options;
  const fields = {
    servers: config.servers.map(formatAuthority).join(","),
    upstream: formatAuthority(config.upstream),
  };
  log.info("passthrough started", fields);
  await runAgentLinks(config, {
    program: "proxy-passthrough",
    log,
    monitor,
    signal,
    serve: (tunnel, ended) => carry(tunnel, config, ended),
    refuse,
  });
  log.info("passthrough stopped");
}

/** Carries one tunnel to the upstream, to its end. */
async function carry(
  tunnel: ServedTunnel,
  config: PassthroughConfig,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  const { carrier, fields, record } = tunnel;
  const target = formatAuthority(config.upstream);
  record.connecting(target);
  let upstream: Duplex;
  try {
    const timeoutMs = config.dialTimeoutMs;
    record.span?.dials(config.upstream);
    const connection = await dial(config.upstream, { timeoutMs, signal });
    record.span?.connected(connection.remoteAddr);
    upstream = tcpDuplex(connection);
  } catch (error) {
    if (!signal.aborted) return await refuse(tunnel, failureOf(error));
    const ending = endingOf(signal.reason, "server", "agent");
    log.debug("tunnel refused", { ...fields, ...ending });
    record.end(ending);
    return carrier.abort();
  }
  try {
    await introduceClient(upstream, tunnel, config.proxyProtocol);
  } catch (error) {
    upstream.abort();
    return await refuse(tunnel, failureOf(error));
  }
  record.connected();
  tunnel.connected();
  const result = await pipeDuplex(carrier, upstream, { ...config, signal, watch: record.watch });
  const summary = summarize(result, since, "agent");
  log.debug("tunnel ended", { ...fields, target, ...summary });
  record.end(summary);
}

/** Sends the header of the PROXY protocol, before anything else. */
async function introduceClient(
  upstream: Duplex,
  { open: { client, listener, tunnelId } }: ServedTunnel,
  version: PassthroughConfig["proxyProtocol"],
): Promise<void> {
  if (version === "off") return;
  const header = { client, listener, uniqueId: tunnelId };
  await writeAll(upstream, formatProxyHeader(version === "v1" ? 1 : 2, header));
}

async function refuse(tunnel: ServedTunnel, failure: Failure): Promise<void> {
  const { code, text } = failure;
  const ending = { by: failures[code].by, reason: "refused", result: code, error: text } as const;
  tunnel.record.end(ending);
  log.warn("cannot reach the upstream", { ...tunnel.fields, ...ending });
  await tunnel.failed(failure);
}

if (import.meta.main) {
  await runProgram({
    ...passthroughInfo,
    check: checkPassthrough,
    async run(values, surroundings) {
      const tls = await loadTls(agentTlsFiles(values), surroundings.monitor);
      void tls.watch(surroundings);
      await runPassthrough({ ...values, tls }, surroundings);
    },
  });
}
