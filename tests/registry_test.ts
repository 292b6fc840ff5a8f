// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLessOrEqual,
  assertRejects,
} from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { type Agent, AgentRegistry, NoAgentError } from "../lib/registry.ts";

/** Longer than any test takes: what waits for this long waits for something else. */
const LONG_MS = 60_000;

class FakeAgent implements Agent {
  constructor(readonly name: string, public hasCredit = true) {}
}

function registryOf(...names: string[]): [AgentRegistry<FakeAgent>, FakeAgent[]] {
  const registry = new AgentRegistry<FakeAgent>();
  const agents = names.map((name) => new FakeAgent(name));
  for (const agent of agents) registry.add(agent);
  return [registry, agents];
}

async function pickNames(registry: AgentRegistry<FakeAgent>, count: number): Promise<string> {
  let names = "";
  for (let i = 0; i < count; i++) names += (await registry.pick(0)).name;
  return names;
}

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("AgentRegistry.pick() hands out agents in turn", async () => {
  const [registry] = registryOf("a", "b", "c");
  assertEquals(registry.size, 3);
  assertEquals(await pickNames(registry, 7), "abcabca");
});

test("AgentRegistry.pick() keeps the turn of the others when an agent is removed", async () => {
  for (
    const [picked, removed, after] of [
      [1, 0, "bcdb"],
      [1, 1, "cdac"],
      [1, 3, "bcab"],
      [2, 0, "cdbc"],
      [2, 2, "dabd"],
      [3, 3, "abca"],
      [4, 0, "bcdb"],
      [4, 3, "abca"],
    ] as const
  ) {
    const [registry, agents] = registryOf("a", "b", "c", "d");
    await pickNames(registry, picked);
    registry.remove(agents[removed]!);
    assertEquals(await pickNames(registry, 4), after, `${picked} picked, ${removed} removed`);
  }
});

test("AgentRegistry.pick() is fair to agents that stay while others come and go", async () => {
  const steps = fc.array(fc.oneof(
    fc.constant("pick" as const),
    fc.record({ remove: fc.nat() }),
    fc.record({ add: fc.constant(true) }),
  ));
  await fc.assert(fc.asyncProperty(steps, async (steps) => {
    const [registry] = registryOf("stays", "stays too");
    const passing: FakeAgent[] = [];
    let most = 2, sinceLast = 0;
    for (const step of steps) {
      if (step === "pick") {
        const agent = await registry.pick(0);
        sinceLast = agent.name === "stays" ? 0 : sinceLast + 1;
        // Every agent that was there meanwhile may have had a turn, and one that came anew once more.
        assertLessOrEqual(sinceLast, most);
        if (sinceLast === 0) most = registry.size;
      } else if ("add" in step) {
        const agent = new FakeAgent("passing");
        passing.push(agent);
        registry.add(agent);
        most++;
      } else if (passing.length > 0) {
        registry.remove(passing.splice(step.remove % passing.length, 1)[0]!);
      }
    }
  }));
});

test("AgentRegistry.pick() passes over agents without credit", async () => {
  const [registry, [a, b, c]] = registryOf("a", "b", "c");
  b!.hasCredit = false;
  assertEquals(await pickNames(registry, 4), "acac");
  a!.hasCredit = false;
  assertEquals(await pickNames(registry, 2), "cc");
  b!.hasCredit = true;
  assertEquals(await pickNames(registry, 4), "bcbc");
  c!.hasCredit = false;
  a!.hasCredit = true;
  assertEquals(await pickNames(registry, 4), "abab");
});

test("AgentRegistry.pick() spreads callers over agents none of which has credit", async () => {
  const [registry, agents] = registryOf("a", "b", "c");
  for (const agent of agents) agent.hasCredit = false;
  assertEquals(await pickNames(registry, 6), "abcabc");
});

