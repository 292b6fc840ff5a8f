// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { backoffDelayMs } from "../backoff.ts";
import { sleep } from "../wait.ts";

export interface ReconnectOptions<Session> {
  /** Makes one session. */
  connect(signal: AbortSignal): Promise<Session>;
  /** Uses a session until it ends or is to be replaced; resolves with its healthy time in ms. */
  serve(session: Session): Promise<{ healthyMs: number }>;
  /** Told of each attempt that failed, and the pause that follows. */
  failed(error: unknown, retryInMs: number): void;
  /** Ends the loop. */
  readonly signal: AbortSignal;
  /** Longest first pause. @default {250} */
  readonly minMs?: number;
  /** Longest pause of all. @default {10000} */
  readonly maxMs?: number;
  /** A shorter limit for the pause after an error. @default {none} */
  maxPauseMs?(error: unknown): number | undefined;
  /** Time a session has to last for the pauses to start from the shortest again. @default {5000} */
  readonly healthyAfterMs?: number;
  /** Source of jitter, 0 to 1. @default {Math.random} */
  readonly random?: () => number;
  /** Waits; resolves early when the signal aborts. */
  readonly sleep?: (ms: number, signal: AbortSignal) => Promise<void>;
}

/**
 * Connects and serves repeatedly until the signal aborts. After every session there is a pause with
 * exponential backoff and full jitter, even if the session was accepted and closed at once.
 */
export async function reconnect<Session>(options: ReconnectOptions<Session>): Promise<void> {
  const {
    signal,
    minMs = 250,
    maxMs = 10_000,
    healthyAfterMs = 5_000,
    random = Math.random,
  } = options;
  const pause = options.sleep ?? sleep;
  for (let attempt = 0; !signal.aborted;) {
    let error: unknown;
    try {
      const session = await options.connect(signal);
      const { healthyMs } = await options.serve(session);
      if (healthyMs >= healthyAfterMs) attempt = 0;
    } catch (thrown) {
      error = thrown;
    }
    if (signal.aborted) return;
    const limitMs = Math.min(maxMs, options.maxPauseMs?.(error) ?? maxMs);
    const delayMs = backoffDelayMs(attempt++, { minMs, maxMs: limitMs, random });
    if (error !== undefined) options.failed(error, delayMs);
    await pause(delayMs, signal);
  }
}
