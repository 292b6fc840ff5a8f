// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { CloseCode } from "../../lib/qrht/codes.ts";
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import fc from "fast-check";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { Control, type ControlConnection } from "../../lib/qrht/control.ts";
import { encodeFrame, FrameParser, FrameType, ProtocolError } from "../../lib/qrht/frame.ts";
import {
  decodeHello,
  decodePong,
  encodeHello,
  encodePong,
  type Hello,
} from "../../lib/qrht/messages.ts";
import { eventually } from "../support/eventually.ts";
import {
  carrierPair,
  cut,
  type MemoryCarrier,
  ScriptedCarrier,
} from "../support/memory_carrier.ts";
import { pureTest as test, settled } from "../support/pure_test.ts";

const empty = new Uint8Array(0);

type Event =
  | { readonly hello: Hello }
  | "drain"
  | { readonly violated: string }
  | { readonly closed: number; readonly reason: string };

/** A connection whose peer is the test. */
class FakeConnection implements ControlConnection {
  /** What has happened, in order. */
  readonly events: Event[] = [];
  /** Far ends of the streams that were opened by this end. */
  readonly opened: MemoryCarrier[] = [];
  streamCount = 0;
  /** Whether its QUIC tells what arrives, and nothing needs to be asked. */
  path?: NonNullable<ControlConnection["path"]> = {
    largestReceived: 0,
    onLargerReceived: undefined,
    allowProbes: () => {},
    confirmed: () => {},
  };
  heartbeat?: NonNullable<ControlConnection["heartbeat"]>;
  readonly #queue: Pick<MemoryCarrier, "read">[] = [];
  #changed = Promise.withResolvers<void>();
  #hasEnded = false;

  /** @param capacity bytes that a stream of this end's holds when nobody reads them, or that there is no credit */
  constructor(readonly capacity: number | "no credit" = 64 << 10) {}

  /** Resolves when the peer has violated the dialect. */
  readonly violated = Promise.withResolvers<void>();

  /** The dialect on this connection. */
  control(hello: Omit<Hello, "features"> = { program: "this-end" }): Control {
    return new Control(this, hello, {
      hello: (hello) => void this.events.push({ hello }),
      drain: () => void this.events.push("drain"),
      violated: (error) => {
        assertInstanceOf(error, ProtocolError);
        this.events.push({ violated: error.message });
        this.violated.resolve();
      },
    });
  }

  openUniStream(): MemoryCarrier | undefined {
    if (this.capacity === "no credit") return undefined;
    const [near, far] = carrierPair({ capacity: this.capacity });
    this.opened.push(far);
    return near;
  }

