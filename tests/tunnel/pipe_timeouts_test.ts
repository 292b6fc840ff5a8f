// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Time and races in pipeDuplex(), by a clock of the tests' own. */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLessOrEqual,
  assertRejects,
} from "@std/assert";
import fc from "fast-check";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import {
  ABANDONED_MS,
  pipeDuplex,
  type PipeOptions,
  type PipeResult,
  type PipeUnderWay,
  type TunnelTimeouts,
} from "../../lib/tunnel/pipe.ts";
import { encodeFrame, FrameType } from "../../lib/qrht/frame.ts";
import { encodeResult } from "../../lib/qrht/messages.ts";
import { TunnelStream } from "../../lib/qrht/tunnel_stream.ts";
import { RetryingTunnel } from "../../lib/server/retrying_tunnel.ts";
import type { OutgoingTunnel } from "../../lib/qrht/tunnel.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { FakeTime } from "../support/fake_time.ts";
import { carrierPair } from "../support/memory_carrier.ts";
import {
  type MemoryDuplex,
  MemoryDuplexError,
  memoryPair,
  type MemoryPairOptions,
  readExactly,
  readToEnd,
} from "../support/memory_duplex.ts";

const HOUR_MS = 3_600_000;
const sides = ["a", "b"] as const;
const other = { a: "b", b: "a" } as const;

function test(name: string, fn: (time: FakeTime) => Promise<void>): void {
  Deno.test({
    name: `pipeDuplex() ${name}`,
    permissions: "none",
    async fn() {
      using time = new FakeTime();
      await fn(time);
      assertEquals(time.pending, 0, "timers that nobody waits for");
    },
  });
}

/** A pipe between two carriers in memory, and their far ends. */
class Piped {
  readonly far: Readonly<Record<"a" | "b", MemoryDuplex>>;
  readonly done: Promise<PipeResult>;
  pipe: PipeUnderWay | undefined;
  /** How it ended, once it has. */
  result: PipeResult | undefined;

  /** @param carriers what the carriers are like, and which one never takes an end */
  constructor(
    { connected, signal, mayBeAbandoned, ...timeouts }:
      & Pick<PipeOptions, "connected" | "signal" | "mayBeAbandoned">
      & Partial<TunnelTimeouts>,
    carriers: MemoryPairOptions & {
      stuck?: "a" | "b";
      isReset?: { readonly a?: () => boolean; readonly b?: () => boolean };
    } = {},
  ) {
    const [a, farA] = memoryPair(carriers), [b, farB] = memoryPair(carriers);
    this.far = { a: farA, b: farB };
    if (carriers.stuck) neverEnds({ a, b }[carriers.stuck]);
    Object.assign(a, carriers.isReset?.a && { isReset: carriers.isReset.a });
    Object.assign(b, carriers.isReset?.b && { isReset: carriers.isReset.b });
    const options = {
      timeouts,
      watch: (pipe: PipeUnderWay) => this.pipe = pipe,
      ...connected && { connected },
      ...signal && { signal },
      ...mayBeAbandoned && { mayBeAbandoned },
    };
    this.done = pipeDuplex(a, b, options).then((result) => this.result = result);
  }

  /** Writes from a side until that fails. */
  flood(side: "a" | "b"): void {
    const send = async () => {
      for (;;) await this.far[side].write(pattern(100));
    };
    send().catch(() => {});
  }

  /** Asserts that neither side has read an end in order. */
  async assertReset(): Promise<void> {
    for (const side of sides) {
      await assertRejects(() => readToEnd(this.far[side]), MemoryDuplexError, "reset");
    }
  }
}

async function carry(from: Duplex, to: Duplex, time: FakeTime): Promise<void> {
  await writeAll(from, Uint8Array.of(1));
  await time.settle();
  assertEquals(await readExactly(to, 1), Uint8Array.of(1));
}

test("has no timer, and no end, as long as neither side ends and no other timeout is set", async (time) => {
  const piped = new Piped({ halfOpenTimeoutMs: 1_000 });
  await carry(piped.far.a, piped.far.b, time);
  await time.pass(1_000 * HOUR_MS);
  assertEquals([piped.result, time.started], [undefined, 0]);
  await carry(piped.far.b, piped.far.a, time);
  piped.far.a.abort();
  await time.pass(100);
  assertEquals(piped.result?.reason, "error");
});

