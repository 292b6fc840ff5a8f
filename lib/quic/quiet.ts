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
 * @param stats the connection's, as they are now
 * @param idleForMs time for which nothing was heard of the peer
 * @param idleTimeoutMs this end's idle timeout
 */
export function isQuiet(
  native: NativeConnection,
  { peerMaxIdleTimeout }: ReturnType<NativeConnection["stats"]>,
  idleForMs: number,
  idleTimeoutMs: number,
): boolean {
  const idleMs = peerMaxIdleTimeout > 0
    ? Math.min(idleTimeoutMs, peerMaxIdleTimeout)
    : idleTimeoutMs;
  return (native.timeout() ?? 0) >= idleMs - idleForMs - CLOCK_SLACK_MS;
}
