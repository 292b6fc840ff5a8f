// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Agents' connections on Deno's own QUIC, to a server on the binding. */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  CarrierRelay,
  ConnectionClosedError,
  DenoQuicEndpoint,
  TlsAlert,
  tlsAlertOf,
} from "../../lib/quic/mod.ts";
import { closeInfoOf } from "../../lib/quic/deno/errors.ts";
import { sleep } from "../../lib/wait.ts";
import {
  acceptDeno,
  clientOptions,
  connectDenoPair,
  openDenoStream,
  QRHT,
} from "../support/deno_quic.ts";
import { MemoryCarriers } from "../support/datagram_carrier.ts";
import { assertCarriesBothWays } from "../support/memory_duplex.ts";
import { eventually } from "../support/eventually.ts";
import { soon } from "../support/network.ts";
import { clientTls, listen, serverTls } from "../support/quic.ts";
import { quicTest as test } from "../support/quic_streams.ts";
import { TestCa } from "../support/tls.ts";

const NAME = "quic-tunnel-server";

/** How a handshake fails. */
async function failure(
  connect: (endpoint: DenoQuicEndpoint) => Promise<unknown>,
): Promise<ConnectionClosedError> {
  await using endpoint = new DenoQuicEndpoint("127.0.0.1");
  return await assertRejects(() => connect(endpoint), ConnectionClosedError);
}

test("DenoQuicEndpoint.connect() resolves when the server has accepted the client", async () => {
  await using pair = await connectDenoPair();
  const { client, server, listening } = pair;
  assertEquals([client.alpn, server.alpn], ["qrht/1", "qrht/1"]);
  assertEquals(client.remoteAddr, listening.address);
  assertEquals([client.library, client.id], ["deno", undefined]);
  assertEquals(client.stats(), { streams: 0 });
  assertEquals(client.silentForMs, 0);
});

test("DenoQuicEndpoint serves several connections with one socket", async () => {
  await using first = await connectDenoPair();
  const [server, client] = await Promise.all([
    acceptDeno(first.listening),
    first.endpoint.connect(first.listening.address, NAME, clientOptions),
  ]);
  assertEquals(server.remoteAddr.port, first.server.remoteAddr.port);
  client.close(100, "one of two");
  assertEquals((await soon("its end", server.closed)).reason, "one of two");
  const { there, here } = await openDenoStream(first);
  here.abort();
  there.abort();
});

/** Address of a server that only carriers lead to. */
const FAR = { hostname: "192.0.2.1", port: 443 };

test("DenoQuicEndpoint connects through a carrier, which a relay leads to", async () => {
  await using listening = listen({ alpn: QRHT });
  const { endpoint } = listening;
  await using relay = new CarrierRelay(new MemoryCarriers(endpoint, 16_376).open, FAR);
  await using own = new DenoQuicEndpoint("127.0.0.1");
  const [server, client] = await Promise.all([
    acceptDeno(listening),
    own.connect(FAR, NAME, clientOptions, undefined, relay.addr),
  ]);
  assertEquals([client.isCarried, server.isCarried, client.remoteAddr], [true, true, FAR]);
  const { there, here } = await openDenoStream({ client, server });
  await assertCarriesBothWays([here, there], 1 << 20);
});

test("CarrierRelay ends a handshake that the server does not answer", async () => {
  await using listening = listen({ alpn: QRHT });
  const carriers = new MemoryCarriers(listening.endpoint, 16_376);
  await using own = new DenoQuicEndpoint("127.0.0.1");
  const relay = new CarrierRelay(carriers.open, FAR);
  carriers.stall();
  const over = AbortSignal.timeout(50);
  const connecting = own.connect(FAR, NAME, clientOptions, over, relay.addr);
  await assertRejects(() => connecting, DOMException);
  // Else its operation would still be under way at the end of the test.
  await relay[Symbol.asyncDispose]();
});

