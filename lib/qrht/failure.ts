// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Why agents do not connect tunnels. */
import type { Result, ResultCode } from "./messages.ts";
import type { Party } from "../tunnel/errors.ts";

/** Why an agent has not connected a tunnel. */
export type FailureCode = Exclude<ResultCode, "connected">;

/** Why an agent has not connected a tunnel, and in words. */
export type Failure = Result & { readonly code: FailureCode };

const refusers: Readonly<Record<FailureCode, Party>> = {
  "bad-request": "client",
  "refused": "target",
  "timeout": "target",
  "unreachable": "target",
  "unknown-name": "target",
  "denied": "agent",
  "overloaded": "agent",
  "draining": "agent",
  "internal-error": "agent",
};

/** Why agents have not connected tunnels: all there is. */
export const failureCodes = Object.keys(refusers) as FailureCode[];

/** Whose cause it is that a tunnel was not connected. */
export function refusedBy(code: FailureCode): Party {
  return refusers[code];
}
