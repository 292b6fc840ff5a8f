// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What proxy-agent does for the clients of a server. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { configureLog, resetLog } from "../../lib/log.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import {
  ask,
  assertGivenUp,
  assertReads,
  lineWith,
  logLines,
  loopback,
  NOBODY,
  OK,
  openTunnel,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  silentTarget,
  soon,
  test,
  utf8,
} from "../support/network.ts";

test("runAgent() answers a CONNECT with these bytes and nothing more", async (net) => {
  const { client, atTarget } = await openTunnel(net);
  await sendText(atTarget, "first bytes of the target");
  await atTarget.closeWrite();
  assertEquals(await readText(client), "first bytes of the target");
});

test("runAgent() connects to the request target, whatever Host says", async (net) => {
  const server = await net.serverWithAgent();
  const target = net.greeter();
  for (const host of ["Host: 127.0.0.1\r\n", `Host: ${NOBODY}\r\n`, ""]) {
    const answer = await ask(net, server, `CONNECT ${target.authority} HTTP/1.1\r\n${host}\r\n`);
    assertEquals(answer, `${OK}here`);
  }
});

test("runAgent() takes a head that comes byte by byte", async (net) => {
  const server = await net.serverWithAgent();
  const target = net.target();
  const client = await net.client(server);
  for (const byte of requestFor(target.authority)) await sendText(client, byte);
  await assertReads(client, OK);
});

test("runAgent() carries on the bytes that come with the head", async (net) => {
  const server = await net.serverWithAgent();
  for (const length of [1, 5_000, 300_000]) {
    const target = net.target();
    const client = await net.client(server);
    const early = pattern(length);
    const sending = (async () => {
      const head = utf8.encode(requestFor(target.authority));
      const all = new Uint8Array(head.length + length);
      all.set(head);
      all.set(early, head.length);
      await writeAll(client, all);
      await client.closeWrite();
    })();
    const atTarget = await target.accept();
    assertSameBytes(await readToEnd(atTarget), early);
    await sending;
    await atTarget.closeWrite();
    assertEquals(await readText(client), OK);
  }
});

test("runAgent() answers what is no CONNECT with its status and the cause", async (net) => {
  const server = await net.serverWithAgent();
  const cases: [request: string, answer: RegExp][] = [
    ["not http at all\r\n\r\n", /^HTTP\/1\.1 400 .+\r\n/],
    ["\x16\x03\x01\x02\x00", /^HTTP\/1\.1 400 TLS bytes where an HTTP request was expected\r\n/],
    ["CONNECT no-port HTTP/1.1\r\n\r\n", /^HTTP\/1\.1 400 invalid address "no-port": no port\r\n/],
    ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", /^HTTP\/1\.1 405 .*\r\nAllow: CONNECT\r\n/s],
    [`CONNECT ${NOBODY} HTTP/2.0\r\n\r\n`, /^HTTP\/1\.1 505 .*HTTP\/2\.0.*\r\n/],
    [
      `CONNECT ${NOBODY} HTTP/1.1\r\nX: ${"x".repeat(20_000)}\r\n\r\n`,
      /^HTTP\/1\.1 431 .*16384.*\r\n/,
    ],
  ];
  for (const [request, expected] of cases) {
    const answer = await ask(net, server, request);
    assertMatch(answer, expected);
    assertStringIncludes(
      answer,
      "\r\nProxy-Status: quic-tunnel-agent; error=http_request_error; details=",
    );
    assertStringIncludes(answer, "\r\nContent-Length: 0\r\nConnection: close\r\n");
    assert(answer.endsWith("\r\n\r\n"), "something behind the head");
  }
});

test("runAgent() answers 400 when the connection ends within the request head", async (net) => {
  const server = await net.serverWithAgent();
  const client = await net.client(server);
  await sendText(client, `CONNECT ${NOBODY} HTTP/1.1\r\n`);
  await client.closeWrite();
  assertMatch(
    await readText(client),
    /^HTTP\/1\.1 400 the connection ends within the request head\r\n/,
  );
});

test("runAgent() answers 408 when the head does not come to its end", async (net) => {
  const server = await net.serverWithAgent({ headTimeoutMs: 50 });
  const client = await net.client(server);
  await sendText(client, `CONNECT ${NOBODY} HTTP/1.1\r\n`);
  const answer = await readText(client);
  assertMatch(answer, /^HTTP\/1\.1 408 request head not complete within 50 ms\r\n/);
});

test("runAgent() lets go of a client that leaves before it has asked", async (net) => {
  const server = await net.serverWithAgent();
  const client = await net.client(server);
  await client.closeWrite();
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
});

