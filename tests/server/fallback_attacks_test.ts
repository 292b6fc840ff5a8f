// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What anybody can try on the fallback listener, while agents on UDP and TCP go on. */
import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { parseCidr } from "../../lib/net/cidr.ts";
import { encodeVarint } from "../../lib/varint.ts";
import { sleep } from "../../lib/wait.ts";
import { InitialForger, randomBytes } from "../support/attacker.ts";
import { concat } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { FallbackScene, headerOf, UPGRADE } from "../support/fallback_scene.ts";
import { soon, utf8, within } from "../support/network.ts";
import { assertNothingLive } from "../support/quic.ts";
import { cryptoFrame } from "../support/quic_packets.ts";
import { UdpRelay } from "../support/udp_relay.ts";

/** An attack on both ways to listen for TLS. Attackers have an address of their own on one alone. */
function attackBoth(...[name, options, attack]: Parameters<typeof attackTest>): void {
  attackTest(name, options, attack);
  attackTest(`${name}, without headers`, { ...options, acceptProxyProtocol: undefined }, attack);
}

/** An attack, during which an agent on UDP serves; attackers may have any address. */
function attackTest(
  name: string,
  options: ConstructorParameters<typeof FallbackScene>[0],
  attack: (scene: FallbackScene) => Promise<void>,
): void {
  Deno.test(name, async () => {
    {
      await using scene = new FallbackScene({
        acceptProxyProtocol: [parseCidr("127.0.0.1/32")],
        maxCarriers: 2_000,
        maxHandshakes: 1_000,
        ...options,
      });
      await using agent = await scene.connectByUdp();
      let isOver = false;
      let served = 0;
      const serving = (async () => {
        for (; !isOver; served++) await agent.transfer(1 << 14);
      })();
      try {
        await attack(scene);
      } finally {
        isOver = true;
        await serving;
      }
      assert(served > 10, `${served} transfers`);
      assertEquals(agent.server.closeInfo, undefined);
    }
    assertNothingLive();
  });
}

/** An address of its own for each attacker. */
const addressOf = (i: number) => `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`;

const capsule = (type: number, value: Uint8Array) =>
  concat(Uint8Array.from([...encodeVarint(type), ...encodeVarint(value.length)]), value);

/** Begins many, as fast as they are accepted. Some may be refused before they know that they exist. */
async function begin<T>(count: number, one: (i: number) => Promise<T>): Promise<T[]> {
  const all: T[] = [];
  for (let i = 0; i < count; i += 50) {
    const some = Array.from({ length: Math.min(50, count - i) }, (_, j) => one(i + j));
    const settled = await Promise.allSettled(some);
    all.push(...settled.flatMap((each) => each.status === "fulfilled" ? each.value : []));
  }
  return all;
}

/** Of so many attackers, all are gone within the time that a handshake may take. */
const timeoutMs = 3_000;

attackTest(
  "FallbackListener keeps agents that come while 1 000 connections say nothing",
  { handshakeTimeoutMs: timeoutMs },
  async (scene) => {
    const since = performance.now();
    const half = 500;
    const silent = await begin(half, (i) => scene.stranger(addressOf(i)));
    const secure = await begin(half, (i) => scene.stranger(addressOf(half + i), "tls"));
    await sleep(1_000);
    // There is no room: it takes the place of the oldest.
    await using agent = await scene.connect({ from: "192.0.2.1" });
    await agent.transfer(1 << 20);
    const all = [...silent, ...secure];
    await Promise.all(all.map((stranger) => stranger.ended()));
    assertLess(performance.now() - since, timeoutMs + 6_000);
    await eventually("the others are gone", () => scene.listener.strangers === 0);
    assertEquals(scene.listener.carriers, 1);
    assertLess(scene.lines.length, 100);
  },
);

attackTest(
  "FallbackListener gives one address no more than half of what there is",
  { maxHandshakes: 100, handshakeTimeoutMs: timeoutMs },
  async (scene) => {
    const strangers = await begin(200, () => scene.stranger("10.0.0.1"));
    await eventually("half", () => scene.listener.strangers === 50);
    await using agent = await scene.connect({ from: "192.0.2.1" });
    await agent.transfer(1 << 20);
    await Promise.all(strangers.map((stranger) => stranger.ended()));
    // All addresses of a network count as one.
    const more = await begin(80, (i) => scene.stranger(`2001:db8::${i + 1}`));
    await eventually("half again", () => scene.listener.strangers === 50);
    await Promise.all(more.map((stranger) => stranger.ended()));
  },
);

attackBoth(
  "FallbackListener ends carriers with bytes that are no capsules, or too long ones",
  {},
  async (scene) => {
    const huge = new Uint8Array(8).fill(0xff);
    const attacks: Record<string, [bytes: Uint8Array, refusal: RegExp]> = {
      giant: [concat(Uint8Array.of(0), huge), /a datagram of \d+ bytes/],
      unknown: [concat(Uint8Array.of(0x21), huge), /a capsule of type 0x21/],
      empty: [capsule(0, new Uint8Array()), /no context id/],
      noise: [new Uint8Array(1 << 20).fill(0xff), /capsule/],
    };
    for (const [name, [bytes, refusal]] of Object.entries(attacks)) {
      const stranger = await scene.stranger("10.0.0.1", "carrier");
      await stranger.send(bytes).catch(() => {});
      await soon(name, stranger.ended());
      await scene.line(refusal);
    }
    for (let i = 0; i < 20; i++) {
      const stranger = await scene.stranger(addressOf(i), "carrier");
      await stranger.send(randomBytes(60_000)).catch(() => {});
      stranger.leave();
    }
    await eventually("they are gone", () => scene.listener.strangers === 0);
  },
);

