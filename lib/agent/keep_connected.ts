// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { byNameOf } from "./carrier.ts";
import { hintOfFailure, isRefused, isTurnedAway } from "./connect_error.ts";
import type { AgentConfig, AgentSession, AgentSessionOptions } from "./session.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { maxTunnels } from "../net/descriptors.ts";
import { messageOf } from "../errors.ts";
import { FailureStreak } from "./failure_streak.ts";
import { ServerLink } from "./server_link.ts";
import { ServerAddresses } from "./server_addresses.ts";
import { ConnectionClosedError } from "../quic/mod.ts";
import { reconnect } from "./reconnect.ts";
import { Resolver } from "../net/resolver.ts";
import { logTcpKeepalive } from "../net/tcp_keepalive.ts";
import { TaskGroup } from "../task_group.ts";

/** Draining connections to one address that may continue beside the current one. */
const MAX_DRAINED = 8;

/** Longest pause while the server's machine is there, and its program may start at any time. */
const MAX_REFUSED_PAUSE_MS = 500;

/** Longest pause after a server that accepts no further agents: another may take its place soon. */
const MAX_TURNED_AWAY_PAUSE_MS = 1_000;

/**
 * Keeps an agent connected to every address of its servers and serves their streams until the
 * signal aborts. Reconnects without limit.
 */
export async function keepConnected(
  config: AgentConfig,
  options: AgentSessionOptions,
): Promise<void> {
  const { log, monitor, signal } = options;
  const { servers, refreshMs, backoff, serverResolver = new Resolver() } = config;
  const sessions = new TaskGroup();
  logTcpKeepalive(log, config);

  const keepConnectedTo = async (address: Authority, signal: AbortSignal) => {
    const streak = new FailureStreak();
    const ownSessions = new TaskGroup();
    const link = new ServerLink(address, config, options, sessions);
    const start = (session: AgentSession) => {
      const ended = session.serve();
      for (const running of [sessions, ownSessions]) running.add(ended);
      return ended;
    };
    await reconnect<AgentSession>({
      signal,
      ...backoff,
      maxPauseMs: (error) => maxPauseMs(error) ?? link.maxPauseMs,
      connect: (signal) => link.connect(signal),
      async serve(session) {
        streak.end();
        const since = performance.now();
        let current = session;
        let ended = start(current);
        for (let next; (next = await link.successorOf(current, signal)) !== undefined;) {
          ended = start(next);
          current.replace();
          current = next;
        }
        link.ended(current);
        const { closeInfo } = current.connection;
        const error = closeInfo && new ConnectionClosedError(closeInfo);
        if (isTurnedAway(error)) throw error;
        addresses.refresh(address);
        if (ownSessions.size > MAX_DRAINED) await ended;
        return { healthyMs: performance.now() - since };
      },
      failed(error, retryInMs) {
        addresses.refresh(address);
        const level = streak.add(messageOf(error)) ? "warn" : "debug";
        log[level]("cannot connect to the server", {
          server: formatAuthority(address),
          error: messageOf(error),
          hint: hintOfFailure(error),
          failures: streak.failures,
          retryInMs,
        });
      },
    });
  };
  const addresses = new ServerAddresses({
    servers,
    resolve: (name, signal) => serverResolver.resolve(name, signal),
    byName: (server) => byNameOf(server, config),
    keepConnected: keepConnectedTo,
    log,
    signal,
    ...(refreshMs && { refreshMs }),
  });
  const connections = maxTunnels();
  const limits = Number.isFinite(connections) ? { connections } : {};
  monitor.readFrom({ knownServers: () => addresses.size, capacity: () => limits });
  await addresses.run();
  await sessions.ended();
}

function maxPauseMs(error: unknown): number | undefined {
  if (isRefused(error)) return MAX_REFUSED_PAUSE_MS;
  return isTurnedAway(error) ? MAX_TURNED_AWAY_PAUSE_MS : undefined;
}
