// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/errors.ts";
import { parseAuthority } from "../../lib/net/authority.ts";
import { type AgentSet, parseAgents } from "../../lib/server/agent_set.ts";
import { GroupRules } from "../../lib/server/group_rules.ts";
import { AgentGroups, type GroupsOptions } from "../../lib/server/groups.ts";
import type { Agent } from "../../lib/server/registry.ts";
import { NoAgentError } from "../../lib/server/registry.ts";
import { parseRoute } from "../../lib/server/routes.ts";
import { pureTest as test } from "../support/pure_test.ts";

class FakeAgent implements Agent<string> {
  readonly load = 0;
  readonly hasCredit = true;
  readonly isResponsive = true;
  readonly names: readonly string[];

  constructor(...names: string[]) {
    this.names = names;
  }

  get entitled(): readonly string[] {
    return this.names;
  }

  open(): string {
    return this.names.join();
  }

  credit(): Promise<void> {
    return Promise.resolve();
  }
}

interface Given extends Partial<Omit<GroupsOptions, "routes" | "fronts">> {
  readonly routes?: readonly string[];
  /** Agents of fronts, empty for those without. */
  readonly fronts?: readonly string[];
}

function groupsOf({ routes = [], fronts = [""], ...options }: Given) {
  const agentsOf = (text: string): AgentSet | undefined => text ? parseAgents(text) : undefined;
  return new AgentGroups<FakeAgent, string>({
    balance: "round-robin",
    maxPending: 1,
    agentNames: [],
    ...options,
    routes: routes.map(parseRoute),
    fronts: fronts.map(agentsOf),
  });
}

const namesOf = (groups: readonly { name: string | undefined }[]) => groups.map(({ name }) => name);

const at = { agentWaitMs: 0, creditWaitMs: 0 };

test("AgentGroups is one group without a name where there are no others", async () => {
  const groups = groupsOf({});
  assertEquals(groups.named, []);
  const agent = new FakeAgent();
  assertEquals(namesOf(groups.ofAgent(agent)), [undefined]);
  groups.add(agent);
  const { registry } = groups.ofClient(undefined)!;
  assertEquals((await registry.open(at)).agent, agent);
  await assertRejects(
    () => registry.open({ ...at, except: new Set([agent]) }),
    NoAgentError,
    "no other agent is connected",
  );
});

test("AgentGroups keeps the agents of one front from the clients of others", async () => {
  const groups = groupsOf({ fronts: ["", "bastion", "db-*", "DB-*"] });
  assertEquals(namesOf(groups.named), ["bastion", "db-*", "default"]);
  const [bastion, db, other] = [
    new FakeAgent("Bastion"),
    new FakeAgent("x", "db-1"),
    new FakeAgent("x"),
  ];
  for (const agent of [bastion, db, other]) groups.add(agent);
  assertEquals(groups.size, 3);
  const agentOf = async (front?: string) => (await groups.ofClient(front)!.registry.open(at)).agent;
  assertEquals([await agentOf(), await agentOf("bastion"), await agentOf("db-*")], [
    other,
    bastion,
    db,
  ]);
  groups.remove(bastion);
  groups.remove(bastion);
  assertEquals(groups.size, 2);
  await assertRejects(() => agentOf("bastion"), NoAgentError, "no agent of bastion is connected");
});

test("AgentGroups leaves the agents of no other group to fronts without one, whatever * has", () => {
  const groups = groupsOf({ fronts: ["", "*", "a"] });
  assertEquals(namesOf(groups.ofAgent(new FakeAgent("a"))), ["*", "a"]);
  assertEquals(namesOf(groups.ofAgent(new FakeAgent("b"))), ["*", "default"]);
});

test("AgentGroups has no use for agents that no front or route leads to", () => {
  const routed = groupsOf({ routes: ["a=10.0.0.0/8", "b,a=11.0.0.0/8"], fronts: ["", "c"] });
  const of = (name: string) => namesOf(routed.ofAgent(new FakeAgent(name)));
  assertEquals([of("a"), of("b"), of("c"), of("d"), of("a,b")], [
    ["a", "a,b"],
    ["a,b"],
    ["c"],
    [],
    [],
  ]);
  assertEquals(groupsOf({ fronts: ["a"] }).ofAgent(new FakeAgent("b")), []);
  assert(routed.reaches(undefined, new FakeAgent("b")));
  assert(!routed.reaches(undefined, new FakeAgent("c")));
  assert(routed.reaches("c", new FakeAgent("c")));
});

