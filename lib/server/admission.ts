// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { HandshakeResult } from "../observe/monitor.ts";
import { CloseCode } from "../qrht/codes.ts";

/** Why an agent is refused. */
export interface Rejection {
  readonly result: Extract<HandshakeResult, "not-admitted" | "refused">;
  /** Application error code that its connection is closed with. */
  readonly code: number;
  readonly reason: string;
  readonly hint?: string;
}

/** State of the server when an agent connects. */
export interface Occupancy {
  /** Limit of agents that accept tunnels. */
  readonly maxAgents: number;
  /** Agents that accept tunnels now. */
  readonly active: number;
  /** Whether a listener or a route leads to it. */
  readonly isOfUse: boolean;
  /** All connected agents, including draining ones. */
  readonly connected: number;
  readonly isStopping: boolean;
}

/**
 * Decides whether to admit an agent whose handshake has succeeded.
 *
 * @returns undefined when it is admitted
 */
export function rejectionOf(
  { isAllowed }: { readonly isAllowed: boolean },
  { maxAgents, active, isOfUse, connected, isStopping }: Occupancy,
): Rejection | undefined {
  if (!isAllowed) {
    const reason = "not admitted: no name in the certificate matches --agent-name";
    const hint = "add one of its names to --agent-name";
    return { result: "not-admitted", code: CloseCode.NotAdmitted, reason, hint };
  }
  if (!isOfUse) {
    const reason = "not admitted: no name in the certificate is of a --route or a --listen-tcp";
    const hint =
      "add one of its alternative names to a --route or a --listen-tcp; a common name counts only without them";
    return { result: "not-admitted", code: CloseCode.NotAdmitted, reason, hint };
  }
  if (isStopping) return refused("the server is draining");
  // Draining agents only count towards twice the limit, so that their replacements can connect.
  if (active >= maxAgents || connected >= 2 * maxAgents) {
    return refused(`${maxAgents} agents are already connected`);
  }
  return undefined;
}

function refused(reason: string): Rejection {
  return { result: "refused", code: CloseCode.NoFurtherAgents, reason };
}
