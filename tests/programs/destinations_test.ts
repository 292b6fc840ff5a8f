// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Where proxy-agent connects its clients to, and where it does not: `--allow`, `--deny` and names. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { ConnectAgentConfig } from "../../agent.ts";
import { parseRule } from "../../lib/net/target_rule.ts";
import { Resolver } from "../../lib/net/resolver.ts";
import { encodeFrame, FrameType } from "../../lib/qrht/frame.ts";
import { encodeOpen } from "../../lib/qrht/messages.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import {
  ask,
  assertGivenUp,
  logLines,
  type Network,
  NOBODY,
  OK,
  readText,
  requestFor,
  sendText,
  type Server,
  silentTarget,
  test,
} from "../support/network.ts";
import { startProgram } from "../support/processes.ts";
import { frames, readAgentFrames, scriptedTest } from "../support/scripted_peer.ts";

const rules = (...texts: string[]) => texts.map(parseRule);

/** A resolver that knows some names, and notes which it was asked for. */
function knowing(names: Record<string, string[]>) {
  const asked: string[] = [];
  const resolver = new Resolver({
    lookup: (name) => {
      asked.push(name);
      const addresses = names[name];
      if (addresses) return Promise.resolve(addresses);
      return Promise.reject(Object.assign(new Error(`no ${name}`), { code: "ENOTFOUND" }));
    },
  });
  return { asked, resolver };
}

/** What a client of an agent with this configuration reads. */
async function answerOf(
  net: Network,
  config: Partial<ConnectAgentConfig>,
  authority: string,
): Promise<string> {
  const server = await net.server();
  const agent = net.agent(server, config);
  const answer = await ask(net, server, requestFor(authority));
  await agent.stop();
  await server.stop();
  return answer;
}

function denial(cause: string, error: string): string {
  return [
    `HTTP/1.1 403 ${cause}`,
    `Proxy-Status: quic-tunnel-agent; error=${error}; details="${cause}"`,
    "Content-Length: 0",
    "Connection: close",
    "",
    "",
  ].join("\r\n");
}

test("runAgent() answers 403 with the rule that denies the target", async (net) => {
  const server = await net.server();
  const { asked, resolver } = knowing({
    "metadata.example": ["169.254.169.254"],
    "db.example": ["10.9.9.9", "fd00::9"],
    "db.internal": ["192.0.2.1", "fd00::1"],
  });
  net.agent(server, {
    resolver,
    allow: rules("10.0.0.0/8", "*.example", "[fd00::/8]:443", "127.0.0.1:9"),
    deny: rules("10.0.0.0/8:22", "fd00::9", "10.9.9.9", "[::1]:22", "*.secret.example", "*:25"),
  });
  const [address, request] = ["destination_ip_prohibited", "http_request_denied"];
  const linkLocal = "denied by default rule link-local";
  const cases: [target: string, cause: string, error: string][] = [
    ["10.1.2.3:22", "denied by --deny 10.0.0.0/8:22", address],
    ["[::1]:22", "denied by --deny [::1]:22", address],
    ["db.example:5432", "denied by --deny 10.9.9.9", address],
    ["A.Secret.Example.:80", "denied by --deny *.secret.example", request],
    ["mail.example:25", "denied by --deny *:25", request],
    [NOBODY, "denied: no --allow rule matches", request],
    ["db.internal:5432", "denied: no --allow rule matches", request],
    ["169.254.169.254:80", `${linkLocal} 169.254.0.0/16`, address],
    ["[::ffff:a9fe:a9fe]:80", `${linkLocal} 169.254.0.0/16`, address],
    ["[fe80::1]:80", `${linkLocal} fe80::/10`, address],
    ["[fd00:ec2::254]:80", "denied by default rule cloud metadata fd00:ec2::/32", address],
    ["metadata.example:80", `${linkLocal} 169.254.0.0/16`, address],
  ];
  for (const [target, cause, error] of cases) {
    const answer = await ask(net, server, requestFor(target));
    assertEquals(answer, denial(`${target}: ${cause}`, error));
  }
  assertEquals(asked, ["db.example", "db.internal", "metadata.example"]);
});

test("runAgent() connects to what is allowed, by address and by name, IPv6 too", async (net) => {
  const server = await net.server();
  const target = net.greeter();
  using six = Deno.listen({ hostname: "::1", port: 0 });
  const sixPort = (six.addr as Deno.NetAddr).port;
  const serving = six.accept().then(async (connection) => {
    await connection.write(new TextEncoder().encode("six"));
    connection.close();
  });
  const { resolver } = knowing({ "a.example": ["127.0.0.1"] });
  net.agent(server, {
    resolver,
    allow: rules(`127.0.0.0/8:${target.port}`, `[::1]:${sixPort}`),
    deny: rules("*:22"),
  });
  assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  assertEquals(await ask(net, server, requestFor(`a.example:${target.port}`)), `${OK}here`);
  assertEquals(await ask(net, server, requestFor(`[::ffff:7f00:1]:${target.port}`)), `${OK}here`);
  assertEquals(await ask(net, server, requestFor(`[0:0::1]:${sixPort}`)), `${OK}six`);
  await serving;
});

test("runAgent() goes through the addresses of a name, past those that are denied or refuse", async (net) => {
  const target = net.greeter();
  const { asked, resolver } = knowing({
    "a.example": ["169.254.169.254", "::1", "127.0.0.9", "127.0.0.1"],
  });
  const deny = rules("127.0.0.9");
  const answer = await answerOf(net, { resolver, deny }, `a.example:${target.port}`);
  assertEquals(answer, `${OK}here`);
  assertEquals(asked, ["a.example"]);
});

