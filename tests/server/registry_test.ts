// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertGreaterOrEqual, assertLessOrEqual, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import {
  type Agent,
  AgentRegistry,
  NoAgentError,
  type RegistryOptions,
} from "../../lib/server/registry.ts";

/** Longer than any test takes: what waits for this long waits for something else. */
const LONG_MS = 60_000;

/** Opens streams that are called like itself. */
class FakeAgent implements Agent<string> {
  isResponsive = true;
  load = 0;
  #freed = Promise.withResolvers<void>();

  constructor(readonly name: string, public room = Infinity) {}

  get hasCredit(): boolean {
    return this.room > 0;
  }

  open(): string {
    if (!this.hasCredit) throw new Error("no credit");
    this.room--;
    this.load++;
    return this.name;
  }

  credit(): Promise<void> {
    return this.#freed.promise;
  }

  /** Has room for some more streams. */
  free(room: number): void {
    this.room += room;
    this.#freed.resolve();
    this.#freed = Promise.withResolvers();
  }
}

type FakeRegistry = AgentRegistry<FakeAgent, string>;

/** In turn, where nothing else is told. */
const newRegistry = (options?: Partial<RegistryOptions>) =>
  new AgentRegistry<FakeAgent, string>({ balance: "round-robin", maxPending: 1_000, ...options });

function registryOf(...names: string[]): [FakeRegistry, FakeAgent[]] {
  const registry = newRegistry();
  const agents = names.map((name) => new FakeAgent(name));
  for (const agent of agents) registry.add(agent);
  return [registry, agents];
}

/** Opens a stream, waiting for an agent or for credit up to a time. */
async function open(
  registry: FakeRegistry,
  waitMs: number,
  except?: ReadonlySet<FakeAgent>,
): Promise<string> {
  const { agent, stream } = await registry.open({
    agentWaitMs: waitMs,
    creditWaitMs: waitMs,
    ...(except && { except }),
  });
  assertEquals(stream, agent.name);
  return stream;
}

async function names(registry: FakeRegistry, count: number): Promise<string> {
  let names = "";
  for (let i = 0; i < count; i++) names += await open(registry, 0);
  return names;
}

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("AgentRegistry.open() hands out agents in turn", async () => {
  const [registry] = registryOf("a", "b", "c");
  assertEquals(registry.size, 3);
  assertEquals(await names(registry, 7), "abcabca");
});

test("AgentRegistry.open() keeps the turn of the others when an agent is removed", async () => {
  for (
    const [picked, removed, after] of [
      [1, 0, "bcdb"],
      [1, 3, "bcab"],
      [2, 2, "dabd"],
      [4, 3, "abca"],
    ] as const
  ) {
    const [registry, agents] = registryOf("a", "b", "c", "d");
    await names(registry, picked);
    registry.remove(agents[removed]!);
    assertEquals(await names(registry, 4), after, `${picked} picked, ${removed} removed`);
  }
});