test("counts idleTimeoutMs from the last byte of either side", async (time) => {
  const piped = new Piped({ idleTimeoutMs: 1_000 });
  for (const side of ["a", "b", "b", "a", "a", "b"] as const) {
    await time.pass(999);
    await carry(piped.far[side], piped.far[other[side]], time);
  }
  await time.pass(999);
  assertEquals(piped.result, undefined);
  await time.pass(1);
  assertEquals(piped.result, { aToB: 3, bToA: 3, reason: "idle" });
  await piped.assertReset();
});

test("is aborted by abortIfSilent() after a time without a byte, unless bytes wait", async (time) => {
  const connecting = Promise.withResolvers<void>();
  const piped = new Piped({ connected: connecting.promise }, { capacity: 10 });
  await time.pass(HOUR_MS);
  piped.pipe!.abortIfSilent(100);
  connecting.resolve();
  for (const side of ["a", "b"] as const) {
    await carry(piped.far[side], piped.far[other[side]], time);
    await time.pass(99);
    piped.pipe!.abortIfSilent(100);
  }
  const sent = writeAll(piped.far.a, pattern(40));
  await time.pass(HOUR_MS);
  piped.pipe!.abortIfSilent(100);
  await readExactly(piped.far.b, 40);
  await sent;
  await time.pass(999);
  piped.pipe!.abortIfSilent(100);
  await carry(piped.far.b, piped.far.a, time);
  await time.pass(99);
  piped.pipe!.abortIfSilent(100);
  await time.settle();
  assertEquals(piped.result, undefined);
  await time.pass(1);
  piped.pipe!.abortIfSilent(100);
  await time.settle();
  assertEquals(piped.result, { aToB: 41, bToA: 2, reason: "aborted" });
  await piped.assertReset();
  piped.pipe!.abortIfSilent(0);
  assertEquals(time.started, 0);
});

test("counts bytes that nobody reads as silence, and those that one takes as none", async (time) => {
  const piped = new Piped({ idleTimeoutMs: 1_000 }, { capacity: 10 });
  piped.flood("a");
  for (let i = 0; i < 30; i++) {
    await time.pass(999);
    await readExactly(piped.far.b, 1);
  }
  await time.pass(999);
  assertEquals(piped.result, undefined);
  await time.pass(1);
  assertEquals(piped.result?.reason, "idle");
});

for (const side of sides) {
  test(`aborts both when ${side} is reset after its end, although the other goes on being silent`, async (time) => {
    let isReset = false;
    const piped = new Piped({ halfOpenTimeoutMs: HOUR_MS }, {
      isReset: { [side]: () => isReset },
    });
    await piped.far[side].closeWrite();
    await time.pass(60_000);
    assertEquals(piped.result, undefined);
    isReset = true;
    await time.pass(15_000);
    const { reason, by, error } = piped.result!;
    assertEquals([reason, by], ["error", side]);
    assertInstanceOf(error, Deno.errors.ConnectionReset);
    await assertRejects(
      async () => await writeAll(piped.far[other[side]], pattern(1)),
      MemoryDuplexError,
    );
  });
}