test("CarrierRelay passes on what its first sender sends, and tells when the carrier is gone", async () => {
  await using listening = listen({ alpn: QRHT });
  const { endpoint } = listening;
  const carriers = new MemoryCarriers(endpoint, 16_376);
  await using relay = new CarrierRelay(carriers.open, FAR);
  const [first, other] = [1, 2].map(() =>
    Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 })
  ) as [Deno.DatagramConn, Deno.DatagramConn];
  const to = { transport: "udp", ...relay.addr } as const;
  await first.send(new Uint8Array(30), to);
  await eventually("the first datagram", () => endpoint.stats.received === 1);
  await other.send(new Uint8Array(30), to);
  await first.send(new Uint8Array(30), to);
  await eventually("the second one of the first", () => endpoint.stats.received === 2);
  for (const socket of [first, other]) socket.close();
  carriers.lose();
  await soon("the loss", relay.lost);
  assertEquals(endpoint.stats.received, 2);
});

for (
  const [what, alert, options] of [
    ["no client certificate of its CA", TlsAlert.UnknownCa, async () => {
      const other = await TestCa.create();
      return { ...await other.client(), ca: clientTls.ca };
    }],
    ["a client certificate for servers", TlsAlert.UnsupportedCertificate, async () => {
      const { cert, key } = serverTls;
      return await Promise.resolve({ ca: clientTls.ca, cert, key });
    }],
  ] as const
) {
  test(`DenoQuicEndpoint.connect() fails as the binding does when the server refuses ${what}`, async () => {
    await using listening = listen({ alpn: QRHT });
    const tls = await options();
    const { info } = await failure((endpoint) =>
      endpoint.connect(listening.address, NAME, { ...clientOptions, tls })
    );
    assertEquals([info.by, tlsAlertOf(info)], ["peer", alert]);
  });
}

test("DenoQuicEndpoint.connect() tells what is wrong with the server's certificate", async () => {
  const other = await TestCa.create("another CA");
  const wrong = {
    "UnknownIssuer|BadSignature": { tls: await other.server() },
    "not valid for name|NotValidForName": { name: "another-name" },
    "[Ee]xpired": {
      tls: await (await TestCaOfClient()).server({ notAfter: new Date(Date.now() - 1_000) }),
    },
  };
  for (
    const [words, { tls, name = NAME }] of Object.entries(wrong) as [
      string,
      { tls?: typeof serverTls; name?: string },
    ][]
  ) {
    await using listening = listen({ alpn: QRHT, ...(tls && { tls }) });
    const ca = words === "[Ee]xpired" ? (await TestCaOfClient()).pem : clientTls.ca;
    const { info } = await failure((endpoint) =>
      endpoint.connect(listening.address, name, { ...clientOptions, tls: { ...clientTls, ca } })
    );
    assertEquals([info.by, info.application], ["local", false]);
    assert(tlsAlertOf(info) !== undefined, info.reason);
    assert(new RegExp(words).test(info.reason), info.reason);
  }
});

let expiredCa: Promise<TestCa> | undefined;
const TestCaOfClient = () => expiredCa ??= TestCa.create("CA of an expired certificate");

test("DenoQuicEndpoint.connect() is refused by a server without its dialect", async () => {
  await using listening = listen({ alpn: ["quic-echo-example"] });
  const { info } = await failure((endpoint) =>
    endpoint.connect(listening.address, NAME, clientOptions)
  );
  assertEquals([info.by, tlsAlertOf(info)], ["peer", TlsAlert.NoApplicationProtocol]);
});

test("DenoQuicEndpoint.connect() gives up a server that does not answer, and one without a control stream", async () => {
  const hole = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const unanswered = await failure((endpoint) =>
    endpoint.connect(hole.addr as Deno.NetAddr, NAME, { ...clientOptions, handshakeTimeoutMs: 100 })
  );
  assertEquals([unanswered.info.by, unanswered.info.isUnanswered], ["timeout", true]);
  assertStringIncludes(unanswered.message, "no answer after 100 ms");
  const { hostname, port } = hole.addr as Deno.NetAddr;
  const relay = { hostname, port };
  const times = { handshakeTimeoutMs: 10_000, carrierHandshakeTimeoutMs: 100 };
  const carried = await failure((endpoint) =>
    endpoint.connect({ hostname, port: 1 }, NAME, { ...clientOptions, ...times }, undefined, relay)
  );
  hole.close();
  assertEquals([carried.info.isUnanswered, carried.info.isCarried], [true, true]);
  assertStringIncludes(carried.message, "no answer after 100 ms");

  await using listening = listen({ alpn: QRHT });
  const accepted = listening.endpoint.accept();
  const silent = await failure((endpoint) =>
    endpoint.connect(listening.address, NAME, { ...clientOptions, handshakeTimeoutMs: 300 })
  );
  assertEquals([silent.info.by, silent.info.isUnanswered], ["timeout", undefined]);
  assertStringIncludes(silent.message, "no control stream after 300 ms");
  assertEquals((await soon("its end", (await accepted).closed)).by, "peer");
});

