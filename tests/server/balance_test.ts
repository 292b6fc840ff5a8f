// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertLess } from "@std/assert";
import fc from "fast-check";
import { balances, choose } from "../../lib/server/balance.ts";
import { seededRandom } from "../support/udp_relay.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const candidatesOf = (...loads: number[]) => loads.map((load) => ({ load }));
const any = () => true;

test("choose() round-robin takes the next one that may be chosen, whatever the loads", () => {
  const candidates = candidatesOf(9, 0, 5);
  const pick = (next: number, usable = any as (c: { load: number }) => boolean) =>
    choose("round-robin", { candidates, next, usable, random: Math.random });
  assertEquals([0, 1, 2].map((next) => pick(next)), [0, 1, 2]);
  assertEquals(pick(1, ({ load }) => load > 0), 2);
  assertEquals(pick(2, ({ load }) => load === 9), 0);
});

test("choose() least-streams takes the least loaded, and those that are alike in turn", () => {
  const pick = (next: number, ...loads: number[]) =>
    choose("least-streams", {
      candidates: candidatesOf(...loads),
      next,
      usable: any,
      random: Math.random,
    });
  assertEquals(pick(0, 3, 1, 2), 1);
  assertEquals([0, 1, 2].map((next) => pick(next, 4, 4, 4)), [0, 1, 2]);
  assertEquals([0, 1, 2].map((next) => pick(next, 4, 1, 1)), [1, 1, 2]);
});

test("choose() random-two evens loads out where plain chance would not", () => {
  const random = seededRandom(7);
  const candidates = Array.from({ length: 10 }, () => ({ load: 0 }));
  for (let i = 0; i < 10_000; i++) {
    const index = choose("random-two", { candidates, next: 0, usable: any, random });
    candidates[index!]!.load++;
  }
  const loads = candidates.map(({ load }) => load);
  // Drawing one at random spreads them by some hundred.
  assertLess(Math.max(...loads) - Math.min(...loads), 20);
});

test("choose() random-two never takes the most loaded while it may take another", () => {
  const random = seededRandom(8);
  const candidates = candidatesOf(5, 1, 3);
  for (let i = 0; i < 1_000; i++) {
    assert(choose("random-two", { candidates, next: 0, usable: any, random }) !== 0);
  }
});

test("choose() finds one that may be chosen if there is any, by every rule", () => {
  const candidate = fc.record({ load: fc.nat(5), isUsable: fc.boolean() });
  fc.assert(
    fc.property(
      fc.constantFrom(...balances),
      fc.array(candidate, { maxLength: 8 }),
      fc.nat(7),
      fc.integer(),
      (balance, candidates, next, seed) => {
        const index = choose(balance, {
          candidates,
          next: candidates.length > 0 ? next % candidates.length : 0,
          usable: ({ isUsable }) => isUsable,
          random: seededRandom(seed),
        });
        if (index === undefined) assert(!candidates.some(({ isUsable }) => isUsable));
        else assert(candidates[index]!.isUsable);
      },
    ),
  );
});