for (const from of sides) {
  const to = other[from];

  test(`aborts both when ${to} takes nothing of ${from} for writeTimeoutMs`, async (time) => {
    const piped = new Piped({ writeTimeoutMs: 1_000 }, { capacity: 10 });
    await time.pass(10_000);
    piped.flood(from);
    for (let i = 0; i < 30; i++) {
      await time.pass(999);
      await readExactly(piped.far[to], 1);
    }
    // What goes the other way has nothing to do with it.
    await time.pass(500);
    await carry(piped.far[to], piped.far[from], time);
    await time.pass(499);
    assertEquals(piped.result, undefined);
    await time.pass(1);
    assertEquals([piped.result?.reason, piped.result?.by], ["write-timeout", to]);
    await piped.assertReset();
  });

  test(`gives ${to} all of writeTimeoutMs when bytes of ${from} come after a long silence`, async (time) => {
    const piped = new Piped({ writeTimeoutMs: 1_000 }, { capacity: 10 });
    await piped.far[from].write(pattern(10));
    await time.pass(10_500);
    await piped.far[from].write(pattern(1));
    await time.pass(999);
    assertEquals(piped.result, undefined);
    await time.pass(1);
    assertEquals(piped.result?.reason, "write-timeout");
  });

  test(`aborts both when ${to} does not take the end of ${from} for writeTimeoutMs`, async (time) => {
    const piped = new Piped({ writeTimeoutMs: 1_000 }, { stuck: to });
    await piped.far[from].closeWrite();
    await time.pass(999);
    assertEquals(piped.result, undefined);
    await time.pass(1);
    assertEquals([piped.result?.reason, piped.result?.by], ["write-timeout", to]);
    await piped.assertReset();
  });

  test(`counts halfOpenTimeoutMs while ${to} does not take the end of ${from}`, async (time) => {
    const piped = new Piped({ halfOpenTimeoutMs: 1_000 }, { stuck: to });
    await piped.far[from].closeWrite();
    await time.pass(999);
    await carry(piped.far[to], piped.far[from], time);
    await time.pass(999);
    assertEquals(piped.result, undefined);
    await time.pass(1);
    assertEquals([piped.result?.reason, piped.result?.by], ["half-open", to]);
    await piped.assertReset();
  });

  test(`aborts both when it is told to while ${to} does not take the end of ${from}`, async (time) => {
    const stop = new AbortController();
    const piped = new Piped({ signal: stop.signal, writeTimeoutMs: 1_000 }, { stuck: to });
    await piped.far[from].closeWrite();
    await time.pass(500);
    stop.abort();
    await time.settle();
    assertEquals(piped.result?.reason, "aborted");
    await piped.assertReset();
  });

  test(`says who was silent when ${from} has ended: ${to}, or ${from} that took nothing`, async (time) => {
    for (const by of sides) {
      const piped = new Piped({ halfOpenTimeoutMs: 1_000 }, { capacity: 10 });
      await piped.far[from].closeWrite();
      await time.settle();
      if (by === from) piped.flood(to);
      await time.pass(1_000);
      assertEquals([piped.result?.reason, piped.result?.by], ["half-open", by]);
      await assertRejects(() => readToEnd(piped.far[from]), MemoryDuplexError, "reset");
    }
  });

  test(`says that ${from} ended first`, async (time) => {
    const piped = new Piped({ idleTimeoutMs: 1_000, writeTimeoutMs: 1_000 });
    await piped.far[from].closeWrite();
    await time.pass(10);
    await piped.far[to].closeWrite();
    await time.settle();
    assertEquals(piped.result, { aToB: 0, bToA: 0, reason: "end", by: from });
  });
}

for (const side of sides) {
  const mayBeAbandoned = () => side;

  test(`aborts both when ${side} is abandoned: it has ended, and then takes nothing for ABANDONED_MS`, async (time) => {
    for (const waitsFirst of [false, true]) {
      const piped = new Piped({ mayBeAbandoned }, { capacity: 10 });
      if (waitsFirst) piped.flood(other[side]);
      await time.pass(HOUR_MS);
      await piped.far[side].closeWrite();
      await time.pass(waitsFirst ? 0 : HOUR_MS);
      piped.flood(other[side]);
      for (let i = 0; i < 10; i++) {
        await time.pass(ABANDONED_MS - 1);
        await readExactly(piped.far[side], 1);
      }
      await time.pass(ABANDONED_MS - 1);
      assertEquals(piped.result, undefined);
      await time.pass(1);
      assertEquals([piped.result?.reason, piped.result?.by], ["half-open", side]);
      await assertRejects(() => readToEnd(piped.far[side]), MemoryDuplexError, "reset");
    }
  });

  test(`waits for ${side} that may be abandoned while it is silent, has not ended, or is the only one that has`, async (time) => {
    const silent = new Piped({ mayBeAbandoned });
    await silent.far[side].closeWrite();
    const open = new Piped({ mayBeAbandoned }, { capacity: 10 });
    open.flood(other[side]);
    const otherEnds = new Piped({ mayBeAbandoned }, { capacity: 10 });
    otherEnds.flood(side);
    await otherEnds.far[other[side]].closeWrite();
    const unlikely = new Piped({ mayBeAbandoned: () => undefined }, { capacity: 10 });
    await unlikely.far[side].closeWrite();
    unlikely.flood(other[side]);
    const all = [silent, open, otherEnds, unlikely];
    await time.pass(HOUR_MS);
    assertEquals(all.map(({ result }) => result), all.map(() => undefined));
    for (const { far } of all) far[side].abort();
    for (const { far } of all) far[other[side]].abort();
    await time.pass(2_000);
    await Promise.all(all.map(({ done }) => done));
  });
}

