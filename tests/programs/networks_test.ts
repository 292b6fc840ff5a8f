// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** One server with several networks behind it: routes by target, and listeners of one group. */
import { assertEquals, assertMatch } from "@std/assert";
import { Monitor } from "../../lib/observe/monitor.ts";
import { parseAgents } from "../../lib/server/agent_set.ts";
import { parseRoute } from "../../lib/server/routes.ts";
import { parseRule } from "../../lib/net/target_rule.ts";
import { trustNoOtherCa } from "../../lib/quic/mod.ts";
import { eventually } from "../support/eventually.ts";
import {
  ask,
  assertReads,
  linesWith,
  lineWith,
  logLines,
  loopback,
  type Network,
  OK,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  test,
} from "../support/network.ts";
import { TestCa } from "../support/tls.ts";

const ca = await TestCa.create();
const tls = await ca.server();
const identities = Object.fromEntries(
  await Promise.all(
    ["cluster-a", "cluster-b", "bastion", "stranger"].map(async (name) =>
      [name, await ca.client({ commonName: name, dnsNames: [name] })] as const
    ),
  ),
);

const agentOf = (net: Network, server: Server, name: string, config = {}) =>
  net.agent(server, { tls: identities[name]!, ...config });

/** A target that says its name. */
const named = (net: Network, name: string) =>
  net.servingTarget((connection) => sendText(connection, name));

const grouped = (agents: string) => ({ ...loopback(0), agents: parseAgents(agents) });

/** More than the network holds. */
const LAST = "0123456789abcdef".repeat(1 << 16);

// As agents on Deno's QUIC do at their start, before a connection over TCP loads Deno's own CAs.
trustNoOtherCa();

const BOTH = ["qrht/1", "raw"];
const OVER_TCP = ["qrht/1 over TCP", "qrht/1 over TCP, the agent on Deno's QUIC"];

test("runServer() leads each client to the agents of its target", async (net) => {
  using lines = logLines(2);
  const [a, b] = [named(net, "a"), named(net, "b")];
  const server = await net.server({
    tls,
    agentWaitMs: 20_000,
    agentNames: ["cluster-*"],
    routes: [`cluster-a=127.0.0.0/8:${a.port}`, `cluster-b=127.0.0.0/8:1-65535,*.b.internal`]
      .map(parseRoute),
  });
  agentOf(net, server, "cluster-a", { allow: [parseRule(`127.0.0.1:${a.port}`)] });
  agentOf(net, server, "cluster-b", { allow: [parseRule(`127.0.0.1:${b.port}`)] });
  assertEquals(await ask(net, server, requestFor(a.authority)), `${OK}a`);
  assertEquals(await ask(net, server, requestFor(b.authority)), `${OK}b`);
  await lineWith(lines, '"tunnel ended"', "group=cluster-a", "agent=cluster-a");
  await lineWith(lines, '"tunnel ended"', "group=cluster-b", "agent=cluster-b");
  await lineWith(lines, '"agent connected"', "groups=cluster-a");
  agentOf(net, server, "bastion");
  await lineWith(lines, '"agent refused"', "names=bastion", "not admitted");
}, [...BOTH, ...OVER_TCP]);

test("runServer() answers 502 for a target without a route, and asks no agent", async (net) => {
  using lines = logLines(2);
  const monitor = new Monitor("proxy-server");
  const refusals: string[] = [];
  monitor.observe({ refused: (reason) => refusals.push(reason) });
  const server = await net.server({ tls, routes: [parseRoute("cluster-a=10.0.0.0/8")] }, monitor);
  agentOf(net, server, "cluster-a");
  await lineWith(lines, '"agent connected"');
  // A name is no address, whatever it resolves to.
  for (const target of ["localhost:80", "10.0.0.1.example:80", "127.0.0.1:80"]) {
    const answer = await ask(net, server, requestFor(target));
    assertMatch(
      answer,
      new RegExp(
        `^HTTP/1\\.1 502 no route to ${target}\r\nProxy-Status: ` +
          `quic-tunnel-server; error=destination_not_found; details="no route to ${target}"\r\n`,
      ),
    );
  }
  assertMatch(
    await ask(net, server, "GET http://x/ HTTP/1.1\r\n\r\n"),
    /^HTTP\/1\.1 502 no route to x:80\r/,
  );
  assertEquals(await ask(net, server, "\x05\x01\x00"), "\x05\ufffd");
  assertMatch(await ask(net, server, "hello\r\n\r\n"), /^HTTP\/1\.1 400 /);
  assertEquals(refusals, [...Array(4).fill("no-route"), "bad-request", "bad-request"]);
  await lineWith(lines, '"client refused"', "by=server reason=no-route");
  assertEquals(lines.filter((line) => line.includes('"tunnel')), []);
}, BOTH);

test(
  "runServer() has listeners with agents of their own, of which not a byte is read",
  async (net) => {
    const ssh = named(net, "SSH");
    const [a, b] = [named(net, "a"), named(net, "b")];
    const server = await net.server({
      tls,
      listenTcp: [grouped("bastion"), grouped("cluster-a"), grouped("CLUSTER-B"), loopback(0)],
    });
    net.passthrough(server, ssh.port, { tls: identities["bastion"]! });
    // The same addresses in two networks.
    agentOf(net, server, "cluster-a", { allow: [parseRule(`*:${a.port}`)] });
    agentOf(net, server, "cluster-b", { allow: [parseRule(`*:${b.port}`)] });
    const [tcpPort, ...others] = server.tcpPorts as [number, number, number, number];
    const client = await net.client({ tcpPort });
    // The raw dialect shows an agent nothing of a client before its first byte.
    await sendText(client, "hello");
    await assertReads(client, "SSH");
    const askAt = (tcpPort: number, target: string) => ask(net, { tcpPort }, requestFor(target));
    assertEquals(await askAt(others[0], a.authority), `${OK}a`);
    assertEquals(await askAt(others[1], b.authority), `${OK}b`);
    assertMatch(await askAt(others[0], b.authority), /^HTTP\/1\.1 403 /);
    // All others.
    agentOf(net, server, "stranger");
    assertEquals(await askAt(others[2], b.authority), `${OK}b`);
  },
  [...BOTH, ...OVER_TCP],
);

