// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Datagram sockets over carriers, and over one carrier after the other. */

import { setImmediate } from "node:timers";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { CapsuleError } from "../../lib/connect_udp/capsule.ts";
import {
  type Carrier,
  CarrierEndedError,
  CarrierSocket,
} from "../../lib/connect_udp/carrier_socket.ts";
import { RedialingSocket, type RedialOptions } from "../../lib/connect_udp/redialing_socket.ts";
import type { DatagramEvents, DatagramSocket } from "../../lib/quic/mod.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { FakeTime } from "../support/fake_time.ts";
import { memoryPair, readToEnd } from "../support/memory_duplex.ts";
import { soon } from "../support/network.ts";
import { pureTest, settled } from "../support/pure_test.ts";
import { tcpPair } from "../support/tcp_pair.ts";

/** Lets timers and other work have their turn. */
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

const localAddr = { hostname: "192.0.2.2", port: 1000 };
const remoteAddr = { hostname: "192.0.2.1", port: 443 };

const carrierOf = (duplex: Duplex, maxDatagramBytes: number | undefined = 16_376): Carrier => ({
  duplex,
  localAddr,
  remoteAddr,
  maxDatagramBytes,
});

/** Keeps what a socket reports. */
class Events implements DatagramEvents {
  readonly got: Uint8Array[] = [];
  readonly told: string[] = [];
  error: unknown;

  datagram(bytes: Uint8Array, from: unknown): void {
    assertEquals(from, remoteAddr);
    this.got.push(bytes.slice());
  }
  sendError(): void {}
  refused(): void {}
  writable(): void {
    this.told.push("writable");
  }
  replaced(): void {
    this.told.push("replaced");
  }
  lost(error: unknown): void {
    this.told.push("lost");
    this.error = error;
  }
}

/** Sends a datagram if there is room. */
function send(socket: DatagramSocket, bytes: Uint8Array): boolean {
  const place = socket.reserve(bytes.length);
  if (!place) return false;
  place.set(bytes);
  socket.commit(bytes.length, remoteAddr);
  socket.flush();
  return true;
}

function open(duplex: Duplex): { socket: CarrierSocket; events: Events } {
  const events = new Events();
  return { socket: new CarrierSocket(carrierOf(duplex), events), events };
}

pureTest("CarrierSocket carries datagrams both ways, in order", async () => {
  const [a, b] = memoryPair({ capacity: 1_000 }).map(open);
  const sent = Array.from({ length: 200 }, (_, i) => pattern((i * 997) % 16_376 + 1));
  for (const [from, to] of [[a!, b!], [b!, a!]] as const) {
    for (const bytes of sent) while (!send(from.socket, bytes)) await turn();
    while (to.events.got.length < sent.length) await turn();
    assertEquals(to.events.got, sent);
    assertEquals([from.socket.datagrams.sent, to.socket.datagrams.received], [200, 200]);
  }
  assertEquals([a!.socket.addr, a!.socket.maxDatagramBytes()], [localAddr, 16_376]);
  await Promise.all([a!.socket.close(), b!.socket.close()]);
  assertEquals(a!.events.told.concat(b!.events.told).includes("lost"), false);
});

pureTest(
  "CarrierSocket holds at most 256 KiB for a peer that does not read, and goes on",
  async () => {
    const [end, peer] = memoryPair();
    const { socket, events } = open(end);
    let sent = 0;
    // Once more for what the connection itself holds.
    for (let i = 0; i < 2; i++) {
      while (send(socket, pattern(16_376))) sent++;
      await settled();
    }
    assert(sent >= 16 && sent <= 20, `${sent}`);
    assertEquals([send(socket, pattern(16_376)), events.told], [false, []]);
    const reading = readToEnd(peer).catch(() => {});
    await eventually("room", () => events.told.length === 1);
    assertEquals(events.told, ["writable"]);
    await peer.closeWrite();
    await eventually("the end", () => events.error !== undefined);
    await reading;
  },
);

pureTest("CarrierSocket sends what was committed before it is closed", async () => {
  const [end, peer] = memoryPair({ capacity: 100 });
  const { socket, events } = open(end);
  send(socket, pattern(5_000));
  const closing = socket.close();
  assertEquals(socket.reserve(1), undefined);
  assertEquals((await readToEnd(peer)).length, 5_004);
  await peer.closeWrite();
  await closing;
  assertEquals([await socket.closed, events.told], [undefined, []]);
  await socket.close();
});

