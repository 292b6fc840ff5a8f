// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which agents a server lets in by the names in their certificates, and what its log calls them. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { X509Certificate } from "node:crypto";
import type { CertificateOptions } from "../../lib/certs/issue.ts";
import { ConnectionClosedError, type TlsIdentity } from "../../lib/quic/mod.ts";
import { eventually } from "../support/eventually.ts";
import {
  ask,
  assertReads,
  logLines,
  type Network,
  OK,
  requestFor,
  sendText,
  type Server,
  test,
} from "../support/network.ts";
import { scriptedTest } from "../support/scripted_peer.ts";
import { TestCa } from "../support/tls.ts";

/** Application error code of a server that does not let an agent in (docs/protocol.md). */
const NOT_ADMITTED = 102;

const ca = await TestCa.create();
const tls = await ca.server();

const certificateFor = (options: Partial<CertificateOptions>) =>
  ca.client({ commonName: "", dnsNames: [], ...options });

const lineOf = (lines: readonly string[], pattern: RegExp) =>
  eventually(`a line like ${pattern}`, () => lines.find((line) => pattern.test(line)));

/** What a client of the server gets from a target. */
function answerOf(net: Network, server: Server): Promise<string> {
  const target = net.greeter();
  return ask(net, server, requestFor(target.authority));
}

const admitted: Record<string, [Partial<CertificateOptions>, string[], string]> = {
  "by a DNS name": [{ commonName: "x", dnsNames: ["a.agents.example"] }, [
    "*.agents.example",
  ], "a.agents.example"],
  "by the second of its names": [{ dnsNames: ["a.example", "b.example"] }, [
    "c.example",
    "b.example",
  ], "b.example"],
  "by a URI": [
    { dnsNames: ["a.example"], uris: ["spiffe://cluster/ns/a/sa/agent"] },
    ["spiffe://cluster/ns/*"],
    "spiffe://cluster/ns/a/sa/agent",
  ],
  "by an IP address": [
    { commonName: "x", ipAddresses: ["10.0.0.1", "fd00::1"] },
    ["FD00:0::1"],
    "fd00::1",
  ],
  "by its common name": [
    { commonName: "system:node:a", dnsNames: ["a.example"] },
    ["system:node:*"],
    "system:node:a",
  ],
};

for (const [how, [options, agentNames, name]] of Object.entries(admitted)) {
  test(`runServer() lets an agent in ${how}, and calls it so`, async (net) => {
    using lines = logLines(0);
    const server = await net.server({ tls, agentNames });
    net.agent(server, { tls: await certificateFor(options) });
    const line = await lineOf(lines, /"agent connected"/);
    assert(line.includes(` agent=${name} `), line);
    assertEquals(await answerOf(net, server), `${OK}here`);
  }, ["qrht/1", "raw"]);
}

const refused: Record<string, [Partial<CertificateOptions>, string]> = {
  "with other names": [
    { commonName: "x", dnsNames: ["b.a.agents.example"], uris: ["spiffe://other/a"] },
    'names="b.a.agents.example, spiffe://other/a, x"',
  ],
  "with a name that only begins so": [
    { dnsNames: ["a.agents.example.evil"] },
    "names=a.agents.example.evil",
  ],
  "with the name in an IP address only": [{ ipAddresses: ["10.0.0.1"] }, "names=10.0.0.1"],
  "with a name that would write lines of its own": [
    { commonName: "a.agents.example\nERR server forged" },
    'names="\\"a.agents.example\\\\nERR server forged\\""',
  ],
  "with more names than a line should have": [
    { dnsNames: Array.from({ length: 100 }, (_, i) => `n${i}.example`) },
    'names="n0.example, n1.example, n2.example, n3.example, n4.example and 95 more"',
  ],
};

for (const [who, [options, names]] of Object.entries(refused)) {
  test(`runServer() lets no agent in ${who}`, async (net) => {
    using lines = logLines(0);
    const agentNames = ["*.agents.example", "spiffe://cluster/*"];
    const server = await net.server({ tls, agentNames, agentWaitMs: 0 });
    const agent = net.agent(server, { tls: await certificateFor(options) });
    const line = await lineOf(lines, /"agent refused"/);
    assertMatch(line, / remote=127\.0\.0\.1:\d+ connection=\d+ .* reason="not admitted: /);
    assert(line.includes(` ${names}`), line);
    assertEquals(await answerOf(net, server), "");
    assert(!lines.some((line) => line.includes('"agent connected"')));
    await lineOf(
      lines,
      /WRN agent "(?:cannot connect to the server|disconnected from quic server)".*closed by the peer: code 102 \(not admitted: /,
    );
    await agent.stop();
  }, ["qrht/1", "raw"]);
}

test("runServer() goes on to serve by the agents that it lets in", async (net) => {
  using lines = logLines(0);
  const server = await net.server({ tls, agentNames: ["good.example"] });
  net.agent(server, { tls: await certificateFor({ dnsNames: ["bad.example"] }) });
  await lineOf(lines, /"agent refused"/);
  net.agent(server, { tls: await certificateFor({ dnsNames: ["good.example"] }) });
  // It comes again and again, to the end of the test.
  for (let i = 0; i < 5; i++) assertEquals(await answerOf(net, server), `${OK}here`);
  await eventually(
    "the other tries again",
    () => lines.filter((line) => line.includes('"agent refused"')).length >= 2,
  );
  assertEquals(lines.filter((line) => /"agent connected".* agent=bad/.test(line)), []);
});

scriptedTest(
  "an agent that is not let in gets no stream, the clients that wait get the next",
  async (net) => {
    const server = await net.server({ tls, agentNames: ["good.example"], agentWaitMs: 20_000 });
    const clients = [await net.client(server), await net.client(server)];
    for (const client of clients) await sendText(client, "hello");
    const agent = async (name: string) =>
      await net.scriptedAgent(server, { tls: await certificateFor({ dnsNames: [name] }) });
    for (let i = 0; i < 3; i++) {
      const { info } = await assertRejects(() => agent("bad.example"), ConnectionClosedError);
      assertEquals([info.by, info.application, info.code], ["peer", true, NOT_ADMITTED]);
    }
    const good = await agent("good.example");
    for (const _client of clients) {
      const { carrier } = await good.tunnel();
      await assertReads(carrier, "hello");
    }
  },
);

test(
  "runServer() without a list lets every certificate of the CA in, by its first name",
  async (net) => {
    using lines = logLines(0);
    const server = await net.server({ tls });
    const named = async (identity: TlsIdentity, expected: string) => {
      const from = lines.length;
      const agent = net.agent(server, { tls: identity });
      const line = await eventually(
        "it is connected",
        () => lines.slice(from).find((line) => line.includes('"agent connected"')),
      );
      assert(line.includes(` agent=${expected} `), line);
      await agent.stop();
    };
    await named(await certificateFor({ commonName: "x", dnsNames: ["a.example"] }), "a.example");
    await named(await certificateFor({ commonName: "x", uris: ["spiffe://a/b"] }), "spiffe://a/b");
    await named(await certificateFor({ commonName: "x" }), "x");
    const nameless = await certificateFor({ ipAddresses: ["10.0.0.1"] });
    const { fingerprint256 } = new X509Certificate(new TextDecoder().decode(nameless.cert));
    await named(nameless, fingerprint256);
  },
  ["qrht/1"],
);