attackTest(
  "FallbackListener skips capsules of other types and datagrams of other contexts",
  { handshakeTimeoutMs: timeoutMs },
  async (scene) => {
    const nobody = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    const path = `/.well-known/masque/udp/127.0.0.1/${(nobody.addr as Deno.NetAddr).port}/`;
    const stranger = await scene.stranger("10.0.0.1", "carrier", path);
    const { received } = scene.endpoint.stats;
    const datagram = (context: number, value: Uint8Array) =>
      capsule(0, concat(Uint8Array.from(encodeVarint(context)), value));
    for (let i = 0; i < 50; i++) {
      await stranger.send(capsule(0x1f + i, randomBytes(400)));
      await stranger.send(datagram(2 + i, randomBytes(400)));
      await stranger.send(datagram(0, randomBytes(400)));
    }
    await eventually("datagrams have come", () => scene.endpoint.stats.received >= received + 50);
    const got = nobody.receive();
    assertEquals(await Promise.race([got, sleep(300)]), undefined);
    await within(timeoutMs + 2_000, "its end", stranger.ended());
    nobody.close();
    await got.catch(() => {});
  },
);

attackBoth(
  "FallbackListener ends carriers that bring more than a handshake takes, and no agent",
  {},
  async (scene) => {
    const kinds = [
      capsule(0, Uint8Array.of(0)),
      capsule(0, Uint8Array.of(5)),
      Uint8Array.of(0x21, 0),
    ];
    for (const [i, each] of kinds.entries()) {
      const stranger = await scene.stranger(addressOf(i), "carrier");
      const { received } = scene.endpoint.stats;
      const many = concat(...Array<Uint8Array>(1_000).fill(each));
      const flooding = (async () => {
        for (;;) await stranger.send(many);
      })();
      await Promise.all([soon("its end", stranger.ended()), flooding.catch(() => {})]);
      assertLess(scene.endpoint.stats.received - received, 100_000);
    }
    await scene.line(/more than \d+ bytes/);
    await using agent = await scene.connect({ from: "192.0.2.1" });
    await agent.transfer(1 << 20);
  },
);

attackBoth(
  "FallbackListener ends requests that creep on byte by byte, or have no end",
  { handshakeTimeoutMs: 1_000 },
  async (scene) => {
    const slow = await begin(100, (i) => scene.stranger(addressOf(i), "tls"));
    const creep = async (i: number) => {
      for (const byte of utf8.encode(UPGRADE)) {
        await slow[i]!.send(Uint8Array.of(byte));
        await sleep(40);
      }
    };
    const creeping = slow.map((_, i) => creep(i).catch(() => {}));
    const endless = await scene.stranger("10.9.9.9", "tls");
    await endless.send(utf8.encode(`GET / HTTP/1.1\r\nA: ${"a".repeat(20_000)}`));
    assertMatch(await endless.ended(), /^HTTP\/1\.1 431 /);
    await Promise.all([...slow.map((stranger) => stranger.ended()), ...creeping]);
    assertEquals(scene.listener.strangers, 0);
  },
);

attackTest(
  "FallbackListener and QUIC bound thousands of handshakes that nobody completes",
  { handshakeTimeoutMs: timeoutMs },
  async (scene) => {
    const carriers = await begin(40, (i) => scene.stranger(addressOf(i), "carrier"));
    for (let round = 0; round < 50; round++) {
      for (const stranger of carriers) {
        const initial = new InitialForger().next(cryptoFrame(0, Uint8Array.of(1, 0, 1, 0)));
        // On a busy machine, its time may be over before.
        await stranger.send(capsule(0, concat(Uint8Array.of(0), initial))).catch(() => {});
      }
    }
    await eventually("they have come", () => scene.endpoint.stats.halfOpen > 90);
    assert(scene.endpoint.stats.halfOpen <= 1_000);
    await using agent = await scene.connect({ from: "192.0.2.1" });
    await agent.transfer(1 << 20);
    await Promise.all(carriers.map((stranger) => stranger.ended()));
  },
);

attackBoth(
  "FallbackListener holds a bounded number of bytes for an agent that stops reading",
  {},
  async (scene) => {
    await using relay = scene.relay(headerOf("192.0.2.1"));
    await using agent = await scene.connect({ port: relay.port });
    const stream = agent.server.openStream();
    const bytes = new Uint8Array(64 << 10);
    let written = 0;
    relay.stop();
    const writing = (async () => {
      for (;;) written += await stream.write(bytes);
    })();
    const error = await within(15_000, "the end", writing.catch((error) => error));
    assertMatch(`${error}`, /no packet from the peer|no answer|idle/);
    assertLess(written, 16 << 20);
  },
);

attackTest(
  "QuicConnection does not follow packets of an agent that others send through their carriers",
  {},
  async (scene) => {
    const peer = { hostname: "127.0.0.1", port: scene.endpoint.addr.port };
    await using relay = new UdpRelay(peer, { capture: 500 });
    await using agent = await scene.connectByUdp(relay.addr);
    const { port, socket } = agent.server.remoteAddr;
    const stranger = await scene.stranger("10.0.0.1", "carrier");
    await agent.transfer(1 << 20, async () => {
      for (let i = 0; i < 20; i++) {
        for (const packet of relay.captured.slice(-20)) {
          await stranger.send(capsule(0, concat(Uint8Array.of(0), packet)));
        }
        await sleep(20);
      }
    });
    await agent.transfer(1 << 20);
    assertEquals([agent.server.remoteAddr.port, agent.server.isCarried], [port, false]);
    assertEquals(agent.server.remoteAddr.socket, socket);
    assertEquals(scene.endpoint.carriersInUse.size, 0);
    stranger.leave();
  },
);