test("runServer() refuses agents that no listener or route leads to", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ tls, listenTcp: [grouped("cluster-a")], agentWaitMs: 0 });
  agentOf(net, server, "stranger");
  const line = await lineWith(lines, '"agent refused"', "names=stranger");
  assertMatch(line, /reason="not admitted: no name in the certificate is of a --route or/);
  await lineWith(lines, "WRN agent", "code 102 (not admitted: no name");
  assertEquals(await ask(net, server, requestFor(named(net, "x").authority)), "");
}, [...BOTH, ...OVER_TCP]);

for (
  const [by, config] of [
    ["listener", { listenTcp: [grouped("cluster-*")] }],
    ["route", { routes: [parseRoute("cluster-*=*"), parseRoute("bastion=10.0.0.0/8")] }],
  ] as const
) {
  test(
    `runServer() tries another agent of the group, and none of others, by ${by}`,
    async (net) => {
      const target = named(net, "here");
      const request = requestFor(target.authority);
      const server = await net.server({ tls, retryOn: ["denied"], agentWaitMs: 20_000, ...config });
      const denying = new Monitor("proxy-agent");
      const serving = new Monitor("proxy-agent");
      agentOf(net, server, "bastion");
      net.agent(server, { tls: identities["cluster-a"]!, deny: [parseRule("*")] }, denying);
      await eventually("it is asked", async () => {
        assertMatch(await ask(net, server, request), /^HTTP\/1\.1 403 /);
        return true;
      });
      net.agent(server, { tls: identities["cluster-b"]! }, serving);
      await eventually("both are there", () => serving.peers.size === 1);
      for (let i = 0; i < 6; i++) assertEquals(await ask(net, server, request), `${OK}here`);
    },
    ["qrht/1"],
  );
}

test("runServer() serves none of a group whose last agent drains, and all others", async (net) => {
  const target = named(net, "here");
  const server = await net.server({
    tls,
    agentWaitMs: 0,
    routes: [`cluster-a=127.0.0.1:${target.port}`, "cluster-b=localhost"].map(parseRoute),
  });
  const a = agentOf(net, server, "cluster-a", { drainTimeoutMs: 10_000 });
  agentOf(net, server, "cluster-b");
  const [request, other] = [target.authority, `localhost:${target.port}`].map(requestFor) as [
    string,
    string,
  ];
  const becomes = (request: string, answer: RegExp) =>
    eventually(`${answer}`, async () => answer.test(await ask(net, server, request)));
  await becomes(request, /here$/);
  await becomes(other, /here$/);
  const tunnel = await net.client(server);
  const silent = net.target();
  await sendText(tunnel, requestFor(`localhost:${silent.port}`));
  await assertReads(tunnel, OK);
  a.abort();
  await becomes(request, /^HTTP\/1\.1 503 no agent of cluster-a is connected\r\n/);
  assertEquals(await ask(net, server, other), `${OK}here`);
}, ["qrht/1"]);

test("runServer() has a group without agents keep nobody of another waiting", async (net) => {
  const target = named(net, "here");
  const server = await net.server({
    tls,
    maxPending: 1,
    agentWaitMs: 20_000,
    routes: ["cluster-a=10.0.0.0/8", `cluster-b=${target.authority}`].map(parseRoute),
  });
  const waiting = await net.client(server);
  await sendText(waiting, requestFor("10.0.0.1:1"));
  await eventually(
    "it waits",
    async () =>
      /503 no agent of cluster-a is connected, and 1 clients are already/.test(
        await ask(net, server, requestFor("10.0.0.1:1")),
      ),
  );
  const served = ask(net, server, requestFor(target.authority));
  agentOf(net, server, "cluster-b");
  assertEquals(await served, `${OK}here`);
  const answer = readUntilOver(waiting);
  server.abort();
  assertMatch(await answer, /^(HTTP\/1\.1 503 no agent of cluster-a is connected\r\n[^]*)?$/);
}, BOTH);

test("runServer() lets an agent that a reload no longer admits finish its tunnels", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ tls, agentWaitMs: 0 });
  agentOf(net, server, "stranger");
  agentOf(net, server, "bastion");
  await lineWith(lines, '"agent connected"', "agents=2");
  const tunnels = [await net.tunnel(server), await net.tunnel(server)];
  await server.change({ agentNames: ["cluster-a"] });
  for (const name of ["stranger", "bastion"]) {
    await lineWith(lines, '"agent is no longer admitted"', `agent=${name} `, "tunnels=1");
  }
  const target = named(net, "here");
  assertEquals(await ask(net, server, requestFor(target.authority)), "");
  agentOf(net, server, "cluster-a");
  await eventually(
    "the other agent serves",
    async () => await ask(net, server, requestFor(target.authority)) === `${OK}here`,
  );
  for (const { client, atTarget } of tunnels) {
    for (const [from, to] of [[client, atTarget], [atTarget, client]] as const) {
      const sent = sendText(from, LAST).then(() => from.closeWrite());
      assertEquals(await readText(to), LAST);
      await sent;
    }
  }
  for (const name of ["stranger", "bastion"]) {
    await lineWith(lines, '"agent disconnected"', `agent=${name} `, "code 102");
  }
  assertEquals(linesWith(lines, '"tunnel ended"', "reason=reset"), []);
});
