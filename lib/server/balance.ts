// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which of several agents a tunnel goes to. */

/**
 * - `round-robin`: one after the other
 * - `least-streams`: the one that carries the fewest tunnels, those that are as good in turn
 * - `random-two`: of two drawn at random the one that carries fewer tunnels
 */
export type Balance = "round-robin" | "least-streams" | "random-two";

/** The values of {@linkcode Balance}. */
export const balances = ["round-robin", "least-streams", "random-two"] as const satisfies Balance[];

/** Something to choose from. */
export interface Candidate {
  /** Tunnels that it carries. */
  readonly load: number;
}

export interface Choice<C extends Candidate> {
  readonly candidates: readonly C[];
  /** Index of the one whose turn it is. */
  readonly next: number;
  /** Whether one may be chosen. It is asked of few: that may cost something. */
  usable(candidate: C): boolean;
  /** Source of numbers from 0 up to 1. */
  random(): number;
}

/** The index of the chosen one; undefined when none may be. */
export function choose<C extends Candidate>(
  balance: Balance,
  choice: Choice<C>,
): number | undefined {
  switch (balance) {
    case "round-robin":
      return nextOf(choice);
    case "least-streams":
      return leastLoaded(choice);
    case "random-two":
      return betterOfTwo(choice) ?? leastLoaded(choice);
  }
}

function nextOf<C extends Candidate>({ candidates, next, usable }: Choice<C>): number | undefined {
  const count = candidates.length;
  for (let tried = 0; tried < count; tried++) {
    const index = (next + tried) % count;
    if (usable(candidates[index]!)) return index;
  }
  return undefined;
}

function leastLoaded<C extends Candidate>(
  { candidates, next, usable }: Choice<C>,
): number | undefined {
  const count = candidates.length;
  let best: number | undefined;
  let least = Infinity;
  for (let tried = 0; tried < count; tried++) {
    const index = (next + tried) % count;
    const candidate = candidates[index]!;
    if (candidate.load < least && usable(candidate)) {
      best = index;
      least = candidate.load;
    }
  }
  return best;
}

/** Undefined when neither of the two that were drawn may be chosen. */
function betterOfTwo<C extends Candidate>(
  { candidates, usable, random }: Choice<C>,
): number | undefined {
  const count = candidates.length;
  const first = Math.floor(random() * count);
  if (count < 2) return undefined;
  const second = (first + 1 + Math.floor(random() * (count - 1))) % count;
  const [better, worse] = candidates[second]!.load < candidates[first]!.load
    ? [second, first]
    : [first, second];
  return [better, worse].find((index) => usable(candidates[index]!));
}
