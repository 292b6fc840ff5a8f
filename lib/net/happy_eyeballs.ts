// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The addresses of a name tried one after the other, without waiting for those that do not answer (RFC 8305). */

/** Connection Attempt Delay, RFC 8305 §5. */
const ATTEMPT_DELAY_MS = 250;

/** What attempts that are not wanted any more are ended with; an abort without a reason makes an error each time. */
const OVER = new Error("another attempt has succeeded");

/** Puts addresses, of 4 or 16 bytes, into the order of attempts: families in turn, from that of the first (§4). */
export function interleaveFamilies(ips: readonly Uint8Array[]): Uint8Array[] {
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
  /** One attempt. The signal aborts when its outcome is not wanted any more. */
  attempt(candidate: C, signal: AbortSignal): Promise<T>;
  /** Takes what attempts bring after the abort. */
  discard(value: T): void;
  /** Gives up. */
  readonly signal: AbortSignal;
  /** Time until the next attempt begins beside those under way; at once when one has failed. @default {250} */
  readonly delayMs?: number;
}

/**
 * Begins one attempt after the other until one has succeeded (RFC 8305 §5), and ends the others then.
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
    over.abort(signal.reason ?? OVER);
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