test("DenoQuicEndpoint.connect() throws the signal's reason, and lets go of what comes late", async () => {
  await using listening = listen({ alpn: QRHT });
  await using endpoint = new DenoQuicEndpoint("127.0.0.1");
  const reason = new Error("stopped");
  const abort = new AbortController();
  const connecting = endpoint.connect(listening.address, NAME, clientOptions, abort.signal);
  abort.abort(reason);
  assertEquals(await assertRejects(() => connecting), reason);
  const late = await soon("the connection that nobody wants", acceptDeno(listening));
  assertEquals((await soon("its end", late.closed)).reason, "the attempt was given up");
  assertEquals(
    await assertRejects(() =>
      endpoint.connect(listening.address, NAME, clientOptions, abort.signal)
    ),
    reason,
  );
});

test("DenoQuicConnection tells how the server has closed it, right after the handshake or later", async () => {
  await using listening = listen({ alpn: QRHT });
  const refused = failure((endpoint) => endpoint.connect(listening.address, NAME, clientOptions));
  (await listening.endpoint.accept()).close(102, "not you");
  const { info } = await refused;
  assertEquals(info, { by: "peer", application: true, code: 102, reason: "not you" });

  await using pair = await connectDenoPair();
  const { here } = await openDenoStream(pair);
  const reading = assertRejects(
    async () => await here.read(new Uint8Array(1)),
    ConnectionClosedError,
  );
  const accepting = assertRejects(() => pair.client.acceptStream(), ConnectionClosedError);
  pair.server.close(0);
  const later = await soon("the end", pair.client.closed);
  assertEquals(later, { by: "peer", application: true, code: 0, reason: "" });
  assertEquals((await reading).info, later);
  assertEquals((await accepting).info, later);
  assertEquals(
    (await assertRejects(async () => await here.write(new Uint8Array(1)), ConnectionClosedError))
      .info,
    later,
  );
  assertEquals(pair.client.closeInfo, later);
});

test("DenoQuicConnection.close() ends what waits, once", async () => {
  await using pair = await connectDenoPair();
  const { here } = await openDenoStream(pair);
  const reading = assertRejects(
    async () => await here.read(new Uint8Array(1)),
    ConnectionClosedError,
  );
  pair.client.close(100, "x".repeat(1_000));
  pair.client.close(7, "again");
  assertEquals((await reading).info.by, "local");
  const { code, reason } = await soon("the end", pair.server.closed);
  assertEquals([code, reason], [100, "x".repeat(256)]);
  assertEquals(pair.client.closeInfo?.code, 100);
  await assertRejects(() => pair.client.acceptUniStream(), ConnectionClosedError);
});

test("DenoQuicConnection notices a server that is gone within the idle timeout", async () => {
  await using pair = await connectDenoPair({ client: { idleTimeoutMs: 700, keepAliveMs: 200 } });
  const { client, server } = pair;
  await sleep(1_200);
  assertEquals(client.closeInfo, undefined);
  const from = performance.now();
  server.destroy("as if it were killed");
  const info = await soon("the end", client.closed);
  assertEquals(info.by === "timeout" || info.by === "reset", true, JSON.stringify(info));
  assert(performance.now() - from < 1_500);
});

test("DenoQuicConnection opens a unidirectional stream, and takes those of the server in order", async () => {
  await using pair = await connectDenoPair();
  const { client, server } = pair;
  const out = client.openUniStream();
  assertEquals(await out.write(Uint8Array.of(1, 2)), 2);
  const there = await soon("the stream", server.acceptUniStream());
  const buffer = new Uint8Array(9);
  assertEquals(await there.read(buffer), 2);
  const second = server.openUniStream()!;
  await second.write(Uint8Array.of(8, 8, 8));
  const first = await soon("the first", client.acceptUniStream());
  assertEquals(await first.read(buffer), 1);
  const next = await soon("the second", client.acceptUniStream());
  assertEquals(await next.read(buffer), 3);
  second.reset(0);
  there.stop(0);
});

