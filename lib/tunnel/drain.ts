// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { TaskGroup } from "../task_group.ts";
import { sleep, within } from "../wait.ts";

export interface DrainOptions {
  /** Time for all of it. */
  readonly timeoutMs: number;
  /** Resolves when the peers have acknowledged everything, or after so many milliseconds. */
  readonly settled: (ms: number) => Promise<unknown>;
  /** Cuts the tunnels in which no byte has moved for so many milliseconds. */
  readonly cutSilent: (ms: number) => void;
  /** Has new tunnels begin meanwhile. @default {none do} */
  readonly accepting?: {
    /** Resolves when nobody serves new tunnels any more. */
    readonly unserved: Promise<unknown>;
    /**
     * Is called when it has, when no tunnel is open, and at the latest before silent ones are cut.
     */
    stop(): Promise<void>;
  };
}

/** Time that tunnels have to arrive which the peer has opened before it learned of the drain. */
const CROSSING_MS = 1_000;

/** Share of a drain, at its end, in which silent tunnels are cut, and the longest time for it. */
const CUTTING_SHARE = 1 / 3;
const MAX_CUTTING_MS = 2_000;

/** Silence for which a tunnel is cut then, and its share of the time that is left at the end. */
const SILENT_MS = 100;
const SILENT_SHARE = 1 / 10;

/** Interval at which tunnels are looked at then. */
const LOOK_MS = 20;

/**
 * Lets open tunnels continue for a bounded time, and what they have sent last be delivered. In its
 * last seconds, tunnels are cut in moments of silence, which spares requests under way in pooled
 * connections: at the end, they would be cut in any moment.
 *
 * @returns whether all tunnels have ended
 */
export async function drain(tunnels: TaskGroup, options: DrainOptions): Promise<boolean> {
  const { timeoutMs, settled, accepting } = options;
  const giveUpAt = performance.now() + timeoutMs;
  const leftMs = () => Math.max(0, giveUpAt - performance.now());
  const cuttingMs = Math.min(timeoutMs * CUTTING_SHARE, MAX_CUTTING_MS);
  if (accepting) {
    const enough = Promise.race([tunnels.ended(), accepting.unserved]);
    await within(leftMs() - cuttingMs, enough, () => new Error("too late")).catch(() => {});
    await accepting.stop();
  }
  const over = new AbortController();
  const cutSilent = async () => {
    await sleep(Math.max(0, leftMs() - cuttingMs), over.signal);
    while (!over.signal.aborted) {
      options.cutSilent(Math.min(SILENT_MS, leftMs() * SILENT_SHARE));
      await sleep(LOOK_MS, over.signal);
    }
  };
  const cutting = cutSilent();
  try {
    // Whatever the peer has sent before it has acknowledged DRAIN has arrived by then.
    if (tunnels.size === 0) await settled(Math.min(leftMs(), CROSSING_MS));
    while (tunnels.size > 0) {
      if (!await tunnels.endedWithin(leftMs())) return false;
      await settled(leftMs());
    }
    return true;
  } finally {
    over.abort();
    await cutting;
  }
}