/** A carrier that never takes an end. */
function neverEnds(carrier: MemoryDuplex): void {
  const aborted = Promise.withResolvers<void>();
  const abort = carrier.abort.bind(carrier);
  carrier.closeWrite = () => aborted.promise;
  carrier.abort = (code) => {
    abort(code);
    aborted.reject(new MemoryDuplexError("aborted"));
  };
}

test("ends by whichever timeout is over first, and tells the more of two at once", async (time) => {
  for (
    const [idleTimeoutMs, writeTimeoutMs, reason] of [
      [999, 1_000, "idle"],
      [1_000, 999, "write-timeout"],
      [1_000, 1_000, "write-timeout"],
    ] as const
  ) {
    const piped = new Piped({ idleTimeoutMs, writeTimeoutMs }, { capacity: 10 });
    piped.flood("a");
    await time.pass(998);
    assertEquals(piped.result, undefined);
    await time.pass(1_000);
    assertEquals(piped.result?.reason, reason);
  }
});

test("counts a byte that comes as a timeout is over, if it comes before the look at the clock", async (time) => {
  for (const first of ["byte", "timeout"] as const) {
    const [a, farA] = memoryPair(), [b, farB] = memoryPair();
    const write = () =>
      setTimeout(() => void Promise.try(() => farA.write(Uint8Array.of(1))).catch(() => {}), 500);
    let result: PipeResult | undefined;
    if (first === "byte") write();
    pipeDuplex(a, b, { timeouts: { idleTimeoutMs: 500 } }).then((ended) => result = ended);
    if (first === "timeout") write();
    await time.pass(500);
    if (first === "byte") {
      assertEquals(result, undefined);
      assertEquals(await readExactly(farB, 1), Uint8Array.of(1));
      await time.pass(500);
    }
    assertEquals(result, { aToB: first === "byte" ? 1 : 0, bToA: 0, reason: "idle" });
  }
});

test("starts no timer for a byte, and has one at a time", async (time) => {
  const piped = new Piped({ idleTimeoutMs: 1_000, writeTimeoutMs: 1_000 });
  for (let i = 0; i < 200; i++) {
    await time.pass(10);
    await piped.far.a.write(Uint8Array.of(i));
    await piped.far.b.write(Uint8Array.of(i));
    await time.settle();
    await readExactly(piped.far.a, 1);
    await readExactly(piped.far.b, 1);
    assertEquals(time.pending, 1);
  }
  assertLessOrEqual(time.started, 5);
  piped.far.a.abort();
  await time.pass(100);
  assertEquals(piped.result?.reason, "error");
});

test("counts timeouts from when it is connected", async (time) => {
  for (const outcome of ["resolve", "reject"] as const) {
    const connected = Promise.withResolvers<void>();
    const timeouts = { idleTimeoutMs: 1_000, writeTimeoutMs: 1_000, halfOpenTimeoutMs: 1_000 };
    const piped = new Piped({ ...timeouts, connected: connected.promise }, { capacity: 10 });
    piped.flood("a");
    await piped.far.b.closeWrite();
    await time.pass(5_000);
    assertEquals(piped.result, undefined);
    connected[outcome]();
    await time.pass(999);
    assertEquals(piped.result, undefined);
    await time.pass(1);
    assertEquals(piped.result?.reason, "write-timeout");
  }
});

