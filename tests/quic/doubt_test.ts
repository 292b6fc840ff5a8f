// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type DoubtCause, PeerDoubt } from "../../lib/quic/path/doubt.ts";

/** Step of the clock, and the most that an act comes later for it. */
const STEP_MS = 5;

interface Story {
  readonly rttMs?: number;
  /** Something that is sent without an answer, from this time on. */
  readonly inFlightAt?: number | undefined;
  /** When what is said, in ms. */
  readonly raised?: readonly (readonly [at: number, cause: DoubtCause])[];
  /** When authentic packets of the peer's arrive. */
  readonly heardAt?: readonly number[];
  /** When datagrams arrive that are not the peer's. */
  readonly garbageAt?: readonly number[];
  readonly maySpare?: (now: number) => boolean;
  /** Whether the peer's address may change. @default {true} */
  readonly mayMove?: boolean;
  /** Whether the congestion window lets probes out. @default {true} */
  readonly probesLeave?: boolean;
  readonly untilMs?: number;
  /** Time in which this end does not run, and receives nothing. */
  readonly stall?: readonly [from: number, to: number];
}

/** Runs a story in fake time. Returns when the peer was given up and why, and when it was probed. */
function run(story: Story) {
  const { rttMs = 1, heardAt = [], garbageAt = [], raised = [], untilMs = 5_000 } = story;
  const doubt = new PeerDoubt(story.mayMove ?? true);
  const counts = { recv: 10, sent: 10 };
  const native = {
    stats: () => counts,
    pathStats: () => [{ rtt: rttMs }],
  } as unknown as Parameters<PeerDoubt["raise"]>[2];
  const probedAt: number[] = [];
  const isNow = (now: number) => (at: number) => now - STEP_MS < at && at <= now;
  let receivedAt = 0;
  for (let now = 0; now <= untilMs; now += STEP_MS) {
    if (story.stall && now > story.stall[0] && now < story.stall[1]) continue;
    counts.recv += heardAt.filter(isNow(now)).length;
    if ([...heardAt, ...garbageAt].some(isNow(now))) receivedAt = now;
    for (const [at, cause] of raised) if (isNow(now)(at)) doubt.raise(cause, now, native);
    if (now >= (story.inFlightAt ?? Infinity)) doubt.inFlight(now, receivedAt);
    const maySpare = () => story.maySpare?.(now) ?? true;
    for (let turns = 0; doubt.dueAt <= now; turns++) {
      assert(turns < 3, "it is due again and again");
      const verdict = doubt.look(now, receivedAt, native, maySpare);
      if (verdict === "lost") return { lostAt: now, probedAt, ...doubt.ending };
      if (verdict === "probe") {
        probedAt.push(now);
        if (story.probesLeave ?? true) counts.sent++;
      }
    }
  }
  return { lostAt: undefined, probedAt, isUnanswered: doubt.isUnanswered };
}

const every = (ms: number, from: number, to: number) =>
  Array.from({ length: Math.floor((to - from) / ms) + 1 }, (_, i) => from + i * ms);

