// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The longest that `setTimeout` can wait, in milliseconds: what is set for longer is over at once.
 */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** A value that is there, or the promise of one that is not: `await` gives it in either case. */
export type Awaitable<T> = T | Promise<T>;

/** What follows once a value is there: at once if it is. */
export function andThen<T, R>(
  awaitable: Awaitable<T>,
  next: (value: T) => Awaitable<R>,
): Awaitable<R> {
  return awaitable instanceof Promise ? awaitable.then(next) : next(awaitable);
}

/**
 * Waits for a promise, but not for longer than a time. Nothing is left of the wait when it is over;
 * what becomes of the promise afterwards is nobody's concern.
 *
 * @param ms the time, in milliseconds
 * @param awaited a value that is there already is returned at once
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
export function within<T>(ms: number, awaited: Promise<T>, late: () => Error): Promise<T>;
export function within<T>(ms: number, awaited: Awaitable<T>, late: () => Error): Awaitable<T>;
export function within<T>(ms: number, awaited: Awaitable<T>, late: () => Error): Awaitable<T> {
  if (!(awaited instanceof Promise)) return awaited;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(late()), Math.max(0, ms));
    const settle = <R>(how: (result: R) => void) => (result: R) => {
      clearTimeout(timer);
      how(result);
    };
    awaited.then(settle(resolve), settle(reject));
  });
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
