// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Who ended a tunnel, and why, in the words that the logs of all programs have for it (docs/endings.md). */
import { messageOf } from "../errors.ts";
import { type FailureCode, failures } from "../qrht/failure.ts";
import type { PipeResult } from "../tunnel/pipe.ts";
import { StreamCode } from "../qrht/codes.ts";
import { ConnectionClosedError, StreamResetError, StreamStoppedError } from "../quic/mod.ts";
import { type Party, type Reason, TunnelError } from "../tunnel/errors.ts";

/** What a program is to a tunnel: both agent programs are its `agent`. */
export type Role = "server" | "agent";

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
  // Who answers in the target's place takes no more of the client's bytes after that.
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
 * What an error says of the end of a tunnel.
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

/** What the system says of a TCP connection that its peer has reset, or has closed altogether. */
const resets = [
  Deno.errors.ConnectionReset,
  Deno.errors.ConnectionAborted,
  Deno.errors.BrokenPipe,
  Deno.errors.NotConnected,
];