  async acceptUniStream(): Promise<Pick<MemoryCarrier, "read">> {
    for (;;) {
      if (this.#hasEnded) throw new Error("the connection has ended");
      const stream = this.#queue.shift();
      if (stream) return stream;
      await this.#changed.promise;
    }
  }

  close(code: number, reason: string): void {
    this.events.push({ closed: code, reason });
    this.end();
  }

  /** The connection ends. */
  end(): void {
    this.#hasEnded = true;
    this.#change();
  }

  /** The peer opens a stream: its end and this one's. */
  peerOpens(): [far: MemoryCarrier, near: MemoryCarrier] {
    const [far, near] = carrierPair();
    this.peerOffers(near);
    return [far, near];
  }

  peerOffers(stream: Pick<MemoryCarrier, "read">): void {
    this.#queue.push(stream);
    this.#change();
  }

  /** Frames that this end has sent on its control stream, which the peer keeps reading. */
  listen(): { readonly type: number; readonly payload: Uint8Array }[] {
    const frames: { type: number; payload: Uint8Array }[] = [];
    const parser = new FrameParser(FrameType.Hello);
    const buffer = new Uint8Array(10);
    const run = async () => {
      const [far] = this.opened;
      for (let n; (n = await far!.read(buffer)) !== null;) {
        for (let at = 0; at < n;) {
          const { event, taken } = parser.next(buffer.subarray(at, n));
          at += taken;
          if (event?.kind === "frame") frames.push(event);
        }
      }
    };
    run().catch(() => {});
    return frames;
  }

  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

const hello = (hello: Partial<Hello> = {}) =>
  encodeFrame(FrameType.Hello, encodeHello({ features: ["drain"], ...hello }));
const DRAIN = encodeFrame(FrameType.Drain, empty);
const HELLO_EVENT: Event = { hello: { features: ["drain"] } };

test("Control sends HELLO first, on one stream that it keeps open", async () => {
  const connection = new FakeConnection();
  connection.control({ program: "proxy-agent", version: "1.2.3", name: "a" });
  const frames = connection.listen();
  await eventually("HELLO has come", () => frames.length === 1);
  await settled();
  assertEquals(connection.opened.length, 1);
  assertEquals(frames.length, 1);
  assertEquals(frames[0]!.type, FrameType.Hello);
  assertEquals(decodeHello(frames[0]!.payload), {
    program: "proxy-agent",
    version: "1.2.3",
    name: "a",
    features: ["drain", "arrived", "ping"],
  });
  assertEquals(connection.events, []);
  connection.end();
});

test("Control tells what the peer says, once, however it is cut", async () => {
  const said = { program: "proxy-server", version: "9", name: "s", features: ["x", "drain"] };
  const wire = [
    ...hello(said),
    ...encodeFrame(0x3f, new Uint8Array(100)),
    ...DRAIN,
    ...DRAIN,
  ];
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 30 })), async (sizes) => {
      const connection = new FakeConnection();
      connection.control();
      const stream = new ScriptedCarrier(cut(Uint8Array.from(wire), sizes));
      connection.peerOffers(stream);
      await stream.drained;
      assertEquals(connection.events, [{ hello: said }, "drain"]);
      assertEquals(stream.codes, [undefined, undefined]);
      connection.end();
    }),
    { numRuns: 50 },
  );
});

test("Control.drain() comes after HELLO also when it is called at once", async () => {
  // The peer's HELLO is there before this end has had room for its own.
  const connection = new FakeConnection(5);
  const [far] = connection.peerOpens();
  await writeAll(far, hello());
  const control = connection.control();
  control.drain();
  await eventually("the peer's HELLO has come", () => connection.events.length === 1);
  const frames = connection.listen();
  await eventually("both have come", () => frames.length === 2);
  assertEquals(frames.map(({ type }) => type), [FrameType.Hello, FrameType.Drain]);
  connection.end();
});

test("Control.drain() is sent when the peer has named the feature, before or after it, and only then", async () => {
  for (const features of [["drain"], [], ["DRAIN"], ["drai", "drain2", "undrain"]]) {
    for (const early of [true, false]) {
      const connection = new FakeConnection();
      const control = connection.control();
      const frames = connection.listen();
      if (early) control.drain();
      await settled();
      assertEquals(frames.map(({ type }) => type), [FrameType.Hello]);
      const [far] = connection.peerOpens();
      await writeAll(far, hello({ features }));
      await eventually("the peer's HELLO has come", () => connection.events.length === 1);
      if (!early) control.drain();
      await settled();
      const sent = frames.slice(1).map(({ type, payload }) => [type, payload]);
      assertEquals(sent, features[0] === "drain" ? [[FrameType.Drain, empty]] : []);
      connection.end();
    }
  }
});

test("Control goes without its own stream where the peer gives no credit for one", async () => {
  const connection = new FakeConnection("no credit");
  const control = connection.control();
  const [far] = connection.peerOpens();
  await writeAll(far, Uint8Array.of(...hello(), ...DRAIN));
  await eventually("the peer was heard", () => connection.events.length === 2);
  control.drain();
  await settled();
  assertEquals(connection.events, [HELLO_EVENT, "drain"]);
  assertEquals(connection.opened, []);
  connection.end();
});

