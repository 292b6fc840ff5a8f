// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { HandshakeResult } from "../observe/monitor.ts";
import { CloseCode } from "../qrht/codes.ts";

/** Why an agent is turned away. */
export interface Rejection {
  readonly result: Extract<HandshakeResult, "not-admitted" | "refused">;
  /** Application error code that its connection is closed with. */
  readonly code: number;
  readonly reason: string;
  readonly hint?: string;
}

/** How a server stands when an agent comes. */
export interface Occupancy {
  /** Agents that may take tunnels at a time. */
  readonly maxAgents: number;
  /** Those that do. */
  readonly active: number;
  /** All that are connected, those included that drain. */
  readonly connected: number;
  readonly isStopping: boolean;
}

/**
 * Whether a server takes an agent whose handshake has succeeded.
 *
 * @returns undefined when it does
 */
export function rejectionOf(
  { isAllowed }: { readonly isAllowed: boolean },
  { maxAgents, active, connected, isStopping }: Occupancy,
): Rejection | undefined {
  if (!isAllowed) {
    const reason = "not admitted: no name in the certificate matches --agent-name";
    const hint = "add one of its names to --agent-name";
    return { result: "not-admitted", code: CloseCode.NotAdmitted, reason, hint };
  }
  if (isStopping) return refused("the server is draining");
  // Agents that drain may be replaced meanwhile, as often as there are others.
  if (active >= maxAgents || connected >= 2 * maxAgents) {
    return refused(`${maxAgents} agents are already connected`);
  }
  return undefined;
}

function refused(reason: string): Rejection {
  return { result: "refused", code: CloseCode.NoFurtherAgents, reason };
}
