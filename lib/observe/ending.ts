// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Who ended a tunnel and why, as all programs log it (docs/endings.md). */
import { messageOf } from "../errors.ts";
import { type FailureCode, failures } from "../tunnel/failure.ts";
import type { PipeResult } from "../tunnel/pipe.ts";
import { StreamCode } from "../qrht/codes.ts";
import { ConnectionClosedError, StreamResetError, StreamStoppedError } from "../quic/mod.ts";
import { type Party, type Reason, TunnelError } from "../tunnel/errors.ts";

/** The role of a program in a tunnel. Both agent programs are `agent`. */
export type Role = "server" | "agent";

/** The fields of a log line that say how a tunnel ended. */
export interface Ending {
  /** Undefined when no party caused it. */
  readonly by: Party | undefined;
  readonly reason: Reason;
  /** Details in words. */
  readonly error?: string;
}

/**
 * The fields of the log line at the end of a tunnel.
 *
 * @param result of the pipe between client (`a`) and target (`b`), one of which is behind the peer
 * @param since when the tunnel began, by `performance.now()`
 * @param self who logs
 * @param failure why the agent answered in place of the target
 */
export function summarize(
  result: PipeResult,
  since: number,
  self: Role,
  failure?: FailureCode,
) {
  return {
    sent: result.aToB,
    received: result.bToA,
    durationMs: Math.round(performance.now() - since),
    ...endingOfPipe(result, self, failure),
  };
}

function endingOfPipe(result: PipeResult, self: Role, failure?: FailureCode): Ending {
  const ending = endingOfSides(result, self);
  // An agent that answers in place of the target accepts no more of the client's bytes.
  const isAnswered = ending.reason === "end" ||
    (ending.reason === "reset" && ending.by === "target");
  return failure && isAnswered ? { by: failures[failure].by, reason: "refused" } : ending;
}

function endingOfSides({ reason, by, error }: PipeResult, self: Role): Ending {
  if (reason === "aborted") {
    return error instanceof ConnectionClosedError
      ? endingOf(error, self, self)
      : { by: self, reason: "stopped" };
  }
  const party = by && ({ a: "client", b: "target" } as const)[by];
  return reason === "error" ? endingOf(error, party!, self) : { by: party, reason };
}

/**
 * Derives from an error how a tunnel ended.
 *
 * @param by whose bytes could not be read or written; errors that know better overrule it
 * @param self who logs
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { endingOf } from "./ending.ts";
 *
 * const { by, reason } = endingOf(new Deno.errors.ConnectionReset("reset"), "target", "agent");
 * assertEquals([by, reason], ["target", "reset"]);
 * ```
 */
export function endingOf(error: unknown, by: Party, self: Role): Ending {
  const peer = self === "server" ? "agent" : "server";
  const ending = (by: Party, reason: Reason) => ({ by, reason, error: messageOf(error) });
  if (error instanceof ConnectionClosedError) {
    if (error.info.by === "local") return { by: self, reason: "stopped" };
    return ending(peer, error.info.by === "peer" ? "connection-closed" : "connection-lost");
  }
  if (error instanceof StreamResetError || error instanceof StreamStoppedError) {
    switch (error.code) {
      case StreamCode.UpstreamUnreachable:
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
  if (error instanceof TunnelError) {
    const parties = { self, peer } as const;
    const party = error.by ?? by;
    return ending(party === "self" || party === "peer" ? parties[party] : party, error.reason);
  }
  if (error instanceof Deno.errors.TimedOut) return ending(by, "connection-lost");
  if (resets.some((type) => error instanceof type)) return ending(by, "reset");
  return ending(by, "error");
}

/** Errors of the system for a TCP connection that its peer has reset or closed completely. */
const resets = [
  Deno.errors.ConnectionReset,
  Deno.errors.ConnectionAborted,
  Deno.errors.BrokenPipe,
  Deno.errors.NotConnected,
];
