// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Happy Eyeballs (RFC 8305): connection attempts to the addresses of a name, staggered and raced.
 */

/** Connection Attempt Delay, RFC 8305 §5. */
const ATTEMPT_DELAY_MS = 250;

/**
 * Abort reason of attempts that have lost. Shared: an abort without a reason creates an error each
 * time.
 */
const OVER = new Error("another attempt has succeeded");

/**
 * Orders addresses of 4 or 16 bytes for the attempts: families alternate, from that of the first
 * (§4).
 */
export function interleaveFamilies(ips: readonly Uint8Array[]): readonly Uint8Array[] {
  if (ips.length < 2) return ips;
  const isFirst = (ip: Uint8Array) => ip.length === ips[0]!.length;
  const first = ips.filter(isFirst);
  const second = ips.filter((ip) => !isFirst(ip));
  const turns = Array.from(
    { length: Math.max(first.length, second.length) },
    (_, i) => [first[i], second[i]],
  );
  return turns.flat().filter((ip) => ip !== undefined);
}

/** What is done with each candidate of {@linkcode firstToSucceed}. */
export interface Attempts<C, T> {
  /** Makes one attempt. The signal aborts when its result is no longer needed. */
  attempt(candidate: C, signal: AbortSignal): Promise<T>;
  /** Disposes of the results of attempts that have lost. */
  discard(value: T): void;
  /** Aborts all attempts. */
  readonly signal: AbortSignal;
  /**
   * Time until the next attempt starts beside those in progress; at once when one fails.
   *
   * @default {250}
   */
  readonly delayMs?: number;
}

/**
 * Starts one attempt after the other until one succeeds (RFC 8305 §5), and aborts the others.
 *
 * @param candidates at least one
 * @throws {AggregateError} with the errors of all attempts, in the order of their candidates
 * @throws the signal's reason when it aborts first
 */
export async function firstToSucceed<C, T>(
  candidates: readonly C[],
  { attempt, discard, signal, delayMs = ATTEMPT_DELAY_MS }: Attempts<C, T>,
): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const over = new AbortController();
  const errors: unknown[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  let begun = 0;
  let failed = 0;

  const run = async (index: number) => {
    try {
      const value = await attempt(candidates[index]!, over.signal);
      if (over.signal.aborted) return discard(value);
      end();
      resolve(value);
    } catch (error) {
      if (over.signal.aborted) return;
      errors[index] = error;
      failed++;
      if (begun < candidates.length) beginNext();
      else if (failed === begun) reject(new AggregateError(errors, "all attempts have failed"));
    }
  };
  const beginNext = () => {
    clearTimeout(timer);
    void run(begun++);
    if (begun < candidates.length) timer = setTimeout(beginNext, delayMs);
  };
  const end = () => {
    clearTimeout(timer);
    // If there was only one, none has lost.
    if (begun > 1 || signal.aborted) over.abort(signal.reason ?? OVER);
  };
  const onAbort = () => {
    end();
    reject(signal.reason);
  };

  signal.throwIfAborted();
  signal.addEventListener("abort", onAbort);
  try {
    beginNext();
    return await promise;
  } finally {
    signal.removeEventListener("abort", onAbort);
    end();
  }
}
