// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects } from "@std/assert";
import { UsageError } from "../../lib/errors.ts";
import { logger } from "../../lib/log.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { parseAgents } from "../../lib/server/agent_set.ts";
import type { ServerConfig } from "../../lib/server/config.ts";
import type { ConnectedAgent } from "../../lib/server/connected_agent.ts";
import { AgentGroups } from "../../lib/server/groups.ts";
import { changeTo } from "../../lib/server/reload.ts";
import { parseRoute } from "../../lib/server/routes.ts";
import type { RunningServer } from "../../lib/server/running_server.ts";
import { parseAuthority } from "../../lib/net/authority.ts";
import { block } from "../support/scripted_peer.ts";

/** An agent whose names take a while to look at. */
function slowAgent(name: string, ms = 0) {
  return {
    isDraining: false,
    groups: [] as readonly string[],
    entitled: [name],
    get names() {
      block(ms);
      return [name];
    },
    load: 0,
    hasCredit: true,
    isResponsive: true,
    fields: {},
    connection: {
      streamCount: 0,
      closed: new Promise(() => {}),
      settled: () => Promise.resolve(),
      close: () => {},
    },
  } as unknown as ConnectedAgent;
}

/** A server with as many agents, who take so long, of the group `a`. */
function setUp(agents = 20, ms = 1) {
  const config = {
    agentNames: [],
    routes: [parseRoute("a=10.0.0.0/8"), parseRoute("b=11.0.0.0/8")],
    listenTcp: [],
    balance: "round-robin",
    maxPending: 1,
  } as unknown as ServerConfig;
  const groups = new AgentGroups({ ...config, fronts: [undefined] });
  const stop = new AbortController();
  const server = {
    config,
    groups,
    fronts: [{ kind: "tcp", address: ":1", mode: "http-connect" }],
    agents: new Set(),
    monitor: new Monitor("proxy-server"),
    stopping: stop.signal,
    log: logger("server"),
  } as unknown as RunningServer;
  const connect = (agent: ConnectedAgent) => {
    agent.groups = groups.ofAgent(agent).flatMap(({ name }) => name ?? []);
    server.agents.add(agent);
    groups.add(agent);
    return agent;
  };
  for (let i = 0; i < agents; i++) connect(slowAgent("a", ms));
  const change = (routes: readonly string[], agentNames: readonly string[] = ["*.x", "a", "b"]) =>
    changeTo({ ...config, agentNames, routes: routes.map(parseRoute) }, server);
  const sizeOf = (target: string) =>
    groups.ofClient(undefined, parseAuthority(target))?.registry.size;
  return { server, groups, stop, connect, change, sizeOf };
}

Deno.test("changeTo() lets the event loop turn between the agents it looks at", async () => {
  const { change, sizeOf } = setUp(50, 1);
  let turns = 0;
  const counting = setInterval(() => turns++);
  await change(["a=12.0.0.0/8"]);
  clearInterval(counting);
  assert(turns >= 15, `${turns} turns while 50 agents take 1 ms each`);
  assertEquals([sizeOf("12.0.0.1:1"), sizeOf("10.0.0.1:1")], [50, undefined]);
});

Deno.test("changeTo() leads clients by the old routes until one moment, then by the new ones", async () => {
  const { change, sizeOf } = setUp();
  const changing = change(["a=11.0.0.0/8"]);
  const seen = new Set<string>();
  const watch = setInterval(() => seen.add(`${sizeOf("10.0.0.1:1")} ${sizeOf("11.0.0.1:1")}`));
  await changing;
  clearInterval(watch);
  assert(seen.has("20 0"), [...seen].join());
  assertEquals(sizeOf("11.0.0.1:1"), 20);
  seen.delete("20 0");
  seen.delete("undefined 20");
  assertEquals([...seen], []);
});

Deno.test("changeTo() takes agents along that connect and leave in the middle of it", async () => {
  const { server, groups, change, connect, sizeOf } = setUp();
  const changing = change(["a,b=10.0.0.0/8", "a=11.0.0.0/8"], ["a", "b"]);
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(sizeOf("11.0.0.1:1"), 0); // still the old rules
  const [a, b, stranger] = [slowAgent("a"), slowAgent("b"), slowAgent("c")];
  for (const agent of [a, b, stranger]) connect(agent);
  const [first] = server.agents;
  server.agents.delete(first!);
  groups.remove(first!);
  assertEquals(sizeOf("11.0.0.1:1"), 1); // of b, by the old rules
  await changing;
  assertEquals([sizeOf("10.0.0.1:1"), sizeOf("11.0.0.1:1"), groups.size], [21, 20, 21]);
  assertEquals([a.groups, b.groups, stranger.groups], [["a", "a,b"], ["a,b"], []]);
  assertEquals([a.isDraining, b.isDraining, stranger.isDraining], [false, false, true]);
});

Deno.test("changeTo() changes nothing when the server is stopped in the middle of it", async () => {
  const { server, change, stop, sizeOf } = setUp();
  const before = server.config;
  const changing = change(["a=11.0.0.0/8"]);
  await new Promise((resolve) => setTimeout(resolve));
  stop.abort();
  await changing;
  assertEquals([sizeOf("10.0.0.1:1"), sizeOf("11.0.0.1:1")], [20, 0]);
  assertEquals(server.config, before);
});

Deno.test("changeTo() changes nothing by a configuration that contradicts itself", async () => {
  const { server, sizeOf } = setUp(1);
  const before = server.config;
  const listenTcp = [{ hostname: "", port: 1, agents: parseAgents("x") }];
  await assertRejects(
    () => changeTo({ ...before, listenTcp }, server),
    UsageError,
    "--route needs a listener without a group",
  );
  assertEquals([sizeOf("10.0.0.1:1"), server.config], [1, before]);
});
