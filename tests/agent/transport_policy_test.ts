// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { TransportPolicy } from "../../lib/agent/transport_policy.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** Intervals between attempts at UDP that all fail, from now on. */
function intervals(policy: TransportPolicy, from: number, count: number): number[] {
  let last = from;
  return Array.from({ length: count }, () => {
    const at = policy.nextTrialAt!;
    const ms = at - last;
    policy.trialFailed(last = at);
    return ms / SECOND;
  });
}

test("TransportPolicy gives UDP the head start of a path that may be slow", () => {
  const policy = new TransportPolicy();
  assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 1_500]);
  assertEquals(policy.connected("udp", 10), false);
  policy.ended(false, 20);
  assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 1_500]);
  assertEquals(policy.nextTrialAt, undefined);
});

test("TransportPolicy has TCP start soon after UDP has fallen silent", () => {
  const policy = new TransportPolicy();
  policy.connected("udp", 0);
  policy.ended(true, 20 * MINUTE);
  assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 250]);
  assertEquals(policy.connected("tcp", 20 * MINUTE), true);
  // It goes on to be so while TCP is in use, whose own silence says nothing about UDP.
  policy.ended(true, 21 * MINUTE);
  assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 250]);
});

test("TransportPolicy has UDP tried after 15 s on TCP, then ever more seldom", () => {
  const policy = new TransportPolicy();
  assertEquals(policy.connected("tcp", 0), true);
  assertEquals(intervals(policy, 0, 7), [15, 30, 60, 120, 240, 300, 300]);
});

test("TransportPolicy does not put an attempt off because TCP had to connect again", () => {
  const policy = new TransportPolicy();
  policy.connected("tcp", 0);
  policy.ended(true, 10 * SECOND);
  assertEquals(policy.connected("tcp", 11 * SECOND), false);
  assertEquals(policy.nextTrialAt, 15 * SECOND);
});

test("TransportPolicy prefers TCP, for twice as long each time, where UDP does not last", () => {
  const policy = new TransportPolicy();
  let now = 0;
  policy.connected("tcp", now);
  const first: number[] = [];
  for (let i = 0; i < 10; i++) {
    first.push((policy.nextTrialAt! - now) / SECOND);
    now = policy.nextTrialAt!;
    assertEquals(policy.connected("udp", now), true);
    assertEquals(policy.nextTrialAt, undefined);
    now += 9 * MINUTE;
    policy.ended(true, now);
    assertEquals([policy.order, policy.headStartMs], [["tcp", "udp"], 1_500]);
    policy.connected("tcp", now);
  }
  assertEquals(first, [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
  assertEquals(intervals(policy, now, 3), [3600, 3600, 3600]);
});

test("TransportPolicy forgets failures once UDP has lasted for 10 minutes", () => {
  const policy = new TransportPolicy();
  for (const at of [0, 1, 2]) {
    policy.connected("udp", at * MINUTE);
    policy.ended(true, (at + 0.5) * MINUTE);
  }
  assertEquals(policy.order, ["tcp", "udp"]);
  policy.connected("udp", 3 * MINUTE);
  policy.ended(false, 13 * MINUTE);
  assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 1_500]);
  policy.connected("udp", 14 * MINUTE);
  policy.ended(true, 24 * MINUTE);
  assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 250]);
});

test("TransportPolicy does not hold it against UDP when TCP did not lead to the server either", () => {
  const policy = new TransportPolicy();
  for (const at of [0, 1, 2]) {
    policy.connected("udp", at * MINUTE);
    policy.ended(true, (at + 0.5) * MINUTE);
    for (let i = 0; i < 3; i++) policy.unreachable();
    assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 1_500]);
  }
  // On TCP, UDP stays what it was.
  policy.connected("tcp", 3 * MINUTE);
  policy.ended(true, 4 * MINUTE);
  policy.unreachable();
  assertEquals([policy.order, policy.headStartMs], [["udp", "tcp"], 250]);
});

test("TransportPolicy always has UDP tried again on TCP, within 1 s to 1 h", () => {
  const event = fc.oneof(
    fc.record({ kind: fc.constant("connected"), transport: fc.constantFrom("udp", "tcp") }),
    fc.record({ kind: fc.constant("ended"), isSilent: fc.boolean() }),
    fc.record({ kind: fc.constant("trial") }),
    fc.record({ kind: fc.constant("unreachable") }),
  );
  fc.assert(fc.property(fc.array(fc.tuple(event, fc.nat(MINUTE))), (events) => {
    const policy = new TransportPolicy();
    let now = 0;
    for (const [{ kind, ...event }, ms] of events) {
      now += ms;
      if (kind === "connected") {
        policy.connected((event as { transport: "udp" | "tcp" }).transport, now);
      } else if (kind === "ended") policy.ended((event as { isSilent: boolean }).isSilent, now);
      else if (kind === "unreachable") policy.unreachable();
      else if (policy.current === "tcp") {
        policy.trialFailed(now);
        const ms = policy.nextTrialAt! - now;
        assertEquals(ms >= SECOND && ms <= 60 * MINUTE, true);
      }
      assertEquals(policy.nextTrialAt === undefined, policy.current === "udp");
    }
  }));
});
