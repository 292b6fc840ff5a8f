// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "./native.ts";

/** quiche's timers are cut to whole milliseconds, and run a little behind this end's clock. */
const CLOCK_SLACK_MS = 5;

/**
 * Whether nothing is under way: everything that was sent is acknowledged.
 *
 * quiche does not tell what was acknowledged, but then the only timer it has left is that of idling.
 *
 * @param idleForMs time for which nothing was heard of the peer
 * @param idleTimeoutMs idle timeout of the connection, the shorter one of both ends'
 */
export function isQuiet(
  native: NativeConnection,
  idleForMs: number,
  idleTimeoutMs: number,
): boolean {
  return (native.timeout() ?? 0) >= idleTimeoutMs - idleForMs - CLOCK_SLACK_MS;
}
