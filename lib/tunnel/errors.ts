// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Who can end a tunnel. The upstream of a passthrough is its `target`; both agent programs are
 * `agent`.
 */
export type Party = "client" | "server" | "agent" | "target";

/**
 * Why a tunnel ended.
 *
 * - `end`: everything was delivered, both ways; `by` ended first
 * - `reset`: `by` has reset its connection, or took no more bytes of it
 * - `half-open`: one direction had ended, and `by` was silent, or took nothing, for too long
 * - `idle`: both directions were silent for too long
 * - `write-timeout`: `by` took nothing of what waited for it for too long
 * - `refused`: there was never a connection to the target, for a cause of `by`'s that `result`
 *   tells
 * - `no-agent`: no agent was there in time, or none with room for a stream
 * - `no-route`: the server has no route for the target
 * - `connect-timeout`: no agent has connected the target in time
 * - `moved`: the server has tried another agent instead
 * - `stopped`: `by` was told to stop
 * - `connection-closed`: `by` has closed the QUIC connection
 * - `connection-lost`: nothing was heard of `by` any more
 * - `protocol-error`: `by` has sent what it must not
 * - `error`: something else, which `error` tells
 */
export type Reason =
  | "end"
  | "reset"
  | "half-open"
  | "idle"
  | "write-timeout"
  | "refused"
  | "no-agent"
  | "no-route"
  | "connect-timeout"
  | "moved"
  | "stopped"
  | "connection-closed"
  | "connection-lost"
  | "protocol-error"
  | "error";

/** An error that ends a tunnel and knows whose doing that is, and why. */
export class TunnelError extends Error {
  override readonly name: string = "TunnelError";

  /**
   * @param by the program that logs, its peer, or a party; undefined for the party whose bytes were
   * carried
   */
  constructor(
    readonly by: Party | "self" | "peer" | undefined,
    readonly reason: Reason,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
