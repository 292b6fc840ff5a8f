// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Another configuration for a server that runs. */
import type { Logger } from "../log.ts";
import { CloseCode } from "../qrht/codes.ts";
import { inSlices } from "../slices.ts";
import { sleep } from "../wait.ts";
import { GroupRules } from "./group_rules.ts";
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
 * Takes a configuration over for new clients and agents, all at one moment. Agents that it leaves
 * nothing get no further tunnels, and go when those that they have are over.
 *
 * Tunnels go on meanwhile, however many routes and agents there are: what is needed at that moment
 * has been found before, and nobody is told before it is over.
 *
 * @throws {UsageError} when it contradicts itself: then nothing has changed
 */
export async function changeTo(config: ServerConfig, server: RunningServer): Promise<void> {
  const { groups, fronts, agents, monitor, stopping, log } = server;
  const rules = new GroupRules({ ...config, fronts: agentsOfFronts(config) });
  for await (const agent of inSlices(agents)) rules.ofAgent(agent);
  if (stopping.aborted) return;
  groups.change(rules);
  changeFronts(fronts, config);
  server.config = config;
  server.routePolicies = policiesOf(config);
  server.timeouts = config;
  monitor.readFrom({ groups: groups.factsWith(fronts) });
  for await (const agent of inSlices(agents)) {
    const ofAgent = groups.ofAgent(agent);
    agent.groups = ofAgent.flatMap(({ name }) => name ?? []);
    if (ofAgent.length === 0 && !agent.isDraining) void sendAway(agent, log);
  }
}

/** How often it is looked whether an agent that is sent away has tunnels. */
const SENT_AWAY_MS = 1_000;

/** Time that the last bytes of its tunnels have to arrive. */
const SETTLE_MS = 5_000;

/** Closes the connection of an agent when it has no tunnel any more. Never rejects. */
async function sendAway(agent: ConnectedAgent, log: Logger): Promise<void> {
  const { connection, fields } = agent;
  log.warn("agent is no longer admitted", { ...fields, tunnels: connection.streamCount });
  agent.isDraining = true;
  agent.control?.drain();
  const closed = new AbortController();
  connection.closed.then(() => closed.abort());
  while (!closed.signal.aborted && connection.streamCount > 0) {
    await sleep(SENT_AWAY_MS, closed.signal);
  }
  await connection.settled(SETTLE_MS);
  connection.close(CloseCode.NotAdmitted, "no longer admitted");
}
