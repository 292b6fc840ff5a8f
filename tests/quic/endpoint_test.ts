// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Endpoints: how they connect, accept and close. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { ConnectionClosedError, type QuicConnection, QuicEndpoint } from "../../lib/quic/mod.ts";
import { ALPN, clientTls, connectPair } from "../support/quic.ts";
import { openEnds, quicTest, roundTrip, STUCK_MS } from "../support/quic_streams.ts";

const SERVER_NAME = "quic-tunnel-server";
const LOOPBACK = { hostname: "127.0.0.1", port: 0 };

function connectTo(
  server: QuicEndpoint,
  client: QuicEndpoint,
  signal?: AbortSignal,
): Promise<QuicConnection> {
  return client.connect(
    { hostname: "127.0.0.1", port: server.addr.port },
    SERVER_NAME,
    { tls: clientTls, alpn: ALPN },
    signal,
  );
}

quicTest("QuicEndpoint connect() gives up a server that never answers", async () => {
  const silent = Deno.listenDatagram({ transport: "udp", ...LOOPBACK });
  await using endpoint = new QuicEndpoint(LOOPBACK);
  const { port } = silent.addr as Deno.NetAddr;
  const connect = () =>
    assertRejects(
      () =>
        endpoint.connect({ hostname: "127.0.0.1", port }, SERVER_NAME, {
          tls: clientTls,
          alpn: ALPN,
          handshakeTimeoutMs: 100,
        }),
      ConnectionClosedError,
    );
  const error = await connect();
  assertEquals([error.info.by, error.info.application], ["timeout", false]);
  assertEquals(error.peerCertificates, null);
  // Nobody is there at all: to a UDP socket that is no different.
  silent.close();
  assertEquals((await connect()).info.by, "timeout");
});

quicTest("QuicEndpoint connect() is given up by its signal", async () => {
  const silent = Deno.listenDatagram({ transport: "udp", ...LOOPBACK });
  await using endpoint = new QuicEndpoint(LOOPBACK);
  const connect = (signal: AbortSignal) =>
    endpoint.connect(
      { hostname: "127.0.0.1", port: (silent.addr as Deno.NetAddr).port },
      SERVER_NAME,
      { tls: clientTls, alpn: ALPN },
      signal,
    );
  await assertRejects(() => connect(AbortSignal.abort(new Error("before"))), Error, "before");
  const controller = new AbortController();
  const connecting = assertRejects(() => connect(controller.signal), Error, "changed my mind");
  await silent.receive(new Uint8Array(2048));
  controller.abort(new Error("changed my mind"));
  await deadline(connecting, STUCK_MS);
  silent.close();
});

quicTest(
  "QuicEndpoint connect() leaves the connection alone when its signal aborts later",
  async () => {
    await using pair = await connectPair();
    const controller = new AbortController();
    const [server, client] = await Promise.all([
      pair.serverEndpoint.accept(),
      connectTo(pair.serverEndpoint, pair.clientEndpoint, controller.signal),
    ]);
    controller.abort();
    await roundTrip(await openEnds(server, client));
    assertEquals([server.closeInfo, client.closeInfo], [undefined, undefined]);
  },
);

quicTest("QuicEndpoint close() tells the peers and ends accept() and connect()", async () => {
  const pair = await connectPair();
  const accepting = assertRejects(() => pair.serverEndpoint.accept(), ConnectionClosedError);
  const silent = Deno.listenDatagram({ transport: "udp", ...LOOPBACK });
  const { port } = silent.addr as Deno.NetAddr;
  const options = { tls: clientTls, alpn: ALPN };
  const connecting = assertRejects(
    () => pair.clientEndpoint.connect({ hostname: "127.0.0.1", port }, SERVER_NAME, options),
    ConnectionClosedError,
  );
  await pair.serverEndpoint.close(42, "going away");
  assertEquals(await deadline(pair.client.closed, STUCK_MS), {
    by: "peer",
    application: true,
    code: 42,
    reason: "going away",
  });
  assertEquals((await pair.server.closed).by, "local");
  await accepting;
  await assertRejects(() => pair.serverEndpoint.accept(), ConnectionClosedError);
  await pair.clientEndpoint.close();
  await connecting;
  await assertRejects(
    () => connectTo(pair.serverEndpoint, pair.clientEndpoint),
    ConnectionClosedError,
  );
  await pair.serverEndpoint.close();
  silent.close();
  await pair[Symbol.asyncDispose]();
});

quicTest("QuicEndpoint accept() needs an endpoint that listens", async () => {
  await using endpoint = new QuicEndpoint(LOOPBACK);
  await assertRejects(() => endpoint.accept(), TypeError, "does not listen");
});

quicTest("QuicEndpoint constructor throws when the port is taken", async () => {
  await using endpoint = new QuicEndpoint(LOOPBACK);
  const { port } = endpoint.addr;
  assertThrows(
    () => new QuicEndpoint({ hostname: "127.0.0.1", port }),
    Deno.errors.AddrInUse,
  );
});

quicTest(
  "QuicEndpoint accept() yields connections in order and skips those that have ended",
  async () => {
    await using pair = await connectPair();
    const connect = () => connectTo(pair.serverEndpoint, pair.clientEndpoint);
    const first = await connect();
    const second = await connect();
    const third = await connect();
    const other = await openEnds(pair.server, pair.client);
    first.close(5);
    // Sent after the CONNECTION_CLOSE, so that one has arrived when this has.
    await roundTrip(other);
    const accepted = [await pair.serverEndpoint.accept(), await pair.serverEndpoint.accept()];
    for (const [server, client] of [[accepted[0]!, second], [accepted[1]!, third]] as const) {
      const { here, there } = await openEnds(client, server);
      await roundTrip({ here, there });
    }
  },
);

quicTest("QuicEndpoint turns connections away that nobody accepts", async () => {
  await using pair = await connectPair({ server: { maxAcceptQueue: 2 } });
  const connect = () => connectTo(pair.serverEndpoint, pair.clientEndpoint);
  const waiting = [await connect(), await connect()];
  const refused = await connect().then(
    (connection) => connection.closed,
    (error) => (error as ConnectionClosedError).info,
  );
  assertEquals(refused, { by: "peer", application: true, code: 0, reason: "too many connections" });
  assertEquals(pair.serverEndpoint.stats.dropped.busy, 1);
  assertEquals(pair.serverEndpoint.stats.halfOpen, 0);
  for (const client of waiting) {
    await roundTrip(await openEnds(await pair.serverEndpoint.accept(), client));
  }
});

quicTest("QuicEndpoint counts sends that the system refuses and goes on", async () => {
  await using endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  // An IPv4 socket cannot send there.
  const peer = { hostname: "::1", port: 9 };
  const options = { tls: clientTls, alpn: ALPN, handshakeTimeoutMs: 100 };
  const error = await assertRejects(
    () => endpoint.connect(peer, "quic-tunnel-server", options),
    ConnectionClosedError,
  );
  assertEquals(error.info.by, "timeout");
  assert(endpoint.stats.dropped["send-error"] > 0);
});
