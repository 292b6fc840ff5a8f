// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Runs `body` for a limited time. Rejects at the latest when the time is over or `outer` aborts, even
 * if `body` does not heed the signal it is given, which aborts at the end in any case.
 *
 * @param what what is waited for, in words, for the error
 * @throws {Error} that names `what`, or the reason of `outer`
 */
export async function bounded<T>(
  what: string,
  timeoutMs: number,
  outer: AbortSignal,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  outer.throwIfAborted();
  const late = new AbortController();
  const timer = setTimeout(
    () => late.abort(new Error(`waited ${timeoutMs / 1000} s in vain for ${what}`)),
    timeoutMs,
  );
  const signal = AbortSignal.any([outer, late.signal]);
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  try {
    return await Promise.race([body(signal), aborted]);
  } finally {
    clearTimeout(timer);
    late.abort();
  }
}
