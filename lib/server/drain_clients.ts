// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { drain } from "../tunnel/drain.ts";
import type { RunningServer } from "./running_server.ts";

/**
 * Tells the agents to drain, and lets open tunnels continue for a time. Clients are accepted until no
 * tunnel is open, or the last part of the drain begins, as long as agents are there to serve them.
 */
export async function drainClients(
  server: RunningServer,
  closeFronts: () => Promise<void>,
): Promise<void> {
  const { config, groups, agents, clients, monitor, log } = server;
  const { drainTimeoutMs } = config;
  if (drainTimeoutMs === 0) return;
  if (clients.size === 0) await closeFronts();
  if (clients.size === 0) return;
  log.info("draining", { tunnels: clients.size, drainTimeoutMs });
  const unserved = groups.seal();
  for (const agent of agents) agent.control?.drain();
  const isDrained = await drain(clients, {
    timeoutMs: drainTimeoutMs,
    settled: (ms) => Promise.all(Array.from(agents, ({ connection }) => connection.settled(ms))),
    cutSilent: (ms) => monitor.cutSilent(ms),
    accepting: { unserved, stop: closeFronts },
  });
  if (isDrained) return;
  log.warn("resetting tunnels after the drain timeout", { tunnels: clients.size, drainTimeoutMs });
}