test("AgentRegistry.remove() does nothing for an agent that is not there", async () => {
  const [registry, agents] = registryOf("a", "b");
  await registry.pick(0);
  registry.remove(agents[0]!);
  registry.remove(agents[0]!);
  registry.remove(new FakeAgent("stranger"));
  assertEquals(registry.size, 1);
  assertEquals(await pickNames(registry, 2), "bb");
});

test("AgentRegistry.pick() refuses at once when there is no agent and waitMs is 0", async () => {
  const registry = new AgentRegistry<FakeAgent>();
  const error = await assertRejects(() => registry.pick(0), NoAgentError, "no agent is connected");
  assertEquals(error.name, "NoAgentError");
  assertInstanceOf(error, Error);
  assertEquals(registry.waiting, 0);
});

test("AgentRegistry.pick() waits for an agent, and is served in turn when some arrive", async () => {
  const registry = new AgentRegistry<FakeAgent>();
  const picks = Promise.all([1, 2, 3].map(() => registry.pick(LONG_MS)));
  assertEquals(registry.waiting, 3);
  const a = new FakeAgent("a"), b = new FakeAgent("b");
  registry.add(a);
  assertEquals(registry.waiting, 0);
  registry.add(b);
  assertEquals(await deadline(picks, LONG_MS), [a, a, a]);
  const next = await pickNames(registry, 4);
  assertEquals(next, next.startsWith("a") ? "abab" : "baba");
});

test("AgentRegistry.pick() serves who waits also with an agent that has no credit", async () => {
  const registry = new AgentRegistry<FakeAgent>();
  const pick = registry.pick(LONG_MS);
  const agent = new FakeAgent("a", false);
  registry.add(agent);
  assertEquals(await pick, agent);
});

test("AgentRegistry.pick() waits anew when all agents have gone", async () => {
  const [registry, agents] = registryOf("a");
  await registry.pick(0);
  registry.remove(agents[0]!);
  assertEquals(registry.size, 0);
  await assertRejects(() => registry.pick(0), NoAgentError);
  const pick = registry.pick(LONG_MS);
  const b = new FakeAgent("b");
  registry.add(b);
  assertEquals(await pick, b);
});

test("AgentRegistry.pick() gives up after waitMs", async () => {
  const registry = new AgentRegistry<FakeAgent>();
  const since = performance.now();
  const patient = registry.pick(LONG_MS);
  await assertRejects(() => registry.pick(30), NoAgentError, "no agent connected within 30 ms");
  // A timer counts whole milliseconds.
  assertGreaterOrEqual(performance.now() - since, 29);
  // The one who gave up is forgotten, the other is not.
  assertEquals(registry.waiting, 1);
  const agent = new FakeAgent("a");
  registry.add(agent);
  assertEquals(await patient, agent);
});

test("AgentRegistry.pick() refuses when maxWaiters wait already", async () => {
  const registry = new AgentRegistry<FakeAgent>({ maxWaiters: 2 });
  const picks = [registry.pick(LONG_MS), registry.pick(LONG_MS)];
  await assertRejects(
    () => registry.pick(LONG_MS),
    NoAgentError,
    "no agent is connected, and 2 connections wait for one",
  );
  assertEquals(registry.waiting, 2);
  const agent = new FakeAgent("a");
  registry.add(agent);
  assertEquals(await Promise.all(picks), [agent, agent]);
  // Their places are free again.
  registry.remove(agent);
  const again = registry.pick(LONG_MS);
  registry.add(agent);
  assertEquals(await again, agent);
});

test("AgentRegistry.stopWaiting() refuses everybody who waits", async () => {
  const registry = new AgentRegistry<FakeAgent>();
  const picks = [registry.pick(LONG_MS), registry.pick(LONG_MS)];
  registry.stopWaiting();
  assertEquals(registry.waiting, 0);
  for (const pick of picks) {
    await assertRejects(() => pick, NoAgentError, "no agent is connected");
  }
  // Nobody is left over to be served.
  registry.add(new FakeAgent("a"));
  assertEquals(registry.waiting, 0);
});
