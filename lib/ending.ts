// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Who ended a tunnel, and why, in the words that the logs of all programs have for it (docs/endings.md). */
import { ProxyHeaderError } from "./client.ts";
import { messageOf } from "./errors.ts";
import type { PipeResult } from "./pipe.ts";
import { ProtocolError } from "./qrht/frame.ts";
import { StreamCode } from "./qrht/tunnel_stream.ts";
import { ConnectionClosedError, StreamResetError, StreamStoppedError } from "./quic/mod.ts";
import { NoAgentError } from "./registry.ts";
import { ConnectTimeoutError, NotConnectedError } from "./retrying_tunnel.ts";
import { type FailureCode, UPSTREAM_UNREACHABLE } from "./tunnel.ts";

/** A program that logs. Both agents call themselves `agent`. */
export type Program = "server" | "agent";

/** Who can end a tunnel. The upstream of a passthrough is its `target`. */
export type Party = "client" | "target" | Program;

/**
 * Why a tunnel ended.
 *
 * - `end`: everything was delivered, both ways; `by` ended first
 * - `reset`: `by` has reset its connection, or took no more bytes of it
 * - `half-open`: one direction had ended, and `by` was silent, or took nothing, for too long
 * - `idle`: both directions were silent for too long
 * - `write-timeout`: `by` took nothing of what waited for it for too long
 * - `refused`: there was never a connection to the target, for a cause of `by`'s that `result` tells
 * - `no-agent`: no agent was there in time, or none with room for a stream
 * - `connect-timeout`: no agent has connected the target in time
 * - `moved`: the server has tried another agent instead
 * - `stopped`: `by` was told to stop
 * - `connection-closed`: `by` has closed the QUIC connection
 * - `connection-lost`: nothing was heard of `by` any more
 * - `protocol-error`: `by` has sent what it must not
 * - `error`: something else, which `error` tells
 */
export type Reason =
  | Exclude<PipeResult["reason"], "aborted">
  | "reset"
  | "refused"
  | "no-agent"
  | "connect-timeout"
  | "moved"
  | "stopped"
  | "connection-closed"
  | "connection-lost"
  | "protocol-error";

/** The fields of a log line that say how a tunnel ended. */
export interface Ending {
  /** Undefined when it was nobody's doing. */
  readonly by: Party | undefined;
  readonly reason: Reason;
  /** In words. */
  readonly error?: string;
}

/**
 * The fields of the line that sums up a tunnel at its end.
 *
 * @param result of the pipe between client (`a`) and target (`b`), one of which is beyond the other program
 * @param since when the tunnel began, by `performance.now()`
 * @param self who logs
 * @param failure why there was an answer of the agent's own in place of the target's
 */
export function summarize(
  result: PipeResult,
  since: number,
  self: Program,
  failure?: FailureCode,
) {
  return {
    sent: result.aToB,
    received: result.bToA,
    durationMs: Math.round(performance.now() - since),
    ...endingOfPipe(result, self, failure),
  };
}

function endingOfPipe(result: PipeResult, self: Program, failure?: FailureCode): Ending {
  const ending = endingOfSides(result, self);
  // Who answers in the target's place takes no more of the client's bytes after that.
  const isAnswered = ending.reason === "end" ||
    (ending.reason === "reset" && ending.by === "target");
  return failure && isAnswered ? { by: refusedBy(failure), reason: "refused" } : ending;
}

function endingOfSides({ reason, by, error }: PipeResult, self: Program): Ending {
  if (reason === "aborted") {
    return error instanceof ConnectionClosedError
      ? endingOf(error, self, self)
      : { by: self, reason: "stopped" };
  }
  const party = by && ({ a: "client", b: "target" } as const)[by];
  return reason === "error" ? endingOf(error, party!, self) : { by: party, reason };
}

/**
 * What an error says of the end of a tunnel.
 *
 * @param by whose bytes could not be read or written; errors that know better overrule it
 * @param self who logs
 */
export function endingOf(error: unknown, by: Party, self: Program): Ending {
  const peer = self === "server" ? "agent" : "server";
  const ending = (by: Party, reason: Reason) => ({ by, reason, error: messageOf(error) });
  if (error instanceof ConnectionClosedError) {
    if (error.info.by === "local") return { by: self, reason: "stopped" };
    return ending(peer, error.info.by === "peer" ? "connection-closed" : "connection-lost");
  }
  if (error instanceof StreamResetError || error instanceof StreamStoppedError) {
    switch (error.code) {
      case UPSTREAM_UNREACHABLE:
        return ending(peer, "refused");
      case StreamCode.ProtocolError:
        // The peer's word for what this end has sent.
        return ending(self, "protocol-error");
      case StreamCode.Moved:
        return ending(peer, "moved");
      default:
        return ending(by, "reset");
    }
  }
  if (error instanceof NotConnectedError) return ending(refusedBy(error.code), "refused");
  if (error instanceof ConnectTimeoutError) return ending(peer, "connect-timeout");
  if (error instanceof NoAgentError) return ending(self, "no-agent");
  if (error instanceof ProtocolError) return ending(peer, "protocol-error");
  if (error instanceof ProxyHeaderError) return ending(by, "protocol-error");
  if (error instanceof Deno.errors.TimedOut) return ending(by, "connection-lost");
  if (resets.some((type) => error instanceof type)) return ending(by, "reset");
  return ending(by, "error");
}

/** What the system says of a TCP connection that its peer has reset, or has closed altogether. */
const resets = [
  Deno.errors.ConnectionReset,
  Deno.errors.ConnectionAborted,
  Deno.errors.BrokenPipe,
  Deno.errors.NotConnected,
];

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