test("Control lives on a connection that has ended already", async () => {
  const connection = new FakeConnection();
  connection.end();
  connection.openUniStream = () => {
    throw new Error("the connection has ended");
  };
  connection.control().drain();
  await settled();
  assertEquals(connection.events, []);
});

test("Control takes it that the peer does not listen to it", async () => {
  const connection = new FakeConnection(5);
  const control = connection.control();
  connection.opened[0]!.stop(0);
  const [far] = connection.peerOpens();
  await writeAll(far, hello());
  await eventually("the peer's HELLO has come", () => connection.events.length === 1);
  control.drain();
  await writeAll(far, DRAIN);
  await eventually("the peer's DRAIN has come", () => connection.events.length === 2);
  connection.end();
});

test("Control takes it that the peer ends its stream, or resets it", async () => {
  for (const end of ["closeWrite", "abort"] as const) {
    for (const said of [empty, hello(), hello().subarray(0, 3)]) {
      const connection = new FakeConnection();
      const control = connection.control();
      const frames = connection.listen();
      const [far] = connection.peerOpens();
      await writeAll(far, said);
      await settled();
      await far[end]();
      await settled();
      // Whether or not it was heard what it can do, this end goes on.
      const heard = said.length === hello().length;
      assertEquals(connection.events, heard ? [HELLO_EVENT] : []);
      control.drain();
      await settled();
      assertEquals(frames.length, heard ? 2 : 1);
      // A second stream does not take the place of the first one.
      const [second] = connection.peerOpens();
      await writeAll(second, hello({ name: "another" }));
      await settled();
      assertEquals(connection.events, heard ? [HELLO_EVENT] : []);
      connection.end();
    }
  }
});

test("Control reads further unidirectional streams away, whatever is on them", async () => {
  const connection = new FakeConnection();
  connection.control();
  const [far] = connection.peerOpens();
  const others = Array.from({ length: 5 }, () => connection.peerOpens());
  // More than is under way at most: somebody has to read it.
  const flood = new Uint8Array(200_000);
  await Promise.all(others.map(async ([far], i) => {
    await writeAll(far, hello({ name: "another" }));
    await writeAll(far, flood);
    if (i === 0) far.reset(1);
    if (i === 1) await far.closeWrite();
  }));
  await writeAll(far, hello());
  await eventually("the first was heard", () => connection.events.length === 1);
  // Also such as come later, and after others have failed.
  const [later] = connection.peerOpens();
  await writeAll(later, flood);
  await writeAll(far, DRAIN);
  await eventually("the first was heard again", () => connection.events.length === 2);
  assertEquals(connection.events, [HELLO_EVENT, "drain"]);
  for (const [, near] of others) assertEquals(near.codes, [undefined, undefined]);
  connection.end();
});

const afterHello = (type: number, ...payload: number[]) =>
  Uint8Array.of(...hello(), ...encodeFrame(type, Uint8Array.from(payload)));

