// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { LogThrottle } from "../log_throttle.ts";
import type { TaskGroup } from "../task_group.ts";
import type { TunnelTimeouts } from "../tunnel/pipe.ts";
import type { ServerConfig } from "./config.ts";
import type { ConnectedAgent } from "./connected_agent.ts";
import { AGENT_WAIT_MS, type Front, type FrontMode } from "./front.ts";
import type { ClientService } from "./serve_client.ts";

/** What the parts of a running server share. */
export interface RunningServer extends ClientService {
  config: ServerConfig;
  routePolicies: ClientService["routePolicies"];
  timeouts: TunnelTimeouts;
  readonly fronts: readonly Front[];
  /** Clients at a time, within what there are file descriptors for. */
  readonly maxConnections: number;
  /** All connected agents. Those that accept tunnels are in the registry. */
  readonly agents: Set<ConnectedAgent>;
  readonly clients: TaskGroup;
  /** Clients that are told that there are too many. */
  readonly turnedAway: TaskGroup;
  /** Rate limit of lines about too many clients. */
  readonly throttle: LogThrottle;
}

/** How tunnels find their agents, by the mode of the front. */
export function policiesOf(config: ServerConfig): ClientService["routePolicies"] {
  const policyOf = (mode: FrontMode) => ({
    ...config,
    agentWaitMs: config.agentWaitMs ?? AGENT_WAIT_MS[mode],
  });
  return { raw: policyOf("raw"), "http-connect": policyOf("http-connect") };
}