test("AgentRegistry.open() is fair to agents that stay while others come and go", async () => {
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
        const name = await open(registry, 0);
        sinceLast = name === "stays" ? 0 : sinceLast + 1;
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

test("AgentRegistry.open() passes over agents without credit", async () => {
  const [registry, [a, b, c]] = registryOf("a", "b", "c");
  b!.room = 0;
  assertEquals(await names(registry, 4), "acac");
  a!.room = 0;
  assertEquals(await names(registry, 2), "cc");
  b!.room = Infinity;
  assertEquals(await names(registry, 4), "bcbc");
  c!.room = 0;
  a!.room = Infinity;
  assertEquals(await names(registry, 4), "abab");
});

test("AgentRegistry.open() passes over agents that are silent, unless nobody else has credit", async () => {
  const [registry, [a, b]] = registryOf("a", "b");
  a!.isResponsive = false;
  assertEquals(await names(registry, 3), "bbb");
  b!.room = 0;
  assertEquals(await names(registry, 2), "aa");
  b!.room = Infinity;
  b!.isResponsive = false;
  assertEquals(await names(registry, 4), "baba");
});

test("AgentRegistry.hasAnother() tells whether another agent could take a tunnel", () => {
  const [registry, [a, b]] = registryOf("a", "b");
  assertEquals([registry.hasAnother(a!), registry.hasAnother(b!)], [true, true]);
  b!.room = 0;
  assertEquals([registry.hasAnother(a!), registry.hasAnother(b!)], [false, true]);
  b!.room = 1;
  b!.isResponsive = false;
  assertEquals(registry.hasAnother(a!), false);
  registry.remove(a!);
  assertEquals([registry.hasAnother(a!), registry.hasAnother(b!)], [false, false]);
});

test("AgentRegistry.open() takes the agent with the fewest streams when it is to", async () => {
  const registry = newRegistry({ balance: "least-streams" });
  const a = new FakeAgent("a"), b = new FakeAgent("b"), c = new FakeAgent("c", 3);
  for (const agent of [a, b, c]) registry.add(agent);
  a.load = 2;
  assertEquals(await names(registry, 6), "bcbcab");
});

test("AgentRegistry.open() waits for credit, and is served in turn by whoever has some first", async () => {
  const registry = newRegistry();
  const a = new FakeAgent("a", 0), b = new FakeAgent("b", 0);
  registry.add(a);
  const opened: string[] = [];
  const waiting = ["1", "2", "3", "4"].map(async (caller) => {
    opened.push(caller + await open(registry, LONG_MS));
  });
  assertEquals(registry.pending, 4);
  registry.add(b);
  b.free(1);
  await waiting[0];
  a.free(2);
  await Promise.all(waiting.slice(1, 3));
  assertEquals(opened, ["1b", "2a", "3a"]);
  assertEquals(registry.pending, 1);
  registry.add(new FakeAgent("c"));
  await deadline(Promise.all(waiting), LONG_MS);
  assertEquals(opened, ["1b", "2a", "3a", "4c"]);
});

test("AgentRegistry.open() waits for credit of an agent that it may use", async () => {
  const registry = newRegistry();
  const a = new FakeAgent("a", 0), b = new FakeAgent("b", 0);
  registry.add(a);
  registry.add(b);
  const choosy = open(registry, LONG_MS, new Set([a]));
  const other = open(registry, LONG_MS);
  a.free(1);
  assertEquals(await other, "a");
  assertEquals(registry.pending, 1);
  b.free(1);
  assertEquals(await choosy, "b");
});

for (
  const [what, agents, except, reason] of [
    ["credit", ["a"], [], "no agent has a free stream"],
    ["an agent", [], [], "no agent is connected"],
    ["another agent", ["b"], ["b"], "no other agent is connected"],
  ] as const
) {
  test(`AgentRegistry.open() refuses who may not wait for ${what}, and who has waited for it`, async () => {
    const registry = newRegistry();
    const all = [...agents].map((name) => new FakeAgent(name, 0));
    for (const agent of all) registry.add(agent);
    const excepted = new Set(all.filter(({ name }) => [...except].some((other) => other === name)));
    const patient = open(registry, LONG_MS, excepted);
    const error = await assertRejects(() => open(registry, 0, excepted), NoAgentError);
    assertEquals([error.name, error.message], ["NoAgentError", reason]);
    const since = performance.now();
    await assertRejects(() => open(registry, 20, excepted), NoAgentError, `${reason} within 20 ms`);
    // A timer counts whole milliseconds.
    assertGreaterOrEqual(performance.now() - since, 19);
    // Those who gave up are forgotten, the other is not.
    assertEquals(registry.pending, 1);
    registry.add(new FakeAgent("c"));
    assertEquals(await patient, "c");
  });
}

test("AgentRegistry.remove() takes an agent away from those who wait for its credit", async () => {
  const registry = newRegistry();
  const a = new FakeAgent("a", 0);
  registry.add(a);
  const waiting = open(registry, LONG_MS);
  registry.remove(a);
  a.free(1);
  registry.add(new FakeAgent("b"));
  assertEquals(await waiting, "b");
});

test("AgentRegistry.remove() does nothing for an agent that is not there", async () => {
  const [registry, agents] = registryOf("a", "b");
  await open(registry, 0);
  registry.remove(agents[0]!);
  registry.remove(agents[0]!);
  registry.remove(new FakeAgent("stranger"));
  assertEquals(registry.size, 1);
  assertEquals(await names(registry, 2), "bb");
});

test("AgentRegistry.open() waits for an agent, and is served in turn when some arrive", async () => {
  const registry = newRegistry();
  const opening = Promise.all([1, 2, 3].map(() => open(registry, LONG_MS)));
  assertEquals(registry.pending, 3);
  registry.add(new FakeAgent("a"));
  assertEquals(registry.pending, 0);
  registry.add(new FakeAgent("b"));
  assertEquals(await deadline(opening, LONG_MS), ["a", "a", "a"]);
  const next = await names(registry, 4);
  assertEquals(next, next.startsWith("a") ? "abab" : "baba");
});

test("AgentRegistry.open() refuses when maxPending callers wait already, for whatever", async () => {
  const registry = newRegistry({ maxPending: 2 });
  const agent = new FakeAgent("a", 0);
  const opening = [open(registry, LONG_MS)];
  registry.add(agent);
  opening.push(open(registry, LONG_MS));
  await assertRejects(
    () => open(registry, LONG_MS),
    NoAgentError,
    "no agent has a free stream, and 2 clients are already waiting",
  );
  assertEquals(registry.pending, 2);
  agent.free(3);
  assertEquals(await Promise.all(opening), ["a", "a"]);
  // Their places are free again, and not needed.
  assertEquals(await open(registry, 0), "a");
});

test("AgentRegistry.stopWaiting() refuses everybody who waits, and who would", async () => {
  const registry = newRegistry();
  const opening = [open(registry, LONG_MS), open(registry, LONG_MS)];
  registry.stopWaiting();
  assertEquals(registry.pending, 0);
  for (const opened of opening) {
    await assertRejects(() => opened, NoAgentError, "no agent is connected");
  }
  await assertRejects(() => open(registry, LONG_MS), NoAgentError, "no agent is connected");
  // Nobody is left over to be served.
  const agent = new FakeAgent("a", 1);
  registry.add(agent);
  assertEquals(agent.room, 1);
});

test("AgentRegistry.seal() refuses who waits for an agent, and not who waits for credit", async () => {
  const registry = newRegistry();
  const a = new FakeAgent("a", 0);
  const hopeless = open(registry, LONG_MS, new Set([a]));
  registry.add(a);
  const waiting = [open(registry, LONG_MS), open(registry, LONG_MS)];
  registry.seal();
  await assertRejects(() => hopeless, NoAgentError, "no other agent is connected");
  a.free(1);
  assertEquals(await waiting[0], "a");
  registry.remove(a);
  await assertRejects(() => waiting[1]!, NoAgentError, "no agent is connected");
  await assertRejects(() => open(registry, LONG_MS), NoAgentError, "no agent is connected");
});