test("starts no timer when it is connected after its end", async (time) => {
  const connected = Promise.withResolvers<void>();
  const piped = new Piped({ idleTimeoutMs: 1_000, connected: connected.promise });
  for (const side of sides) await piped.far[side].closeWrite();
  await time.pass(0);
  assertEquals(piped.result?.reason, "end");
  connected.resolve();
  await time.settle();
  assertEquals(time.pending, 0);
});

test("waits for longer than a timer can", async (time) => {
  const idleTimeoutMs = 60 * 24 * HOUR_MS;
  const piped = new Piped({ idleTimeoutMs });
  await time.pass(idleTimeoutMs - 1);
  assertEquals(piped.result, undefined);
  await time.pass(1);
  assertEquals(piped.result?.reason, "idle");
});

test("leaves a RetryingTunnel to its own timeout until it is connected", async (time) => {
  const attempt = (): OutgoingTunnel => {
    const [carrier] = carrierPair();
    return { carrier, result: new Promise(() => {}) };
  };
  const tunnel = new RetryingTunnel(attempt(), {
    timeoutMs: 5_000,
    retry: () => Promise.resolve(undefined),
  });
  const [client, farClient] = memoryPair();
  let result: PipeResult | undefined;
  const timeouts = { idleTimeoutMs: 1_000, writeTimeoutMs: 1_000, halfOpenTimeoutMs: 1_000 };
  pipeDuplex(client, tunnel, { timeouts, connected: tunnel.connected })
    .then((ended) => result = ended);
  await writeAll(farClient, pattern(100));
  // Its end waits in the tunnel until there is a target.
  await farClient.closeWrite();
  await time.pass(4_999);
  assertEquals(result, undefined);
  await time.pass(101);
  assertEquals([result?.reason, result?.by], ["error", "b"]);
  assertEquals((result?.error as Error).name, "ConnectTimeoutError");
});

/** A pipe between a client in memory and a TunnelStream whose peer takes few bytes at a time, with a write timeout of 1 s. */
async function pipedTunnelStream(capacity: number) {
  const [client, farClient] = memoryPair();
  const [stream, far] = carrierPair({ capacity });
  const tunnel = new TunnelStream(stream, FrameType.Result);
  await far.write(
    encodeFrame(FrameType.Result, encodeResult({ code: "connected", text: "" })),
  );
  await tunnel.receiveFirst();
  const piped = { farClient, far, result: undefined as PipeResult | undefined };
  pipeDuplex(client, tunnel, { timeouts: { writeTimeoutMs: 1_000 } }).then((ended) =>
    piped.result = ended
  );
  return piped;
}

test("gives up a TunnelStream whose peer leaves no room for END, by a reset", async (time) => {
  const piped = await pipedTunnelStream(30);
  const { farClient, far } = piped;
  // DATA that leaves room for half of END.
  await writeAll(farClient, pattern(27));
  await farClient.closeWrite();
  await time.pass(999);
  assertEquals(piped.result, undefined);
  await time.pass(1);
  assertEquals(piped.result, { aToB: 27, bToA: 0, reason: "write-timeout", by: "b" });
  await assertRejects(() => readToEnd(far), MemoryDuplexError, "reset");
});

test("waits for a TunnelStream whose peer takes a long write a little at a time", async (time) => {
  const piped = await pipedTunnelStream(100);
  const { farClient, far } = piped;
  const sending = Promise.try(() => writeAll(farClient, pattern(60_000))).catch(() => {});
  for (let i = 0; i < 100; i++) {
    await time.pass(900);
    await readExactly(far, 50);
  }
  assertEquals(piped.result, undefined);
  far.abort();
  await time.pass(100);
  await sending;
  assertEquals(piped.result?.reason, "error");
});

/** What one side does, one after the other. */
type Step =
  | { readonly do: "write" | "read" | "wait"; readonly amount: number }
  | { readonly do: "end" | "reset" | "refuse" };

const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("write" as const), amount: fc.nat(300) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant("read" as const), amount: fc.nat(300) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("wait" as const), amount: fc.nat(700) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("end", "reset", "refuse") }) },
) as fc.Arbitrary<Step>;