const table: readonly [name: string, story: Story, lostAt: number | undefined][] = [
  ["gives up a refused peer after three probe timeouts", {
    mayMove: false,
    raised: [[0, "refused"]],
  }, 300],
  ["gives a long path more time", { rttMs: 300, mayMove: false, raised: [[0, "refused"]] }, 1_800],
  ["lets a peer with a successor stall for a second", { raised: [[0, "successor"]] }, 1_200],
  ["counts what was unanswered before the successor came", {
    inFlightAt: 100,
    maySpare: () => false,
    raised: [[1_000, "successor"]],
  }, 1_300],
  ["takes a successor for more than missing acknowledgements", {
    inFlightAt: 0,
    raised: [[700, "successor"]],
  }, 1_200],
  ["is faster when the port of a peer with a successor is closed", {
    raised: [[0, "successor"], [50, "refused"]],
  }, 300],
  [
    "takes a refusal for nothing where the peer may have moved",
    { raised: [[0, "refused"]] },
    undefined,
  ],
  ["takes a refusal for nothing once the peer has answered", {
    raised: [[0, "successor"], [40, "refused"]],
    heardAt: [20],
  }, undefined],
  ["takes a refusal for nothing beside missing acknowledgements", {
    inFlightAt: 0,
    raised: [[600, "refused"]],
  }, 1_400],
  ["gives up a peer that does not acknowledge", { inFlightAt: 200 }, 1_600],
  [
    "waits for another one that can serve",
    { inFlightAt: 0, maySpare: (now) => now >= 3_000 },
    3_300,
  ],
  ["leaves it to the idle timeout when no other can serve", {
    inFlightAt: 0,
    maySpare: () => false,
  }, undefined],
  ["concludes nothing from probes that never left", {
    raised: [[0, "successor"]],
    probesLeave: false,
  }, undefined],
  ["is not stopped by datagrams of others", {
    raised: [[0, "successor"]],
    garbageAt: every(50, 10, 5_000),
  }, 1_200],
  ["counts no time in which this end does not run", { inFlightAt: 0, stall: [20, 3_000] }, 3_900],
  ["stops when the peer is heard of", { raised: [[0, "successor"]], heardAt: [1_100] }, undefined],
  ["stops when a stalled peer goes on", { inFlightAt: 0, heardAt: [1_050, 1_060] }, 2_500],
];

for (const [name, story, lostAt] of table) {
  Deno.test({
    name: `PeerDoubt ${name}`,
    permissions: "none",
    fn() {
      const result = run(story);
      assertEquals(result.lostAt, lostAt, JSON.stringify(result));
    },
  });
}

Deno.test({
  name: "PeerDoubt probes twice in each probe timeout, and says why it gave up",
  permissions: "none",
  fn() {
    const { probedAt, reason, isRefused } = run({
      mayMove: false,
      raised: [[100, "refused"]],
    }) as never;
    assertEquals(probedAt, every(50, 100, 350));
    assertEquals([reason, isRefused], ["port closed (ICMP port unreachable)", true]);
  },
});

Deno.test({
  name: "PeerDoubt probes a peer that answers once a second at most, however often it is doubted",
  permissions: "none",
  fn() {
    const raised = every(10, 0, 5_000).map((at) => [at, "successor"] as const);
    const { lostAt, probedAt } = run({ raised, heardAt: every(20, 10, 5_000) });
    assertEquals(lostAt, undefined);
    assert(probedAt.length <= 10, `${probedAt}`);
  },
});

Deno.test({
  name: "PeerDoubt never gives up a peer that is silent for no longer than a second",
  permissions: "none",
  fn() {
    const cause = fc.constantFrom<DoubtCause>("successor", "unanswered");
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(4_000), cause), { maxLength: 8 }),
        fc.array(fc.integer({ min: 10, max: 1_000 }), { minLength: 20, maxLength: 30 }),
        fc.nat(4_000),
        fc.nat(300),
        (raised, gaps, inFlightAt, rttMs) => {
          let at = 0;
          const heardAt = gaps.map((gap) => at += gap);
          const untilMs = at;
          return run({ raised, heardAt, inFlightAt, rttMs, untilMs }).lostAt === undefined;
        },
      ),
    );
  },
});

Deno.test({
  name:
    "PeerDoubt always gives up a peer that falls silent when a successor comes, or bytes are sent",
  permissions: "none",
  fn() {
    const times = fc.array(fc.nat(500), { maxLength: 5 });
    const sentAt = fc.option(fc.nat(600), { nil: undefined });
    fc.assert(
      fc.property(times, times, fc.nat(300), sentAt, (early, heardAt, rttMs, inFlightAt) => {
        const isSent = inFlightAt !== undefined;
        const raised = [...early, ...isSent ? [] : [600]].map((at) => [at, "successor"] as const);
        const { lostAt } = run({ raised, heardAt, rttMs, inFlightAt });
        const latest = 600 + 500 + 1_000 + Math.max(1_400, 6 * rttMs) + 300;
        return lostAt !== undefined && lostAt <= latest;
      }),
      { numRuns: 500 },
    );
  },
});