test("AgentGroups finds the group of a target, if it has a route", () => {
  const groups = groupsOf({ routes: ["a=10.0.0.0/8", "b=10.0.0.0/8,10.1.0.0/16"] });
  assertEquals(groups.ofClient(undefined), undefined);
  const groupOf = (target: string) => groups.ofClient(undefined, parseAuthority(target))?.name;
  assertEquals(groupOf("10.2.0.1:1"), "a,b");
  assertEquals(groupOf("10.1.0.1:1"), "b");
  assertEquals(groupOf("a.example:443"), undefined);
});

test("AgentGroups has waiting clients of one group take no place of another's", async () => {
  const groups = groupsOf({ fronts: ["a", "b"] });
  const wait = { agentWaitMs: 60_000, creditWaitMs: 0 };
  const [a, b] = [groups.ofClient("a")!.registry, groups.ofClient("b")!.registry];
  const waiting = a.open(wait);
  await assertRejects(() => a.open(wait), NoAgentError, "and 1 clients are already waiting");
  const other = b.open(wait);
  assertEquals(groups.pending, 2);
  const agent = new FakeAgent("b");
  groups.add(agent);
  assertEquals((await other).agent, agent);
  groups.stopWaiting();
  await assertRejects(() => waiting, NoAgentError, "no agent of a is connected");
  await assertRejects(() => b.open({ ...wait, except: new Set([agent]) }), NoAgentError);
});

test("AgentGroups takes no more steps for a group beside one where a thousand clients wait", async () => {
  let steps = 0;
  const counted = (name: string) =>
    new Proxy(new FakeAgent(name), {
      get(agent, key) {
        steps++;
        return Reflect.get(agent, key);
      },
    });
  const stepsWith = async (waiting: number) => {
    const groups = groupsOf({ fronts: ["a", "b"], maxPending: 1_000 });
    const [a, b] = [groups.ofClient("a")!.registry, groups.ofClient("b")!.registry];
    for (let i = 0; i < 5; i++) groups.add(counted("b"));
    const clients = Array.from(
      { length: waiting },
      () => a.open({ agentWaitMs: 60_000, creditWaitMs: 0 }).catch(() => {}),
    );
    const agent = counted("b");
    steps = 0;
    for (let i = 0; i < 100; i++) await b.open(at);
    groups.add(agent);
    groups.remove(agent);
    const taken = steps;
    assertEquals(groups.pending, waiting);
    groups.stopWaiting();
    await Promise.all(clients);
    return taken;
  };
  const alone = await stepsWith(0);
  assert(alone > 0);
  assertEquals(await stepsWith(1_000), alone);
});

test("AgentGroups has another agent if all groups of one have", () => {
  const groups = groupsOf({ fronts: ["a", "b"] });
  const [both, a] = [new FakeAgent("a", "b"), new FakeAgent("a")];
  groups.add(both);
  groups.add(a);
  assert(groups.hasAnother(a));
  assert(!groups.hasAnother(both));
  groups.add(new FakeAgent("b"));
  assert(groups.hasAnother(both));
  groups.remove(both);
  assert(groups.hasAnother(both));
});

test("AgentGroups tells what there is to show of the groups with a name", () => {
  const groups = groupsOf({ routes: ["a=x,10.0.0.0/8", "a,b=*"], fronts: ["", "a"] });
  const facts = groups.factsWith([{ address: ":1" }, { address: ":2", group: "a" }]);
  const { registry } = groups.ofClient("a")!;
  registry.open({ agentWaitMs: 60_000, creditWaitMs: 0 }).catch(() => {});
  assertEquals(facts(), [
    { name: "a", waiting: 1, listeners: [":2"], routes: ["x", "10.0.0.0/8"] },
    { name: "a,b", waiting: 0, listeners: [], routes: ["*"] },
  ]);
  groups.stopWaiting();
  const plain = groupsOf({});
  assertEquals(plain.factsWith([{ address: ":1" }])(), []);
});

