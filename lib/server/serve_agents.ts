// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { messageOf } from "../errors.ts";
import { timesOf, tunnelThrottle, warnOrDebug } from "../log_throttle.ts";
import { logLargeDatagrams } from "../observe/large_datagrams.ts";
import { startControl } from "../qrht/control.ts";
import {
  ConnectionClosedError,
  describeClose,
  type QuicConnection,
  type QuicEndpoint,
} from "../quic/mod.ts";
import { listNames } from "../tls/certificate.ts";
import { rejectionOf } from "./admission.ts";
import { ConnectedAgent } from "./connected_agent.ts";
import type { RunningServer } from "./running_server.ts";

/** Takes agents until the endpoint is closed. */
export async function acceptAgents(endpoint: QuicEndpoint, server: RunningServer): Promise<void> {
  const { groups, agents, monitor, stopping, log } = server;
  const rejections = tunnelThrottle();
  log.info("waiting for new quic client session");
  for (;;) {
    let connection: QuicConnection;
    try {
      connection = await endpoint.accept();
    } catch (error) {
      if (error instanceof ConnectionClosedError) return;
      throw error;
    }
    const { agentNames, maxAgents } = server.config;
    const agent = new ConnectedAgent(connection, agentNames);
    agent.doubtPredecessors(agents);
    const ofAgent = groups.ofAgent(agent);
    agent.groups = ofAgent.flatMap(({ name }) => name ?? []);
    const rejection = rejectionOf(agent, {
      maxAgents,
      active: groups.size,
      isOfUse: ofAgent.length > 0,
      connected: agents.size,
      isStopping: stopping.aborted,
    });
    const result = rejection?.result ?? "ok";
    monitor.notify((observer) => observer.handshake?.(result));
    if (rejection === undefined) serveAgent(agent, server);
    else {
      const { code, reason, hint } = rejection;
      const times = rejections.pass();
      log[warnOrDebug(times)]("agent refused", {
        ...agent.fields,
        names: listNames(agent.names),
        reason,
        hint,
        times: timesOf(times),
      });
      connection.close(code, reason);
    }
  }
}

/** Offers an agent clients until it drains or its connection ends. */
function serveAgent(agent: ConnectedAgent, server: RunningServer): void {
  const { groups, agents, monitor, log } = server;
  const { connection, fields, alpn } = agent;
  agents.add(agent);
  connection.maySpare = () => groups.hasAnother(agent);
  monitor.peers.add(agent);
  groups.add(agent);
  const { length } = agent.groups;
  const groupFields = length > 0 && { groups: listNames(agent.groups) };
  const { transport } = agent;
  log.info("agent connected", { ...fields, transport, alpn, ...groupFields, agents: groups.size });
  listenTo(agent, server);
  logLargeDatagrams(connection, log, fields);
  connection.closed.then((info) => {
    agents.delete(agent);
    monitor.peers.delete(agent);
    groups.remove(agent);
    log.info("agent disconnected", {
      ...agent.fields,
      reason: describeClose(info),
      agents: groups.size,
    });
  });
}

/** Handles an agent's control stream. */
function listenTo(
  agent: ConnectedAgent,
  { groups, fronts, log, config: { name, mode } }: RunningServer,
): void {
  const answers = mode === undefined &&
    fronts.some((front) => front.mode === "http-connect" && groups.reaches(front.group, agent));
  agent.control = startControl(agent.connection, { program: "proxy-server", name }, {
    hello: (hello) => {
      log.info("hello from agent", { ...agent.fields, ...hello });
      if (!answers || hello.program !== "proxy-passthrough") return;
      const hint = "set --mode=raw, or http-connect if the upstream speaks CONNECT";
      log.warn("passthrough agent behind a front for CONNECT", { ...agent.fields, hint });
    },
    drain: () => {
      agent.isDraining = true;
      groups.remove(agent);
      log.info("agent is draining", { ...agent.fields, agents: groups.size });
    },
    violated: (error) =>
      log.error("agent violates the protocol", { ...agent.fields, error: messageOf(error) }),
  });
}