test("runAgent() dials the address that it has judged, whatever the name means a moment later", async (net) => {
  const target = net.greeter();
  const answers = [["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]];
  const resolver = new Resolver({ lookup: () => Promise.resolve(answers.shift()!) });
  const server = await net.serverWithAgent({ resolver });
  const request = requestFor(`a.example:${target.port}`);
  assertEquals(await ask(net, server, request), `${OK}here`);
  assertEquals(answers.length, 2);
  assertMatch(await ask(net, server, request), /^HTTP\/1\.1 403 a\.example:.* link-local /);
  assertEquals(await ask(net, server, request), `${OK}here`);
});

test("runAgent() answers 504 for a name that does not resolve in time", async (net) => {
  const resolver = new Resolver({ lookup: () => new Promise(() => {}) });
  const answer = await answerOf(net, { resolver, dialTimeoutMs: 20 }, "a.example:80");
  const cause = "a.example:80: name not resolved within 20 ms";
  assert(answer.startsWith(`HTTP/1.1 504 ${cause}\r\n`), answer);
  assertStringIncludes(answer, `; error=dns_timeout; details="${cause}"\r\n`);
});

test("runAgent() answers 502 for a name that does not resolve", async (net) => {
  const { resolver } = knowing({ "empty.example": [] });
  const server = await net.serverWithAgent({ resolver, allow: rules("10.0.0.0/8") });
  for (const name of ["unknown.example", "empty.example"]) {
    const answer = await ask(net, server, requestFor(`${name}:80`));
    const cause = `${name}:80: name does not resolve`;
    assert(answer.startsWith(`HTTP/1.1 502 ${cause}\r\n`), answer);
    assertStringIncludes(answer, `; error=dns_error; details="${cause}"\r\n`);
  }
});

// How a full queue is dealt with, and which addresses are loopback, differs from system to system.
const onlyOnLinux = Deno.build.os === "linux" ? test : () => {};

onlyOnLinux("runAgent() does not wait for an address that does not answer", async (net) => {
  const silent = await silentTarget(net);
  using other = Deno.listen({ hostname: "127.0.0.2", port: silent.port });
  const serving = other.accept().then((connection) => connection.close());
  const { resolver } = knowing({ "a.example": ["127.0.0.1", "127.0.0.2"] });
  assertEquals(await answerOf(net, { resolver }, `a.example:${silent.port}`), OK);
  await serving;
  await assertGivenUp(net, silent);
});

test("runPassthrough() connects to an upstream by its name, whatever rules say of it", async (net) => {
  const server: Server = await net.server();
  const target = net.greeter();
  net.passthrough(server, target.port, {
    upstream: { hostname: "localhost", port: target.port },
  });
  const client = await net.client(server);
  // Without a byte of the client's, an agent of the raw dialect does not know of it.
  await sendText(client, "hello");
  assertEquals(await readText(client), "here");
});

test("runAgent() logs its rules, and for each refusal rule and address", async (net) => {
  using lines = logLines(2);
  const server = await net.server();
  const { resolver } = knowing({ "a.example": ["10.1.2.3"] });
  net.agent(server, {
    resolver,
    allow: rules("10.0.0.0/8", "[fd00::/8]:443"),
    deny: rules("10.1.0.0/16:22"),
  });
  await ask(net, server, requestFor("a.example:22"));
  const line = (message: string) =>
    lines.find((line) => line.includes(` agent "${message}"`)) ?? "";
  assertStringIncludes(
    line("agent started"),
    " allow=10.0.0.0/8,[fd00::/8]:443 deny=10.1.0.0/16:22",
  );
  assertStringIncludes(
    line("tunnel refused"),
    ' target=a.example:22 address=10.1.2.3 by=agent reason=refused result=denied error="a.example:22: denied by --deny 10.1.0.0/16:22"',
  );
});

scriptedTest("runAgent() tells the server that a target is denied", async (net) => {
  const server = net.scriptedServer();
  net.agent(server);
  const agent = await server.accept();
  const stream = agent.open();
  await writeAll(stream, encodeFrame(FrameType.Open, encodeOpen({ tunnelId: new Uint8Array(16) })));
  await writeAll(stream, frames.data(requestFor("169.254.169.254:80")));
  const text = "169.254.169.254:80: denied by default rule link-local 169.254.0.0/16";
  assertEquals(await readAgentFrames(stream), {
    result: { code: "denied", text },
    data: denial(text, "destination_ip_prohibited"),
    ended: true,
  });
});

// ---- The program ----

Deno.test("proxy-agent does not start with a rule that it does not understand", async () => {
  for (
    const [flags, line] of [
      [
        { allow: "10.0.0.0/8,fd00::/8:443" },
        'flag --allow: invalid rule "fd00::/8:443": ' +
        "ports after an IPv6 network need brackets, as in [fd00::/8]:443",
      ],
      [
        { deny: "10.0.0.1/8" },
        'flag --deny: invalid network "10.0.0.1/8": ' +
        "host bits are set, the network is 10.0.0.0/8",
      ],
    ] as [Record<string, string>, string][]
  ) {
    await using agent = startProgram("agent", flags);
    assertEquals((await agent.status).code, 2);
    await agent.line(/^proxy-agent: /);
    assertEquals(agent.lines, [`proxy-agent: ${line}`]);
  }
});
