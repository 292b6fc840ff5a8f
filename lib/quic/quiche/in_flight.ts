// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "./native.ts";

/** quiche cuts its timers to whole milliseconds, and they run a little behind this end's clock. */
const CLOCK_SLACK_MS = 5;

/**
 * Whether no packets are in flight (RFC 9002 §2): everything that was sent is acknowledged, or
 * known to be lost.
 *
 * The binding has no such number. But then the idle timer is the only one that quiche 0.18.0 has
 * left. Can go when the binding tells the bytes in flight.
 *
 * @param idleForMs time for which nothing was heard of the peer
 * @param idleTimeoutMs idle timeout of the connection, the shorter one of both ends'
 */
export function nothingInFlight(
  native: NativeConnection,
  idleForMs: number,
  idleTimeoutMs: number,
): boolean {
  return (native.timeout() ?? 0) >= idleTimeoutMs - idleForMs - CLOCK_SLACK_MS;
}