/** A far end that goes through its steps, in turn with the other one. */
class Actor {
  sent = 0;
  ended = false;
  /** Whether it takes no more bytes, of its own will. */
  gaveUp = false;
  received: number[] = [];
  /** How the bytes that it reads ended. */
  over: "end" | "reset" | undefined;
  readonly #bytes = pattern(30_000);
  /** What is still under way of what it has begun. */
  #writing = Promise.resolve();
  #reading = Promise.resolve();

  constructor(readonly far: MemoryDuplex) {}

  async perform(step: Step, time: FakeTime): Promise<void> {
    if (step.do === "wait") return await time.pass(step.amount);
    if (step.do === "write") this.#writing = this.#writing.then(() => this.#write(step.amount));
    else if (step.do === "read") this.#reading = this.#reading.then(() => this.#read(step.amount));
    else if (step.do === "refuse") this.#giveUp(() => this.far.refuse());
    else if (step.do === "reset") this.#giveUp(() => this.far.abort());
    else this.#writing = this.#writing.then(() => this.#end());
    await time.settle();
  }

  #giveUp(how: () => void): void {
    this.gaveUp = true;
    how();
  }

  async #write(amount: number): Promise<void> {
    if (this.ended) return;
    const until = Math.min(this.sent + amount, this.#bytes.length);
    try {
      while (this.sent < until) {
        this.sent += await this.far.write(this.#bytes.subarray(this.sent, until));
      }
    } catch {
      // The pipe takes no more.
    }
  }

  async #end(): Promise<void> {
    this.ended = true;
    await this.far.closeWrite();
  }

  async #read(amount: number): Promise<void> {
    const buffer = new Uint8Array(50);
    for (let left = amount; left > 0 && !this.over;) {
      try {
        const n = await this.far.read(buffer.subarray(0, Math.min(left, buffer.length)));
        if (n === null) this.over = "end";
        else this.received.push(...buffer.subarray(0, n));
        left -= n ?? 0;
      } catch {
        this.over = "reset";
      }
    }
  }

  /** Reads whatever is left. */
  async finish(): Promise<void> {
    this.#reading = this.#reading.then(() => this.#read(Infinity));
    await this.#reading;
  }
}

Deno.test({
  name: "pipeDuplex() delivers what was sent or a part of it that looks like one, and always ends",
  permissions: "none",
  async fn() {
    const steps = fc.array(fc.tuple(fc.constantFrom(...sides), step), { maxLength: 40 });
    const timeout = fc.constantFrom(0, 300, 1_000);
    const schedule = fc.record({
      steps,
      halfOpenTimeoutMs: timeout,
      writeTimeoutMs: timeout,
      idleTimeoutMs: fc.constantFrom(300, 1_000, 2_000),
      capacity: fc.integer({ min: 1, max: 200 }),
      stop: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(schedule, async ({ steps, capacity, stop, ...timeouts }) => {
        using time = new FakeTime();
        const piped = new Piped(timeouts, { capacity, stop });
        const actors = { a: new Actor(piped.far.a), b: new Actor(piped.far.b) };
        for (const [side, step] of steps) await actors[side].perform(step, time);
        // Both are silent from here on. Bytes may be dropped for a second, and a reset waits for those before it.
        await time.pass(timeouts.idleTimeoutMs + 1_100);
        const { result } = piped;
        assert(result, "it goes on");
        for (const side of sides) await actors[side].finish();
        for (const [from, to] of [["a", "b"], ["b", "a"]] as const) {
          const sender = actors[from], receiver = actors[to];
          const received = Uint8Array.from(receiver.received);
          assertLessOrEqual(received.length, sender.sent);
          assertSameBytes(received, pattern(30_000).subarray(0, received.length));
          if (receiver.over === "end") {
            assert(sender.ended, "an end that nobody has sent");
            assertEquals(received.length, sender.sent);
          }
          if (result.reason === "end") assert(sender.ended);
          if (result.reason === "end" && !receiver.gaveUp) assertEquals(receiver.over, "end");
        }
        assertEquals(time.pending, 0);
      }),
      { numRuns: 150 },
    );
  },
});
