// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The longest that `setTimeout` can wait, in milliseconds: what is set for longer is over at once.
 */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Waits for a promise, but not for longer than a time. Nothing is left of the wait when it is over;
 * what becomes of the promise afterwards is nobody's concern.
 *
 * @param ms the time, in milliseconds
 * @param late makes the error that is thrown when the time is over
 *
 * @example
 * ```ts
 * import { within } from "./wait.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const late = () => new Error("no answer within 1000 ms");
 * assertEquals(await within(1_000, Promise.resolve("answer"), late), "answer");
 * ```
 */
export async function within<T>(ms: number, promise: Promise<T>, late: () => Error): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), Math.max(0, ms));
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Waits for a time, in milliseconds; resolves early when the signal aborts, at once when it has
 * before.
 */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
    if (signal?.aborted) done();
  });
}