Deno.test("CarrierSocket lets others have their turn while bytes come without end", async () => {
  const endless: Duplex = {
    read: (buffer) => Promise.resolve(buffer.fill(0x21).length),
    write: (bytes) => Promise.resolve(bytes.length),
    closeWrite: () => Promise.resolve(),
    abort() {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const { socket } = open(endless);
  await new Promise((resolve) => setTimeout(resolve, 20));
  endless.read = () => Promise.resolve(null);
  await socket.closed;
  await socket.close();
});

Deno.test("CarrierSocket closes a carrier that stalls, after a short time", async () => {
  const [end, peer] = memoryPair();
  const { socket } = open(end);
  while (send(socket, pattern(16_376)));
  const since = performance.now();
  await soon("its end", socket.close());
  assert(performance.now() - since < 2_000);
  peer.abort();
});

const capsule = (...bytes: number[]) => Uint8Array.from(bytes);
const endings: [bytes: Uint8Array, end: "closeWrite" | "abort", error: RegExp][] = [
  [capsule(), "closeWrite", /^CarrierEndedError: the peer has ended the carrier$/],
  [capsule(0, 9), "closeWrite", /^CarrierEndedError: .* ended the carrier within a capsule$/],
  [capsule(9, 9), "closeWrite", /^CarrierEndedError: .* ended the carrier within a capsule$/],
  [capsule(0, 9), "abort", /reset/],
];

pureTest("CarrierSocket tells why it was lost, and is closed", async () => {
  for (const [bytes, end, message] of endings) {
    const [own, peer] = memoryPair();
    const { socket, events } = open(own);
    await peer.write(capsule(0, 2, 0, 7));
    await peer.write(bytes);
    await settled();
    await peer[end]();
    const error = await soon("the end", socket.closed);
    assertMatch(`${error}`, message);
    assertEquals([events.told, events.error], [["lost"], error]);
    assertEquals(events.got, [capsule(7)]);
    assertEquals(send(socket, capsule(1)), false);
    // A memory's write shows that the end was passed on.
    if (end === "closeWrite") {
      assert(error instanceof CarrierEndedError);
      assertMatch(
        `${await Promise.try(() => peer.read(new Uint8Array(1))).catch((error) => error)}`,
        /reset/,
      );
    }
    await socket.close();
    assertEquals(events.told, ["lost"]);
  }
});

pureTest(
  "CarrierSocket ends a carrier that brings no capsules, and counts foreign ones",
  async () => {
    const [own, peer] = memoryPair();
    const { socket, events } = open(own);
    await peer.write(capsule(5, 2, 1, 1, 0, 2, 2, 9, 0, 2, 0, 7));
    await settled();
    assertEquals([events.got, socket.skipped], [[capsule(7)], { types: 1, contexts: 1, long: 0 }]);
    await peer.write(capsule(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff));
    await Promise.try(() => peer.write(new Uint8Array(20).fill(0xff))).catch(() => {});
    const error = await soon("the end", socket.closed);
    assert(error instanceof CapsuleError);
    assertMatch(error.message, /^a capsule of type 0x[0-9a-f]+ has \d+ bytes, more than 1048576$/);
  },
);

Deno.test("CarrierSocket notices a reset within a capsule, of TCP", async () => {
  const [own, peer] = (await tcpPair()).map((connection) => tcpDuplex(connection));
  const { socket, events } = open(own!);
  await peer!.write(capsule(0, 0x7f, 0xff, 0));
  peer!.abort();
  const error = await soon("the end", socket.closed);
  assertMatch(`${error}`, /reset|within a capsule/);
  assertEquals(events.told, ["lost"]);
  await socket.close();
});

/** A redialling socket in memory, whose dials end as a test says. */
class Redialling {
  readonly events = new Events();
  readonly dials: PromiseWithResolvers<Carrier>[] = [];
  readonly signals: AbortSignal[] = [];
  readonly broken: unknown[] = [];
  readonly socket: RedialingSocket;
  #peer: Duplex;

  constructor(options: Partial<RedialOptions> = {}) {
    const [own, peer] = memoryPair();
    this.#peer = peer;
    this.socket = new RedialingSocket(carrierOf(own), {
      peer: remoteAddr,
      dial: (signal) => {
        const dial = Promise.withResolvers<Carrier>();
        signal.addEventListener("abort", () => dial.reject(signal.reason));
        this.dials.push(dial);
        this.signals.push(signal);
        return dial.promise;
      },
      broken: (error) => this.broken.push(error),
      ...options,
    }, this.events);
  }

  /** The peer ends the carrier. */
  async cut(): Promise<void> {
    this.#peer.abort();
    await settled();
  }

  /** Ends the last dial with a carrier. */
  async connect(maxDatagramBytes?: number): Promise<Duplex> {
    const [own, peer] = memoryPair();
    this.#peer = peer;
    this.dials.at(-1)!.resolve(carrierOf(own, maxDatagramBytes ?? 16_376));
    await settled();
    return peer;
  }
}

pureTest("RedialingSocket dials at once when its carrier is lost, and goes on", async () => {
  const redialling = new Redialling();
  const { socket, events, dials, broken } = redialling;
  assert(send(socket, pattern(10)));
  await redialling.cut();
  assertEquals([dials.length, broken.length, socket.isUp], [1, 1, false]);
  assertEquals([send(socket, pattern(20)), events.told], [false, []]);
  const peer = await redialling.connect();
  assertEquals([events.told, socket.isUp], [["replaced", "writable"], true]);
  assert(send(socket, pattern(20)));
  await peer.write(capsule(0, 2, 0, 7));
  await settled();
  assertEquals(events.got, [capsule(7)]);
  assertEquals(await peer.read(new Uint8Array(100)), 24);
  await redialling.cut();
  await eventually("the second dial", () => dials.length === 2);
  await redialling.connect();
  // Nobody had asked for room.
  assertEquals([dials.length, events.told], [2, ["replaced", "writable", "replaced"]]);
  await redialling.cut();
  await socket.close();
});

Deno.test("RedialingSocket pauses between dials that fail, and gives up in its time", async () => {
  using time = new FakeTime();
  const redialling = new Redialling({ giveUpMs: 2_000 });
  const { socket, events, dials } = redialling;
  await redialling.cut();
  for (let i = 0; i < 40 && events.told.length === 0; i++) {
    const { length } = dials;
    dials.at(-1)!.reject(new Error(`dial ${length}`));
    await time.pass(100);
    // One at a time, not one after the other without a pause.
    assert(dials.length <= length + 2, `${dials.length}`);
  }
  assertEquals(events.told, ["lost"]);
  assert(dials.length >= 4 && dials.length <= 25, `${dials.length} dials`);
  assertMatch(`${events.error}`, /^Error: dial \d+$/);
  assertEquals([send(socket, pattern(10)), time.pending], [false, 0]);
  await socket.close();
});

Deno.test("RedialingSocket ends a dial that hangs when its time is over", async () => {
  using time = new FakeTime();
  const redialling = new Redialling({ giveUpMs: 2_000 });
  const { events, dials, signals, broken } = redialling;
  await redialling.cut();
  await time.pass(1_999);
  assertEquals([dials.length, events.told], [1, []]);
  await time.pass(2);
  assertEquals([signals[0]!.aborted, events.told, events.error], [true, ["lost"], broken[0]]);
});

Deno.test("RedialingSocket gives up carriers none of which lasts", async () => {
  using time = new FakeTime();
  const redialling = new Redialling({ giveUpMs: 2_000 });
  const { events, dials, broken } = redialling;
  await time.pass(10_000);
  for (let i = 0; i < 100 && !events.told.includes("lost"); i++) {
    await redialling.cut();
    while (dials.length < i + 1 && !events.told.includes("lost")) await time.pass(50);
    if (dials.length === i + 1) await redialling.connect();
  }
  assertEquals(events.told.at(-1), "lost");
  assert(dials.length >= 4 && dials.length < 30, `${dials.length} dials`);
  assertEquals(events.error, broken.at(-1));
});

Deno.test("RedialingSocket takes a break for a new one after a carrier that has lasted", async () => {
  using time = new FakeTime();
  const redialling = new Redialling({ giveUpMs: 2_000 });
  const { socket, events, dials } = redialling;
  for (let i = 1; i < 5; i++) {
    await redialling.cut();
    assertEquals(dials.length, i);
    await redialling.connect();
    await time.pass(2_500);
  }
  assertEquals(events.told, Array(4).fill("replaced"));
  await redialling.cut();
  await socket.close();
  await time.pass(0);
  assertEquals(time.pending, 0);
});

pureTest(
  "RedialingSocket refuses a carrier of another size, and one that comes too late",
  async () => {
    const other = new Redialling();
    await other.cut();
    const peer = await other.connect(1_350);
    assertEquals(other.events.told, ["lost"]);
    assertMatch(`${other.events.error}`, /carries datagrams of another size/);
    assertMatch(
      `${await Promise.try(() => peer.read(new Uint8Array(1))).catch((error) => error)}`,
      /reset/,
    );

    const { promise, resolve } = Promise.withResolvers<Carrier>();
    const late = new Redialling({ dial: () => promise });
    await late.cut();
    const closing = late.socket.close();
    const [own, end] = memoryPair();
    resolve(carrierOf(own));
    await closing;
    assertMatch(
      `${await Promise.try(() => end.read(new Uint8Array(1))).catch((error) => error)}`,
      /reset/,
    );
    assertEquals(late.events.told, []);
  },
);
