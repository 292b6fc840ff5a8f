// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Logger } from "../log.ts";
import { type LogThrottle, timesOf, warnOrDebug } from "../log_throttle.ts";
import { type Authority, formatSocketAddress } from "../net/authority.ts";
import type { Cidr } from "../net/cidr.ts";
import { endingOf, summarize } from "../observe/ending.ts";
import type { Monitor, TunnelRecord } from "../observe/monitor.ts";
import { startTunnelSpan } from "../observe/trace.ts";
import { onAbort } from "../on_abort.ts";
import { openFields } from "../qrht/tunnel.ts";
import type { QuicStream } from "../quic/mod.ts";
import { pipeDuplex, type TunnelTimeouts } from "../tunnel/pipe.ts";
import type { ConnectedAgent } from "./connected_agent.ts";
import { answerTo, giveAnswer, OwnAnswer } from "./answer.ts";
import { askedTarget } from "./asked_target.ts";
import type { Front, FrontClient, FrontMode } from "./front.ts";
import { type AgentGroups, NoRouteError } from "./groups.ts";
import { identifyClient } from "./identify_client.ts";
import { NoAgentError } from "./registry.ts";
import { Route, type RoutePolicy } from "./route.ts";

/** What all clients of a server have in common. */
export interface ClientService {
  readonly groups: AgentGroups<ConnectedAgent, QuicStream>;
  /** By the mode of the front. */
  readonly routePolicies: Readonly<Record<FrontMode, RoutePolicy>>;
  readonly timeouts: TunnelTimeouts;
  /** Networks whose connections begin with a header of the PROXY protocol. */
  readonly acceptProxyProtocol: readonly Cidr[];
  readonly monitor: Monitor;
  readonly log: Logger;
  /** Rate limit of warnings about refused clients. */
  readonly refusals: LogThrottle;
  /** Aborts when the server is stopped. */
  readonly stopping: AbortSignal;
  /** Aborts when tunnels that are still open are cut off. */
  readonly ended: AbortSignal;
}

/** Hint for clients without an agent. */
const NO_AGENT_HINT =
  "start an agent; if one is running, its log has the reason why it does not connect";

/** Finds an agent for a client and forwards its bytes until the end. Never rejects. */
export async function serveClient(
  connection: FrontClient,
  cameTo: Pick<Front, "kind" | "mode" | "group">,
  service: ClientService,
): Promise<void> {
  const { kind: front, mode } = cameTo;
  const { groups, monitor, log, stopping, ended: signal } = service;
  const since = performance.now();
  const tunnelId = crypto.getRandomValues(new Uint8Array(16));
  const { carrier, remote } = connection;
  let fields: Record<string, unknown> = {
    client: remote && formatSocketAddress(remote),
    front,
  };
  let record: TunnelRecord | undefined;
  let group: ReturnType<typeof groups.ofClient>;
  let target: Authority | undefined;
  let isAsked = false;
  const stopListening = onAbort(signal, () => carrier.abort());
  try {
    const client = await identifyClient(connection, service.acceptProxyProtocol);
    let bytes = client?.carrier;
    const open = { tunnelId, client: client?.address, listener: client?.listener };
    const own = openFields(open);
    if (client) {
      const { via } = client;
      fields = { ...own, front, name: connection.name, via: via && formatSocketAddress(via) };
    }
    group = groups.ofClient(cameTo.group);
    if (bytes && !group) {
      isAsked = true;
      const asking = await askedTarget(bytes);
      bytes = asking?.carrier;
      target = asking?.target;
      group = groups.ofClient(cameTo.group, target);
      if (target && !group) throw new NoRouteError(target);
    }
    if (!bytes || !group) {
      monitor.notify((observer) => observer.refused?.("health-check", front));
      log.debug("health check", fields);
      return await carrier[Symbol.asyncDispose]();
    }
    const { name, registry } = group;
    if (name !== undefined) fields = { ...fields, group: name };
    record = monitor.begin({ id: own.tunnel, client: own.client, front, group: name });
    log.debug("accepted {front} connection", () => ({ ...fields, front }));
    record.span = startTunnelSpan("server", open);
    const { timeouts } = service;
    const policy = service.routePolicies[mode];
    const ownAnswer = mode === "http-connect" ? new OwnAnswer(carrier) : undefined;
    const { span } = record;
    const route = new Route(open, {
      policy,
      registry,
      isCurrent: () => groups.ofClient(cameTo.group, target) === group,
      log,
      fields,
      span,
      answer: ownAnswer?.make,
    });
    const tunnel = await route.connect();
    const { connected } = tunnel;
    const { facts, watch } = record;
    connected.then(() => {
      facts.peer = route.agent;
      if (!route.failure) record?.connected();
    }, () => {});
    const piped = await pipeDuplex(bytes, tunnel, {
      timeouts,
      connected,
      signal,
      watch,
      mayBeAbandoned: () => route.mayBeAbandoned ? "b" : undefined,
    });
    const result = ownAnswer ? ownAnswer.end(piped) : piped;
    const summary = summarize(result, since, "server", route.failure);
    log.debug("tunnel ended", () => ({ ...fields, ...route.fields, ...summary }));
    record.end({ ...summary, result: route.failure });
  } catch (error) {
    const isHeard = record !== undefined || isAsked;
    const isAnswered = isHeard && mode === "http-connect" && !signal.aborted;
    if (!isAnswered) carrier.abort();
    const durationMs = Math.round(performance.now() - since);
    const ending = endingOf(error, "client", "server");
    if (record) record.end(signal.aborted ? { by: "server", reason: "stopped" } : ending);
    else {
      const refusal = !isAsked
        ? "proxy-header"
        : error instanceof NoRouteError
        ? "no-route"
        : "bad-request";
      monitor.notify((observer) => observer.refused?.(refusal, front));
    }
    const line = { ...fields, durationMs, ...ending };
    const lacksAgents = error instanceof NoAgentError && group?.registry.size === 0 &&
      !stopping.aborted;
    const hint = lacksAgents ? NO_AGENT_HINT : undefined;
    if (signal.aborted) {
      log.debug("client refused", { ...line, by: "server", reason: "stopped" });
    } else {
      const times = service.refusals.pass();
      log[warnOrDebug(times)]("client refused", { ...line, hint, times: timesOf(times) });
    }
    if (isAnswered) await giveAnswer(carrier, answerTo(error), signal);
  } finally {
    stopListening();
  }
}