test("runAgent() tells in the reason phrase why a target was not reached", async (net) => {
  const server = await net.serverWithAgent();
  const answer = await ask(net, server, requestFor(NOBODY));
  const cause = `${NOBODY}: connection refused`;
  assertEquals(answer.split("\r\n"), [
    `HTTP/1.1 502 ${cause}`,
    `Proxy-Status: quic-tunnel-agent; error=connection_refused; details="${cause}"`,
    "Content-Length: 0",
    "Connection: close",
    "",
    "",
  ]);
});

// How a full queue is dealt with differs from system to system.
const onlyOnLinux = Deno.build.os === "linux" ? test : () => {};

onlyOnLinux("runAgent() answers 504 when a target does not answer in time", async (net) => {
  const server = await net.serverWithAgent({ dialTimeoutMs: 50 });
  const target = await silentTarget(net);
  const answer = await ask(net, server, requestFor(target.authority));
  const cause = `${target.authority}: no answer within 50 ms`;
  assert(answer.startsWith(`HTTP/1.1 504 ${cause}\r\n`), answer);
  assertStringIncludes(answer, `; error=connection_timeout; details="${cause}"\r\n`);
  await assertGivenUp(net, target);
});

onlyOnLinux("runAgent() stops while it waits for a target", async (net) => {
  using lines = logLines(4);
  const server = await net.server({ retryOn: [] });
  const agent = net.agent(server, { dialTimeoutMs: 15_000 });
  const target = await silentTarget(net);
  const client = await net.client(server);
  await sendText(client, requestFor(target.authority));
  await lineWith(lines, "connect request");
  await agent.stop();
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await assertGivenUp(net, target);
});

test("runAgent() answers also a client that sends on and on", async (net) => {
  const server = await net.serverWithAgent();
  for (let i = 0; i < 3; i++) {
    for (const [request, status] of [[requestFor(NOBODY), 502], ["no request\r\n", 400]] as const) {
      const client = await net.client(server);
      await sendText(client, request);
      net.flood(client);
      const answer = await soon("the answer", readUntilOver(client));
      assertMatch(answer, new RegExp(`^HTTP/1\\.1 ${status} .*\\r\\n\\r\\n$`, "s"));
      client.abort();
    }
  }
});

test("runAgent() serves further requests after one that it refused", async (net) => {
  const server = await net.serverWithAgent();
  const target = net.greeter();
  for (let i = 0; i < 3; i++) {
    assertMatch(await ask(net, server, "nonsense\r\n\r\n"), / 400 /);
    assertMatch(await ask(net, server, requestFor(NOBODY)), / 502 /);
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  }
});

test("runAgent() stops when it is told so just as it has connected", async (net) => {
  const server = await net.server();
  let isConnected = false;
  // Written between the end of connecting and the start of serving.
  configureLog(0, (line) => {
    if (!line.includes('"connected to quic server"')) return;
    isConnected = true;
    running.abort();
  });
  const running = net.agent(server);
  try {
    await soon("the agent's stop", running.done);
  } finally {
    resetLog();
  }
  assert(isConnected);
});

test("runAgent() comes back when the server has been restarted", async (net) => {
  const { server, client, atTarget, target } = await openTunnel(net);
  await server.stop();
  await soon("both ends", Promise.all([readUntilOver(client), readUntilOver(atTarget)]));
  const again = await net.server({ listenQuic: loopback(server.quicPort) });
  const asking = ask(net, again, requestFor(target.authority));
  const atTargetAgain = await target.accept();
  await sendText(atTargetAgain, "back again");
  await atTargetAgain.closeWrite();
  assertEquals(await asking, `${OK}back again`);
});

test("runAgent() does not run out of streams by those that clients leave in the middle", async (net) => {
  using lines = logLines(0);
  const server = await net.server();
  // Without a pause before the next connection, the clients that leave decide how many there are.
  const backoff = { minMs: 1, maxMs: 1 };
  net.agent(server, { maxStreams: 10, drainedIdleMs: 300, backoff });
  const target = net.servingTarget((connection) => {
    net.flood(connection);
    return readToEnd(connection).then(() => {});
  });
  const replaced = () => lines.filter((line) => line.includes('"replacing connection"'));
  const left = () => lines.filter((line) => line.includes('"disconnected from quic server"'));
  const buffer = new Uint8Array(64 << 10);
  // Where clients are served faster than a replacing connection, the old one serves more than its share.
  for (let i = 0; i < 40 || (replaced().length < 2 && i < 200); i++) {
    const client = await net.client(server);
    await sendText(client, requestFor(target.authority));
    await assertReads(client, OK);
    for (let n = 0; n < 10; n++) await soon("more of the flood", client.read(buffer));
    client.abort();
  }
  // Deno's QUIC loses none of them.
  if (net.isOnDeno) return assertEquals(replaced(), []);
  assert(replaced().length >= 2, lines.join("\n"));
  assertMatch(
    replaced()[0]!,
    /INF agent .* connection=\d+ cid=[0-9a-f]{16} cutStreams=\d+ maxStreams=10$/,
  );
  await eventually("those are left", () => left().length === replaced().length);
});
