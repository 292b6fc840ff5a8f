// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { TaskGroup } from "../task_group.ts";

/** Time that tunnels have to arrive which the peer has opened before it learned of the drain. */
const CROSSING_MS = 1_000;

/**
 * Lets open tunnels continue for a bounded time, and what they have sent last be delivered.
 *
 * @param timeoutMs time for all of it
 * @param settled resolves when the peers have acknowledged everything, or after so many
 * milliseconds
 * @returns whether all tunnels have ended
 */
export async function drain(
  tunnels: TaskGroup,
  timeoutMs: number,
  settled: (ms: number) => Promise<unknown>,
): Promise<boolean> {
  const giveUpAt = performance.now() + timeoutMs;
  const leftMs = () => giveUpAt - performance.now();
  // Whatever the peer has sent before it has acknowledged DRAIN has arrived by then.
  if (tunnels.size === 0) await settled(Math.min(leftMs(), CROSSING_MS));
  while (tunnels.size > 0) {
    if (!await tunnels.endedWithin(leftMs())) return false;
    await settled(leftMs());
  }
  return true;
}
