// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Another configuration for a server that runs. */
import type { Logger } from "../log.ts";
import { CloseCode } from "../qrht/codes.ts";
import { sleep } from "../wait.ts";
import type { ServerConfig } from "./config.ts";
import type { ConnectedAgent } from "./connected_agent.ts";
import type { TcpAddress } from "./front.ts";
import { agentsOfFronts, changeFronts, haveSameAddresses } from "./listeners.ts";
import { policiesOf, type RunningServer } from "./running_server.ts";

/** What may change while a server runs, or whether it may from one value to another. */
export const live = {
  /** The addresses stay. */
  listenTcp: (from: unknown, to: unknown) =>
    haveSameAddresses(from as readonly TcpAddress[], to as readonly TcpAddress[]),
  routes: true,
  agentNames: true,
  agentWaitMs: true,
  connectTimeoutMs: true,
  maxAttempts: true,
  retryOn: true,
  drainTimeoutMs: true,
  halfOpenTimeoutMs: true,
  idleTimeoutMs: true,
  writeTimeoutMs: true,
} as const satisfies { readonly [K in keyof ServerConfig]?: unknown };

/** The values of what may change. */
export type LiveConfig = Pick<ServerConfig, keyof typeof live>;

/**
 * Takes a configuration over for new clients and agents. Agents that it leaves nothing get no
 * further tunnels, and go when those that they have are over.
 *
 * @throws {UsageError} when it contradicts itself: then nothing has changed
 */
export function changeTo(config: ServerConfig, server: RunningServer): void {
  const { groups, fronts, agents, monitor, stopping, log } = server;
  if (stopping.aborted) return;
  const { agentNames } = config;
  groups.change(
    { routes: config.routes, fronts: agentsOfFronts(config) },
    (agent) => agent.isAdmittedBy(agentNames),
  );
  changeFronts(fronts, config);
  server.config = config;
  server.routePolicies = policiesOf(config);
  server.timeouts = config;
  monitor.readFrom({ groups: groups.factsWith(fronts) });
  for (const agent of agents) {
    const ofAgent = agent.isAdmittedBy(agentNames) ? groups.ofAgent(agent) : [];
    agent.groups = ofAgent.flatMap(({ name }) => name ?? []);
    if (ofAgent.length === 0 && !agent.isDraining) void sendAway(agent, log);
  }
}

/** How often it is looked whether an agent that is sent away has tunnels. */
const SENT_AWAY_MS = 1_000;

/** Closes the connection of an agent when it has no tunnel any more. Never rejects. */
async function sendAway(agent: ConnectedAgent, log: Logger): Promise<void> {
  const { connection, fields } = agent;
  log.warn("agent is no longer admitted", { ...fields, tunnels: connection.streamCount });
  agent.isDraining = true;
  agent.control?.drain();
  let isClosed = false;
  connection.closed.then(() => isClosed = true);
  while (!isClosed && connection.streamCount > 0) {
    await Promise.race([sleep(SENT_AWAY_MS), connection.closed]);
  }
  connection.close(CloseCode.NotAdmitted, "no longer admitted");
}
