// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Rate limit for log lines about events that strangers can cause. */
export class LogThrottle {
  readonly #intervalMs: number;
  readonly #now: () => number;
  readonly #burst: number;
  #since = -Infinity;
  #passed = 0;
  #held = 0;

  /**
   * @param intervalMs from the first line to the next ones @default {1000}
   * @param burst lines that pass in an interval @default {1}
   */
  constructor(intervalMs = 1_000, now: () => number = () => performance.now(), burst = 1) {
    this.#intervalMs = intervalMs;
    this.#now = now;
    this.#burst = burst;
  }

  /** Events since the last one that passed, including this; undefined if this must not pass. */
  pass(): number | undefined {
    this.#held++;
    const now = this.#now();
    if (now - this.#since >= this.#intervalMs) {
      this.#since = now;
      this.#passed = 0;
    }
    if (this.#passed === this.#burst) return undefined;
    this.#passed++;
    const count = this.#held;
    this.#held = 0;
    return count;
  }
}

/** For warnings about single tunnels or agents, of which there may be any number: 10 a second. */
export const tunnelThrottle = () => new LogThrottle(1_000, undefined, 10);

/** For lines of one listener about peers that are refused, at either level: 5 a second. */
export function refusalThrottles(): Readonly<Record<"warn" | "debug", LogThrottle>> {
  const throttle = () => new LogThrottle(1_000, undefined, 5);
  return { warn: throttle(), debug: throttle() };
}

/**
 * The level of a line that a throttle has judged: nothing is lost, but what must not pass is only
 * logged where a line per tunnel is wanted.
 */
export function warnOrDebug(times: number | undefined): "warn" | "debug" {
  return times === undefined ? "debug" : "warn";
}

/** The value of `times` in such a line: the warnings since the last one, if there were more. */
export function timesOf(times: number | undefined): number | undefined {
  return times !== undefined && times > 1 ? times : undefined;
}
