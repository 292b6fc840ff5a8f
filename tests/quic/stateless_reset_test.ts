// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import fc from "fast-check";
import { resetBytes, resetToken, writeReset } from "../../lib/quic/handshake/stateless_reset.ts";
import { QuicEndpoint } from "../../lib/quic/mod.ts";
import { Attacker } from "../support/attacker.ts";
import { eventually } from "../support/eventually.ts";
import { soon } from "../support/network.ts";
import {
  ALPN,
  assertNothingLive,
  clientTls,
  connectPair,
  listen,
  serverTls,
} from "../support/quic.ts";
import { withRelayedPair } from "../support/relayed_pair.ts";
import { TestCa } from "../support/tls.ts";

const subject = {
  cid: new Uint8Array(16).fill(7),
  local: { hostname: "192.0.2.1", port: 8888 },
  peer: { hostname: "198.51.100.1", port: 40_000 },
};
const key = new TextEncoder().encode("a key");

Deno.test("resetToken() is the same for the same key, connection id and addresses, and no other", () => {
  const token = resetToken(key, subject);
  assertEquals(token.length, 16);
  assertEquals(resetToken(key.slice(), { ...subject }), token);
  const others = [
    { ...subject, cid: new Uint8Array(16).fill(8) },
    { ...subject, local: { ...subject.local, port: 8889 } },
    { ...subject, local: { ...subject.local, hostname: "192.0.2.2" } },
    { ...subject, peer: { ...subject.peer, port: 40_001 } },
    { ...subject, peer: subject.local, local: subject.peer },
  ];
  for (const other of others) assertNotEquals(resetToken(key, other), token);
  assertNotEquals(resetToken(new TextEncoder().encode("b key"), subject), token);
});

Deno.test("resetBytes() is less than the packet, and never too little for a packet of QUIC", () => {
  fc.assert(fc.property(fc.nat(70_000), (packet) => {
    const bytes = resetBytes(packet);
    return bytes === undefined ? packet <= 21 : bytes >= 21 && bytes < packet && bytes <= 41;
  }));
});

Deno.test("writeReset() writes a short header, and the token last", () => {
  const token = resetToken(key, subject);
  for (let length = 21; length <= 41; length++) {
    const reset = new Uint8Array(length);
    writeReset(reset, token);
    assertEquals(reset[0]! >> 6, 1);
    assertEquals(reset.subarray(-16), token);
  }
});

const options = { tls: serverTls, alpn: ALPN };

function resetTest(name: string, fn: () => Promise<void>): void {
  Deno.test(name, async () => {
    await fn();
    assertNothingLive();
  });
}

/** A server at the port of another one that has ended without a word. */
async function successorOf(endpoint: QuicEndpoint, tls = serverTls): Promise<QuicEndpoint> {
  const { hostname, port } = endpoint.addr;
  await endpoint.socket.close();
  return new QuicEndpoint({ hostname, port, listen: { ...options, tls } });
}

resetTest("QuicConnection learns from a server that was started anew that it is gone", async () => {
  await using pair = await connectPair({ client: { keepAliveMs: 50 } });
  await using _successor = await successorOf(pair.serverEndpoint);
  assertEquals(await soon("the end", pair.client.closed), {
    by: "reset",
    application: false,
    code: 0,
    reason: "the peer does not know it any more",
  });
});

resetTest("QuicConnection believes no server with another key", async () => {
  await using pair = await connectPair({ client: { keepAliveMs: 50, idleTimeoutMs: 1_000 } });
  const stranger = await (await TestCa.create()).server();
  await using successor = await successorOf(pair.serverEndpoint, stranger);
  assertEquals((await soon("the end", pair.client.closed)).by, "timeout");
  assert(successor.stats.dropped["unknown-connection"] > 0);
});

resetTest(
  "QuicEndpoint tells nobody the token of a server at another port with the same key",
  async () => {
    const client = { keepAliveMs: 20 };
    await withRelayedPair({ capture: 20 }, { client }, async ({ client }, relay) => {
      await using other = listen();
      await using attacker = new Attacker(other.endpoint);
      const overheard = await eventually(
        "a packet with a short header",
        () => relay.captured.find((packet) => packet[0]! < 0x80),
      );
      await attacker.send(overheard);
      relay.injectToClients(await soon("a reset", attacker.receive()));
      // What comes later is received later.
      const before = client.stats().receivedPackets;
      await eventually("the client goes on", () => client.stats().receivedPackets > before + 1);
      assertEquals(client.closeInfo, undefined);
    });
  },
);

resetTest(
  "QuicEndpoint sends no more stateless resets than it may, and none for short packets",
  async () => {
    await using target = listen({ maxAnswersPerSecond: 5 });
    const client = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    let answers = 0;
    const receiving = (async () => {
      for await (const _ of client) answers++;
    })();
    for (const length of [...Array(20).fill(21), ...Array(20).fill(30)]) {
      await client.send(new Uint8Array(length).fill(0x40), {
        transport: "udp",
        ...target.endpoint.addr,
      });
    }
    await eventually(
      "all have come",
      () => target.endpoint.stats.dropped["unknown-connection"] === 40,
    );
    await eventually("the answers", () => answers >= 5);
    assert(answers <= 6, `${answers}`);
    client.close();
    await receiving;
  },
);

resetTest(
  "QuicEndpoint that makes connections only is not ended by packets of strangers",
  async () => {
    await using pair = await connectPair();
    const stranger = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    const { port } = pair.clientEndpoint.addr;
    for (let i = 0; i < 100; i++) {
      const packet = crypto.getRandomValues(new Uint8Array(17 + i));
      packet[0]! &= 0x7f;
      await stranger.send(packet, { transport: "udp", hostname: "127.0.0.1", port });
    }
    const { dropped } = pair.clientEndpoint.stats;
    await eventually(
      "all have come",
      () => pair.clientEndpoint.stats.dropped["unknown-connection"] + dropped.invalid >= 99,
    );
    assert(pair.client.silentForMs > 0);
    assertEquals(pair.client.closeInfo, undefined);
    stranger.close();
  },
);

resetTest(
  "QuicEndpoint binds any address and still has a token where the system tells its own",
  async () => {
    const endpoint = new QuicEndpoint({ hostname: "0.0.0.0", port: 0, listen: options });
    await using client = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
    const peer = { hostname: "127.0.0.1", port: endpoint.addr.port };
    const connection = await client.connect(peer, "quic-tunnel-server", {
      tls: clientTls,
      alpn: ALPN,
      keepAliveMs: 50,
      idleTimeoutMs: 1_000,
    });
    const isKnown = endpoint.localAddr(peer) !== undefined;
    await using _successor = await successorOf(endpoint);
    const { by } = await soon("the end", connection.closed);
    assertEquals(by, isKnown ? "reset" : "timeout");
    await endpoint.close();
  },
);