test("DenoQuicConnection.settled() waits for the server to have everything, when it tells", async () => {
  await using pair = await connectDenoPair();
  const { client } = pair;
  const asked: number[] = [];
  client.heartbeat.start(() => asked.push(performance.now()));
  let isSettled = false;
  const settled = client.settled(10_000).then(() => isSettled = true);
  for (const streams of [2, 1]) {
    const before = asked.length;
    await eventually("it asks", () => asked.length > before);
    client.heartbeat.answered(streams);
    await sleep(5);
    assertEquals(isSettled, false);
  }
  const before = asked.length;
  await eventually("it asks again", () => asked.length > before);
  client.heartbeat.answered(0);
  await soon("settled()", settled);
  // What is under way is bounded by the time, too.
  const from = performance.now();
  await client.settled(30);
  assert(performance.now() - from < 1_000);
});

test("DenoQuicConnection.silentForMs counts from the last answer of a server that gives some", async () => {
  await using pair = await connectDenoPair();
  const { heartbeat } = pair.client;
  // An answer that nobody has asked for.
  heartbeat.answered(0);
  assertEquals(pair.client.silentForMs, 0);
  const asked: number[] = [];
  heartbeat.start(() => asked.push(1));
  await eventually("it asks", () => asked.length === 1);
  await sleep(100);
  assert(pair.client.silentForMs >= 1_000);
  heartbeat.answered(0);
  assert(pair.client.silentForMs < 500);
});

Deno.test("closeInfoOf() reads the words of Quinn", () => {
  const idle = "no packet from the peer for 5000 ms";
  const cases: Record<string, unknown> = {
    "timed out": { by: "timeout", application: false, code: 0, reason: idle },
    "reset by peer": {
      by: "reset",
      application: false,
      code: 0,
      reason: "the peer does not know it any more",
    },
    "closed by peer: bye (code 5)": { by: "peer", application: true, code: 5, reason: "bye" },
    "closed by peer: 103": { by: "peer", application: true, code: 103, reason: "" },
    "closed by peer: a (code 1) (code 2)": {
      by: "peer",
      application: true,
      code: 2,
      reason: "a (code 1)",
    },
    "aborted by peer: the cryptographic handshake failed: error 116": {
      by: "peer",
      application: false,
      code: 0x100 + 116,
      reason: "",
    },
    "the cryptographic handshake failed: error 48: invalid peer certificate: UnknownIssuer": {
      by: "local",
      application: false,
      code: 0x100 + 48,
      reason: "invalid peer certificate: UnknownIssuer",
    },
    "aborted by peer: the connection was refused": {
      by: "peer",
      application: false,
      code: 1,
      reason: "the connection was refused",
    },
    "": { by: "local", application: false, code: 1, reason: "" },
  };
  for (const [text, info] of Object.entries(cases)) {
    assertEquals(closeInfoOf(new Error(text), 5_000), info as never);
  }
});

test("DenoQuicEndpoint.connect() verifies both ends anew each time, in spite of tickets of before", async () => {
  await using pair = await connectDenoPair();
  const { endpoint, listening } = pair;
  const other = await TestCa.create();
  const wrong = {
    local: { ...clientTls, ca: other.pem },
    peer: { ...await other.client(), ca: clientTls.ca },
  };
  for (const [by, tls] of Object.entries(wrong)) {
    const { info } = await assertRejects(
      () => endpoint.connect(listening.address, NAME, { ...clientOptions, tls }),
      ConnectionClosedError,
    );
    assertEquals([info.by as string, tlsAlertOf(info) !== undefined], [by, true]);
  }
});

test("DenoQuicEndpoint.connect() says so when the endpoint is closed, or the name is none", async () => {
  const closed = await failure(async (endpoint) => {
    await endpoint.close();
    return await endpoint.connect({ hostname: "127.0.0.1", port: 9 }, NAME, clientOptions);
  });
  assertEquals([closed.info.by, closed.info.application], ["local", false]);
  // Whoever keeps the endpoint goes by this word.
  assertStringIncludes(closed.info.reason, "endpoint");
  const name = await failure((endpoint) =>
    endpoint.connect({ hostname: "127.0.0.1", port: 9 }, "no name..", clientOptions)
  );
  assertStringIncludes(name.info.reason, "invalid server name: no name..");
});