test("AgentGroups refuses routes that no listener has, or with mode raw", () => {
  const routes = ["a=*"];
  assertThrows(() => groupsOf({ routes, fronts: ["a"] }), UsageError, "a listener without a group");
  assertThrows(() => groupsOf({ routes, mode: "raw" }), UsageError, "--mode=raw");
  groupsOf({ routes, mode: "http-connect", fronts: ["", "a"] });
});

const rulesOf = ({ routes = [], fronts = [""], agentNames = [] }: Given) =>
  new GroupRules({
    agentNames,
    routes: routes.map(parseRoute),
    fronts: fronts.map((text) => text ? parseAgents(text) : undefined),
  });

test("AgentGroups.change() moves agents, and keeps the clients that wait for groups that stay", async () => {
  const groups = groupsOf({ fronts: ["a", "b"] });
  const [a, b, both] = [new FakeAgent("a"), new FakeAgent("b"), new FakeAgent("b", "c")];
  const wait = { agentWaitMs: 60_000, creditWaitMs: 0 };
  const ofA = groups.ofClient("a")!.registry;
  const ofB = groups.ofClient("b")!.registry;
  const staying = ofA.open(wait);
  const leaving = assertRejects(() => ofB.open(wait), NoAgentError, "no agent of b");
  groups.change(rulesOf({ fronts: ["a", "c"] }));
  await leaving;
  for (const agent of [both, a]) groups.add(agent);
  assertEquals((await staying).agent, a);
  assertEquals(namesOf(groups.named), ["a", "c"]);
  groups.add(b);
  assertEquals(namesOf(groups.ofAgent(b)), []);
  assertEquals(await groups.ofClient("c")!.registry.open(at), { agent: both, stream: "b,c" });
  // What was in use goes on without the agents that have left it, such as for another attempt.
  await assertRejects(() => ofB.open(at), NoAgentError);
  groups.change(rulesOf({ fronts: ["a"] }));
  assertEquals(groups.size, 1);
});

test("AgentGroups.change() gives no waiting client an agent that is leaving its group", async () => {
  const groups = groupsOf({ fronts: ["a", "b"], maxPending: 2 });
  const [agent, other] = [new FakeAgent("a"), new FakeAgent("a", "b")];
  for (const each of [agent, other]) groups.add(each);
  const { registry } = groups.ofClient("a")!;
  const wait = { agentWaitMs: 60_000, creditWaitMs: 60_000 };
  const waiting = registry.open({ ...wait, except: new Set([agent, other]) });
  groups.change(rulesOf({ fronts: ["a", "b"], agentNames: ["b"] }));
  assertEquals(groups.size, 1);
  assertEquals((await registry.open(at)).agent, other);
  groups.change(rulesOf({ fronts: ["a", "b"], agentNames: ["c"] }));
  await assertRejects(() => registry.open(at), NoAgentError, "no agent of a is connected");
  const third = new FakeAgent("a", "c");
  groups.add(third);
  assertEquals((await waiting).agent, third);
});

test("AgentGroups.change() leads targets by other routes", async () => {
  const groups = groupsOf({ routes: ["a=10.0.0.0/8"] });
  const agent = new FakeAgent("a");
  groups.add(agent);
  const target = parseAuthority("10.0.0.1:1");
  const before = groups.ofClient(undefined, target);
  groups.change(rulesOf({ routes: ["b=*", "a=10.0.0.1"] }));
  assertEquals(groups.ofClient(undefined, target), before);
  assertEquals((await before!.registry.open(at)).agent, agent);
  assertEquals(groups.ofClient(undefined, parseAuthority("10.0.0.2:1"))!.name, "b");
  groups.change(rulesOf({}));
  assertEquals(groups.ofClient(undefined, target)!.name, undefined);
  assertEquals((await groups.ofClient(undefined)!.registry.open(at)).agent, agent);
});
