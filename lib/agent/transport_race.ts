// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { firstToSucceed } from "../net/happy_eyeballs.ts";
import type { TaskGroup } from "../task_group.ts";
import type { Transport } from "./transport_policy.ts";

export interface RaceOptions<T> {
  /** The transports, that of the first attempt first. */
  readonly order: readonly Transport[];
  /** Time until the second attempt starts beside the first; at once when that fails. */
  readonly headStartMs: number;
  /** Makes one attempt. */
  readonly open: (transport: Transport, signal: AbortSignal) => Promise<T>;
  /** Whether an error is the server's or this end's decision: the other transport would not help. */
  readonly isVerdict: (error: unknown) => boolean;
  /** Closes what has come too late. Must not reject. */
  readonly discard: (value: T) => Promise<void>;
  /** Gets the attempts, and what it takes to end those that have lost. */
  readonly tasks: TaskGroup;
  readonly signal: AbortSignal;
}

/** What has come of the attempts. */
export interface RaceResult<T> {
  readonly transport: Transport;
  readonly value: T;
  /** Why the others have failed, as far as they have. */
  readonly failures: Failures;
}

type Failures = Partial<Readonly<Record<Transport, unknown>>>;

/** Every transport has failed. */
export class RaceLostError extends Error {
  override readonly name = "RaceLostError";
  constructor(readonly failures: Required<Failures>) {
    super("no transport leads to the server");
  }
}

/**
 * Connects over the transport that is first to succeed, as Happy Eyeballs does with addresses (RFC
 * 8305).
 *
 * @throws {RaceLostError} when all attempts have failed
 * @throws what an attempt has thrown that is a verdict
 * @throws the signal's reason when it aborts first
 */
export async function raceTransports<T>(options: RaceOptions<T>): Promise<RaceResult<T>> {
  const { order, headStartMs, open, isVerdict, discard, tasks, signal } = options;
  const failures: Partial<Record<Transport, unknown>> = {};
  type Outcome =
    | { readonly transport: Transport; readonly value: T }
    | { readonly verdict: unknown };
  const attempt = async (transport: Transport, signal: AbortSignal): Promise<Outcome> => {
    const opening = open(transport, signal);
    tasks.add(opening.then(() => {}, () => {}));
    try {
      return { transport, value: await opening };
    } catch (error) {
      if (isVerdict(error)) return { verdict: error };
      failures[transport] = error;
      throw error;
    }
  };
  try {
    const outcome = await firstToSucceed(order, {
      attempt,
      discard: (late: Outcome) => "value" in late && tasks.add(discard(late.value)),
      signal,
      delayMs: headStartMs,
    });
    if ("verdict" in outcome) throw outcome.verdict;
    return { ...outcome, failures };
  } catch (error) {
    if (!(error instanceof AggregateError)) throw error;
    throw new RaceLostError(failures as Required<Failures>);
  }
}
