// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Clients of proxy-agent that speak SOCKS5, or send plain requests. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { parseRule } from "../../lib/net/target_rule.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { Metrics } from "../../lib/observe/metrics.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { eventually } from "../support/eventually.ts";
import { assertSameBytes, concat, pattern } from "../support/bytes.ts";
import { readExactly, readToEnd } from "../support/memory_duplex.ts";
import {
  ask,
  assertReads,
  lineWith,
  logLines,
  type Network,
  NOBODY,
  OK,
  readText,
  requestFor,
  sendText,
  type Server,
  test,
} from "../support/network.ts";

const GREETING = Uint8Array.of(5, 1, 0);

function socksRequest(authority: string): Uint8Array {
  const [host, port] = authority.split(":") as [string, string];
  const ip = host.split(".").map(Number);
  return Uint8Array.of(5, 1, 0, 1, ...ip, Number(port) >> 8, Number(port) & 0xff);
}

/** A client that has greeted and asked, and the reply's code. */
async function socksClient(net: Network, server: Server, authority: string) {
  const client = await net.client(server);
  await writeAll(client, GREETING);
  assertEquals([...await readExactly(client, 2)], [5, 0]);
  await writeAll(client, socksRequest(authority));
  const [version, reply, ...rest] = await readExactly(client, 10);
  assertEquals([version, ...rest], [5, 0, 1, 0, 0, 0, 0, 0, 0]);
  return { client, reply };
}

const get = (authority: string, path = "/") =>
  `GET http://${authority}${path} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`;

test("runAgent() carries SOCKS5 clients both ways, with their half-closes", async (net) => {
  const server = await net.serverWithAgent();
  const target = net.target();
  const { client, reply } = await socksClient(net, server, target.authority);
  assertEquals(reply, 0);
  const atTarget = await target.accept();
  const bytes = pattern(300_000);
  const sending = Promise.try(() => writeAll(client, bytes)).then(() => client.closeWrite());
  assertSameBytes(await readToEnd(atTarget), bytes);
  await sending;
  await sendText(atTarget, "answer");
  await atTarget.closeWrite();
  assertEquals(await readText(client), "answer");
});

test("runAgent() takes a SOCKS5 greeting and request that come together", async (net) => {
  const server = await net.serverWithAgent();
  const client = await net.client(server);
  await writeAll(client, concat(GREETING, socksRequest(net.greeter().authority)));
  assertEquals([...(await readToEnd(client)).subarray(0, 4)], [5, 0, 5, 0]);
});

test("runAgent() tells SOCKS5 clients why a target was not reached", async (net) => {
  using lines = logLines(3);
  const server = await net.serverWithAgent({ deny: [parseRule("127.0.0.1:2")] });
  for (
    const [authority, code, result] of [[NOBODY, 5, "refused"], [
      "127.0.0.1:2",
      2,
      "denied",
    ]] as const
  ) {
    const { client, reply } = await socksClient(net, server, authority);
    assertEquals(reply, code);
    assertEquals(await readText(client), "");
    await lineWith(lines, "tunnel refused", `via=socks5 target=${authority}`, `result=${result}`);
  }
  assertEquals(await ask(net, server, "\x05\x01\x02"), "\x05\ufffd");
  await lineWith(lines, "tunnel refused", "result=bad-request", "does not offer SOCKS");
});

test("runAgent() gives up a SOCKS5 client that is late", async (net) => {
  const server = await net.serverWithAgent({ headTimeoutMs: 50 });
  const client = await net.client(server);
  await writeAll(client, GREETING);
  assertEquals([...await readToEnd(client)], [5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
});

test("runAgent() sends a plain request to its URL's server, and the response back", async (net) => {
  const server = await net.serverWithAgent();
  const target = net.target();
  const client = await net.client(server);
  const { authority } = target;
  await sendText(
    client,
    `POST http://${authority}/a?b HTTP/1.1\r\nHost: elsewhere\r\nProxy-Connection: Keep-Alive\r\n` +
      "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n",
  );
  const atTarget = await target.accept();
  await assertReads(
    atTarget,
    `POST /a?b HTTP/1.1\r\nHost: ${authority}\r\nExpect: 100-continue\r\nContent-Length: 3\r\n` +
      "Via: 1.1 quic-tunnel-agent\r\nConnection: close\r\n\r\n",
  );
  await sendText(atTarget, "HTTP/1.1 100 Continue\r\n\r\n");
  await assertReads(client, "HTTP/1.1 100 Continue\r\nVia: 1.1 quic-tunnel-agent\r\n\r\n");
  await sendText(client, `abc${get(NOBODY)}`);
  await assertReads(atTarget, "abc");
  // The server would wait for another request: the connection ends all the same.
  await sendText(atTarget, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  assertEquals(
    await readText(client),
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 quic-tunnel-agent\r\n" +
      "Connection: close\r\n\r\nok",
  );
  client.abort();
  assertEquals(await readText(atTarget).catch(() => ""), "");
});

test("runAgent() answers plain requests that it does not forward, and logs why", async (net) => {
  using lines = logLines(3);
  const server = await net.serverWithAgent();
  assertMatch(
    await ask(net, server, get(NOBODY)),
    /^HTTP\/1.1 502 127.0.0.1:1: connection refused\r\n/,
  );
  await lineWith(lines, "tunnel refused", `via=http target=${NOBODY}`, "result=refused");
  const twice = get(NOBODY).replace("\r\n", "\r\nHost: a\r\n");
  assertMatch(await ask(net, server, twice), /^HTTP\/1.1 400 more than one Host\r\n/);
  const target = net.servingTarget((connection) => sendText(connection, "SSH-2.0-x\r\n"));
  assertMatch(await ask(net, server, get(target.authority)), /^HTTP\/1.1 502 no valid response/);
  await lineWith(lines, "tunnel ended", "via=http", "by=target reason=protocol-error");
});

test("runAgent() serves the protocols of --clients alone", async (net) => {
  const connectOnly = await net.serverWithAgent({ protocols: ["connect"] });
  const { authority } = net.greeter();
  assertMatch(await ask(net, connectOnly, get(authority)), /^HTTP\/1.1 405 the method is GET/);
  assertMatch(await ask(net, connectOnly, "\x05\x01\x00"), /^HTTP\/1.1 400 not an HTTP request/);
  const noConnect = await net.serverWithAgent({ protocols: ["http", "socks5"] });
  assertMatch(await ask(net, noConnect, requestFor(authority)), /^HTTP\/1.1 405 CONNECT is not/);
});

test("runAgent() counts requests by protocol", async (net) => {
  const monitor = new Monitor("proxy-agent");
  const metrics = new Metrics(monitor);
  monitor.observe(metrics);
  const server = await net.server();
  net.agent(server, {}, monitor);
  const { authority } = net.greeter();
  assertEquals(await ask(net, server, requestFor(authority)), `${OK}here`);
  await ask(net, server, get(NOBODY));
  await ask(net, server, get(NOBODY));
  await socksClient(net, server, NOBODY);
  await eventually("all are counted", async () => {
    const text = await metrics.text();
    for (const [via, count] of [["connect", 1], ["http", 2], ["socks5", 1]]) {
      assertStringIncludes(
        text,
        `quic_tunnel_agent_client_requests_total{via="${via}"} ${count}\n`,
      );
    }
    return true;
  });
}, ["qrht/1"]);