const nonsense: readonly [what: string, wire: Uint8Array, problem: string][] = [
  ["a second HELLO", Uint8Array.of(...hello(), ...hello()), "HELLO twice"],
  ["garbage", new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"), "first frame"],
  ["DATA without bytes", afterHello(FrameType.Data), "DATA on a control stream"],
  ["OPEN", afterHello(FrameType.Open), "a frame of type 2 on a control stream"],
  ["END", afterHello(FrameType.End), "a frame of type 1 on a control stream"],
  ["an empty HELLO", encodeFrame(FrameType.Hello, empty), "HELLO ends too early"],
  ["DRAIN that ends within a field", afterHello(FrameType.Drain, 1), "DRAIN ends too early"],
];

for (const [what, wire, problem] of nonsense) {
  test(`Control closes the connection with code 101 when the peer sends ${what}`, async () => {
    for (const sizes of [[], Array<number>(wire.length).fill(1)]) {
      const connection = new FakeConnection();
      const control = connection.control();
      // What comes behind it is not looked at.
      const chunks = [...cut(wire, sizes), DRAIN, hello(), DRAIN];
      connection.peerOffers(new ScriptedCarrier(chunks));
      await eventually(
        "it was told",
        () => connection.events.some((event) => event !== "drain" && "violated" in event),
      );
      await settled();
      control.drain();
      const [closed, violated] = connection.events.slice(-2);
      assert(typeof closed === "object" && "closed" in closed);
      assertEquals(closed.closed, CloseCode.ProtocolError);
      assert(closed.reason.includes(problem), closed.reason);
      assertEquals(violated, { violated: closed.reason });
      const before = connection.events.slice(0, -2);
      assertEquals(before, wire.length > hello().length && wire[0] === 0x10 ? [HELLO_EVENT] : []);
    }
  });
}

test("Control closes the connection once at most, whatever the peer sends", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 60 }),
      fc.boolean(),
      fc.array(fc.integer({ min: 1, max: 20 })),
      async (bytes, afterHello, sizes) => {
        const connection = new FakeConnection();
        connection.control();
        const wire = afterHello ? Uint8Array.of(...hello(), ...bytes) : bytes;
        const stream = new ScriptedCarrier(cut(wire, sizes));
        connection.peerOffers(stream);
        await Promise.race([stream.drained, connection.violated.promise]);
        await settled();
        const count = (what: string) =>
          connection.events.filter((event) => event !== "drain" && what in event).length;
        assert(count("closed") <= 1 && count("hello") <= 1);
        assertEquals(count("violated"), count("closed"));
        connection.end();
      },
    ),
    { numRuns: 60 },
  );
});

const PING = encodeFrame(FrameType.Ping, empty);

test("Control does not list ARRIVED where the connection does not tell what arrives", async () => {
  const connection = new FakeConnection();
  delete connection.path;
  connection.control();
  const frames = connection.listen();
  await eventually("HELLO has come", () => frames.length === 1);
  assertEquals(decodeHello(frames[0]!.payload).features, ["drain", "ping"]);
  connection.end();
});

test("Control answers PING with the streams that are open when it does, once for those that wait", async () => {
  // There is no room for an answer before somebody listens.
  const connection = new FakeConnection(5);
  const [far] = connection.peerOpens();
  connection.control();
  connection.streamCount = 1;
  await writeAll(far, Uint8Array.from([...hello(), ...PING, ...PING, ...PING]));
  await eventually("the peer's HELLO has come", () => connection.events.length === 1);
  await settled();
  connection.streamCount = 7;
  const frames = connection.listen();
  await eventually("HELLO and an answer have come", () => frames.length === 2);
  await writeAll(far, PING);
  await eventually("the next answer has come", () => frames.length === 3);
  assertEquals(frames.slice(1).map(({ type }) => type), [FrameType.Pong, FrameType.Pong]);
  assertEquals(frames.slice(1).map(({ payload }) => decodePong(payload)), [7, 7]);
  connection.end();
});

for (const features of [["drain"], ["drain", "ping"]]) {
  const asks = features.includes("ping");
  test(`Control ${asks ? "lets" : "does not let"} a heartbeat ask a peer with ${features}`, async () => {
    const connection = new FakeConnection();
    const answers: number[] = [];
    let ask: (() => void) | undefined;
    connection.heartbeat = {
      start: (how) => ask = how,
      answered: (streams) => answers.push(streams),
    };
    const [far] = connection.peerOpens();
    connection.control();
    await writeAll(far, hello({ features }));
    await eventually("the peer's HELLO has come", () => connection.events.length === 1);
    assertEquals(ask !== undefined, asks);
    if (ask) {
      ask();
      const frames = connection.listen();
      await eventually("PING has come", () => frames.length === 2);
      assertEquals(frames[1]!.type, FrameType.Ping);
      await writeAll(far, encodeFrame(FrameType.Pong, encodePong(3)));
      await eventually("the answer has come", () => answers.length === 1);
      assertEquals(answers, [3]);
    }
    connection.end();
  });
}
