// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertLess, assertLessOrEqual, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { pipeDuplex, type PipeOptions, type PipeResult } from "../../lib/tunnel/pipe.ts";
import { canResetTcp } from "../support/can_reset_tcp.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import {
  MemoryDuplex,
  MemoryDuplexError,
  memoryPair,
  type MemoryPairOptions,
  readExactly,
  readToEnd,
} from "../support/memory_duplex.ts";
import { resettableTcpPair, tcpPair } from "../support/tcp_pair.ts";
import type { Awaitable } from "../../lib/wait.ts";

/** What an idle direction may hold, and what a busy one may. */
const SMALL_BUFFER = 4 << 10;
const LARGE_BUFFER = 64 << 10;

/** What a pipe has to be done within when nothing is left to wait for. */
const PROMPT_MS = 10_000;

/** Makes a carrier and the far end that a test speaks from. */
interface Transport {
  readonly name: string;
  readonly permissions: "none" | "inherit";
  /** Whether the far end of an aborted carrier can tell that from an orderly end. */
  readonly showsAbort: boolean;
  pair(): Promise<[carrier: Duplex, far: Duplex]>;
  /** The same with a far end whose `abort` resets. */
  resettablePair(): Promise<[carrier: Duplex, far: Duplex]>;
}

const memory = (name: string, options?: MemoryPairOptions): Transport => ({
  name,
  permissions: "none",
  showsAbort: true,
  pair: () => Promise.resolve(memoryPair(options)),
  resettablePair: () => Promise.resolve(memoryPair(options)),
});

const transports: readonly Transport[] = [
  memory("memory"),
  memory("memory without stop", { stop: false }),
  // Most writes are taken in part.
  memory("narrow memory", { capacity: 7 }),
  {
    name: "TCP",
    permissions: "inherit",
    showsAbort: canResetTcp,
    async pair() {
      const [carrier, far] = await tcpPair();
      return [tcpDuplex(carrier), tcpDuplex(far)];
    },
    async resettablePair() {
      const [carrier, far] = await resettableTcpPair();
      return [tcpDuplex(carrier), far];
    },
  },
];

/** A carrier that remembers what was done with it. */
class Watched implements Duplex {
  readonly stop?: (code: number) => void;
  readonly stopCodes: number[] = [];
  readonly abortCodes: (number | undefined)[] = [];
  largestRead = 0;
  written = 0;
  disposed = 0;
  #writingSince: number | undefined;

  constructor(readonly carrier: Duplex) {
    if (!carrier.stop) return;
    this.stop = (code) => {
      this.stopCodes.push(code);
      carrier.stop!(code);
    };
  }

  /** Whether one write has waited for so long that nobody will read what it holds. */
  get isStuck(): boolean {
    return this.#writingSince !== undefined && performance.now() - this.#writingSince > 200;
  }

  read(buffer: Uint8Array): Awaitable<number | null> {
    this.largestRead = Math.max(this.largestRead, buffer.length);
    return this.carrier.read(buffer);
  }

  async write(bytes: Uint8Array): Promise<number> {
    this.#writingSince = performance.now();
    try {
      const n = await this.carrier.write(bytes);
      this.written += n;
      return n;
    } finally {
      this.#writingSince = undefined;
    }
  }

  closeWrite(): Awaitable<void> {
    return this.carrier.closeWrite();
  }

  abort(code?: number): void {
    this.abortCodes.push(code);
    this.carrier.abort(code);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.disposed++;
    await this.carrier[Symbol.asyncDispose]();
  }
}

const other = { a: "b", b: "a" } as const;

/** Two carriers with a pipe between, and their far ends. */
class Piped implements AsyncDisposable {
  readonly carriers: Readonly<Record<"a" | "b", Watched>>;
  readonly far: Readonly<Record<"a" | "b", Duplex>>;
  readonly result: Promise<PipeResult>;
  readonly #floods: Promise<unknown>[] = [];

  private constructor(a: [Duplex, Duplex], b: [Duplex, Duplex], options: PipeOptions) {
    this.carriers = { a: new Watched(a[0]), b: new Watched(b[0]) };
    this.far = { a: a[1], b: b[1] };
    this.result = pipeDuplex(this.carriers.a, this.carriers.b, options);
  }

  /** @param resettable the far end whose `abort` resets, if there is to be one */
  static async start(
    transport: Transport,
    options: PipeOptions = {},
    resettable?: "a" | "b",
  ): Promise<Piped> {
    const pairOf = (side: "a" | "b") =>
      side === resettable ? transport.resettablePair() : transport.pair();
    return new Piped(await pairOf("a"), await pairOf("b"), options);
  }

  /** Writes without an end, until that fails. */
  flood(to: Duplex, size = 1 << 20): void {
    const bytes = pattern(size);
    const send = async () => {
      for (;;) {
        await writeAll(to, bytes);
        // Memory never waits for the event loop, and would let no timer have its turn.
        await new Promise((resolve) => setTimeout(resolve));
      }
    };
    this.#floods.push(send().catch(() => {}));
  }

  ended(): Promise<PipeResult> {
    return deadline(this.result, PROMPT_MS);
  }

  /** Asserts that both carriers were given back, and that nothing waits on them. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.far.a.abort();
    this.far.b.abort();
    await Promise.all(this.#floods);
    await this.ended();
    await this.far.a[Symbol.asyncDispose]();
    await this.far.b[Symbol.asyncDispose]();
    assertEquals([this.carriers.a.disposed, this.carriers.b.disposed], [1, 1]);
    for (const carrier of [this.carriers.a, this.carriers.b]) {
      const read = await Promise.allSettled([Promise.try(() => carrier.read(new Uint8Array(1)))]);
      assert(read[0].status === "rejected" || read[0].value === null, "a carrier is still open");
    }
  }
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

async function sendText(to: Duplex, message: string): Promise<void> {
  await writeAll(to, utf8.encode(message));
}

async function assertReads(from: Duplex, message: string): Promise<void> {
  assertEquals(text.decode(await readExactly(from, message.length)), message);
}

/** Reads up to the end of any sort. */
async function readUntilOver(from: Duplex): Promise<{ bytes: Uint8Array; error?: unknown }> {
  const parts: number[] = [];
  const buffer = new Uint8Array(64 << 10);
  try {
    for (let n; (n = await from.read(buffer)) !== null;) parts.push(...buffer.subarray(0, n));
  } catch (error) {
    return { bytes: new Uint8Array(parts), error };
  }
  return { bytes: new Uint8Array(parts) };
}

/** Waits for what needs no event of the system. */
async function inThisTurn(check: () => boolean): Promise<void> {
  for (let i = 0; i < 1000 && !check(); i++) await Promise.resolve();
  assert(check());
}

/** Asserts that a far end reads of an abort, as well as its transport can show one. */
async function assertAborted(far: Duplex, transport: Transport): Promise<void> {
  const { error } = await readUntilOver(far);
  if (transport.showsAbort) assert(error instanceof Error, "it looks like an end in order");
}

for (const transport of transports) {
  const test = (name: string, fn: () => Promise<void>) =>
    Deno.test({
      name: `pipeDuplex() over ${transport.name} ${name}`,
      permissions: transport.permissions,
      fn,
    });

  test("carries bytes of any chunking both ways at once", async () => {
    const chunks = fc.array(
      fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 20_000 })),
      { maxLength: 12 },
    );
    const readSize = fc.integer({ min: 1, max: 10_000 });
    const send = async (to: Duplex, bytes: Uint8Array, sizes: number[]) => {
      let offset = 0;
      for (const size of sizes) {
        await writeAll(to, bytes.subarray(offset, offset + size));
        offset += size;
      }
      await to.closeWrite();
    };
    await fc.assert(
      fc.asyncProperty(chunks, chunks, readSize, async (sizesA, sizesB, readSize) => {
        await using piped = await Piped.start(transport);
        const { a, b } = piped.far;
        const fromA = pattern(sizesA.reduce((sum, n) => sum + n, 0), 1);
        const fromB = pattern(sizesB.reduce((sum, n) => sum + n, 0), 2);
        const [atB, atA] = await Promise.all([
          readToEnd(b, readSize),
          readToEnd(a, readSize),
          send(a, fromA, sizesA),
          send(b, fromB, sizesB),
        ]);
        assertSameBytes(atB, fromA);
        assertSameBytes(atA, fromB);
        const result = await piped.ended();
        const { by, ...counts } = result;
        assert(by);
        assertEquals(counts, { aToB: fromA.length, bToA: fromB.length, reason: "end" });
      }),
      { numRuns: 30 },
    );
  });

  for (const first of ["a", "b"] as const) {
    const second = other[first];

    test(`forwards EOF from ${first} to ${second} and keeps ${second} to ${first} open`, async () => {
      await using piped = await Piped.start(transport);
      const from = piped.far[first], to = piped.far[second];
      await sendText(from, "request");
      await from.closeWrite();
      assertEquals(text.decode(await readToEnd(to)), "request");
      // Only now, so that these bytes are late for sure; and in turns, so that each has to be carried on its own.
      for (const late of ["late", "later", "last"]) {
        await sendText(to, late);
        await assertReads(from, late);
      }
      await to.closeWrite();
      assertEquals(await from.read(new Uint8Array(1)), null);
      const [sent, received] = ["request".length, "latelaterlast".length];
      assertEquals(await piped.ended(), {
        aToB: first === "a" ? sent : received,
        bToA: first === "a" ? received : sent,
        reason: "end",
        by: first,
      });
      assertEquals(piped.carriers.a.abortCodes, []);
      assertEquals(piped.carriers.b.abortCodes, []);
    });

    test(`aborts ${second} when ${first} is reset`, async () => {
      await using piped = await Piped.start(transport, { abortCode: 7 }, first);
      const from = piped.far[first], to = piped.far[second];
      await sendText(from, "hello");
      await assertReads(to, "hello");
      await sendText(to, "answer");
      await assertReads(from, "answer");
      from.abort();
      await assertAborted(to, transport);
      const { error, ...result } = await piped.ended();
      const counts = first === "a" ? { aToB: 5, bToA: 6 } : { aToB: 6, bToA: 5 };
      assertEquals(result, { ...counts, reason: "error", by: first });
      assert(error instanceof Error);
      assertEquals(piped.carriers.a.abortCodes, [7]);
      assertEquals(piped.carriers.b.abortCodes, [7]);
    });

    if (transport.permissions === "none") {
      test(`delivers what ${first} sent just before its reset`, async () => {
        await using piped = await Piped.start(transport, {}, first);
        const from = piped.far[first], to = piped.far[second];
        await sendText(from, "answer");
        // Without a turn of the event loop, so that the reset comes right behind the bytes.
        await inThisTurn(() => piped.carriers[second].written === "answer".length);
        from.abort();
        await inThisTurn(() => piped.carriers[first].abortCodes.length > 0);
        await assertReads(to, "answer");
        await assertAborted(to, transport);
        const { reason, by } = await piped.ended();
        assertEquals([reason, by], ["error", first]);
      });
    }

    test(`aborts ${second} when ${first} is reset after ${second} has ended`, async () => {
      await using piped = await Piped.start(transport, {}, first);
      const from = piped.far[first], to = piped.far[second];
      await sendText(to, "answer");
      await to.closeWrite();
      assertEquals(text.decode(await readToEnd(from)), "answer");
      from.abort();
      await assertAborted(to, transport);
      const { reason, by } = await piped.ended();
      assertEquals([reason, by], ["error", first]);
    });

    test(`delivers the answer of ${second} when ${second} takes no more of ${first}`, async () => {
      await using piped = await Piped.start(transport);
      const from = piped.far[first], to = piped.far[second];
      piped.flood(from);
      // The rest of the upload stays unread: the end of a TCP connection then says that nothing more is taken.
      await readExactly(to, 1);
      await sendText(to, "too large");
      if (to instanceof MemoryDuplex) {
        await to.closeWrite();
        to.refuse();
      } else {
        to.abort();
      }
      assertEquals(text.decode((await readUntilOver(from)).bytes), "too large");
      from.abort();
      const { reason, by, error } = await piped.ended();
      assertEquals([reason, by], ["error", second]);
      assert(error instanceof Error);
    });
  }

  for (const when of ["aborts", "has aborted before"]) {
    test(`aborts both when the signal ${when}`, async () => {
      const stop = new AbortController();
      const reason = new Error("told to");
      if (when === "has aborted before") stop.abort(reason);
      await using piped = await Piped.start(transport, { signal: stop.signal, abortCode: 3 });
      const { a, b } = piped.far;
      let aToB = 0;
      if (when === "aborts") {
        await sendText(a, "hello");
        await assertReads(b, "hello");
        aToB = 5;
        stop.abort(reason);
      }
      assertEquals(await piped.ended(), { aToB, bToA: 0, reason: "aborted", error: reason });
      await assertAborted(a, transport);
      await assertAborted(b, transport);
      assertEquals(piped.carriers.a.abortCodes, [3]);
      assertEquals(piped.carriers.b.abortCodes, [3]);
    });
  }

  test("aborts both when the signal aborts while nobody reads", async () => {
    const stop = new AbortController();
    await using piped = await Piped.start(transport, { signal: stop.signal });
    piped.flood(piped.far.a);
    piped.flood(piped.far.b);
    const { a, b } = piped.carriers;
    await eventually("both directions are stuck", () => a.isStuck && b.isStuck);
    stop.abort();
    assertEquals((await piped.ended()).reason, "aborted");
  });

  test("takes no more from a sender than a slow reader leaves room for", async () => {
    await using piped = await Piped.start(transport);
    const { a, b } = piped.far;
    const bytes = pattern(transport.name === "narrow memory" ? 100_000 : 12 << 20);
    let sent = 0;
    const sending = (async () => {
      while (sent < bytes.length) sent += await a.write(bytes.subarray(sent));
      await a.closeWrite();
    })();
    await eventually(
      "the sender is held up",
      () => piped.carriers.b.isStuck || sent === bytes.length,
    );
    if (a instanceof MemoryDuplex) {
      // One buffer in the pipe; what else is under way is in the carriers. Kernels have more room, and tell nobody.
      assertLessOrEqual(sent, 2 * (64 << 10) + LARGE_BUFFER);
    }
    const received = await readToEnd(b, 10_000);
    await sending;
    assertSameBytes(received, bytes);
    const { largestRead } = piped.carriers.a;
    if (transport.name === "narrow memory") assertLessOrEqual(largestRead, SMALL_BUFFER);
    else assertEquals(largestRead, LARGE_BUFFER);
    await b.closeWrite();
    assertEquals(await piped.ended(), { aToB: bytes.length, bToA: 0, reason: "end", by: "a" });
  });

  test("reads into a small buffer as long as little is under way", async () => {
    await using piped = await Piped.start(transport);
    const { a, b } = piped.far;
    for (let i = 0; i < 50; i++) {
      await sendText(a, "ping");
      await assertReads(b, "ping");
    }
    assertLessOrEqual(piped.carriers.a.largestRead, SMALL_BUFFER);
    assertLessOrEqual(piped.carriers.b.largestRead, SMALL_BUFFER);
  });
}

Deno.test("pipeDuplex() over TCP does not take the reset of a side that bytes wait for as its end", async () => {
  const transport = transports.at(-1)!;
  for (let i = 0; i < 20; i++) {
    await using piped = await Piped.start(transport, {}, "b");
    const { a, b } = piped.far;
    piped.flood(a);
    await sendText(b, "half of it");
    await assertReads(a, "half of it");
    if (i % 2) await eventually("a write waits", () => piped.carriers.b.isStuck);
    b.abort();
    await assertAborted(a, transport);
    const { reason, by } = await piped.ended();
    assertEquals([reason, by], ["error", "b"]);
  }
});

function inMemory(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `pipeDuplex() ${name}`, permissions: "none", fn });
}

inMemory("stops a side whose bytes the other takes no more", async () => {
  const transport = memory("memory");
  await using piped = await Piped.start(transport, { abortCode: 9 });
  const { a, b } = piped.far;
  assert(b instanceof MemoryDuplex);
  b.refuse();
  await sendText(a, "upload");
  await eventually("a was stopped", () => piped.carriers.a.stopCodes.length > 0);
  assertEquals(piped.carriers.a.stopCodes, [9]);
  await assertRejects(async () => await a.write(new Uint8Array(1)));
  // The other direction is as good as before.
  await sendText(b, "answer");
  await assertReads(a, "answer");
  await b.closeWrite();
  assertEquals(await a.read(new Uint8Array(1)), null);
  const { error: _, ...result } = await piped.ended();
  assertEquals(result, { aToB: 0, bToA: 6, reason: "error", by: "b" });
  assertEquals(piped.carriers.a.abortCodes, []);
});

inMemory("drops the bytes of a side that has no stop, and sees their end", async () => {
  const transport = memory("memory", { stop: false });
  await using piped = await Piped.start(transport);
  const { a, b } = piped.far;
  assert(b instanceof MemoryDuplex);
  b.refuse();
  // Many times what the carriers hold: somebody reads it.
  await writeAll(a, pattern(1 << 20));
  await sendText(b, "answer");
  await assertReads(a, "answer");
  await a.closeWrite();
  await b.closeWrite();
  const { error: _, ...result } = await piped.ended();
  assertEquals(result, { aToB: 0, bToA: 6, reason: "error", by: "b" });
  assertEquals(piped.carriers.a.abortCodes, []);
});

inMemory("tells of a side that fails to take the end", async () => {
  const [a, farA] = memoryPair(), [b, farB] = memoryPair();
  b.closeWrite = () => Promise.reject(new MemoryDuplexError("gone"));
  const piping = pipeDuplex(a, b);
  await farA.closeWrite();
  await farB.closeWrite();
  const { reason, by } = await deadline(piping, PROMPT_MS);
  assertEquals([reason, by], ["error", "b"]);
});

inMemory("lets everything else go on while it drops what always has more", async () => {
  const most = 10_000;
  let reads = 0;
  const source: Duplex = {
    read: (buffer) => Promise.resolve(++reads < most ? buffer.length : null),
    write: () => new Promise(() => {}),
    closeWrite: () => Promise.resolve(),
    abort: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const [carrier, far] = memoryPair();
  far.refuse();
  const stop = new AbortController();
  const piping = pipeDuplex(source, carrier, { signal: stop.signal });
  await eventually("it drops", () => reads > 5);
  assertLess(reads, most / 10);
  stop.abort();
  far.abort();
  assertEquals((await deadline(piping, PROMPT_MS)).reason, "aborted");
});

inMemory("gives up on a side that goes on sending when all else is done", async () => {
  const transport = memory("memory", { stop: false });
  // The half-open timeout is for pairs that may still come to something.
  await using piped = await Piped.start(transport, { timeouts: { halfOpenTimeoutMs: 0 } });
  const { a, b } = piped.far;
  assert(b instanceof MemoryDuplex);
  b.refuse();
  await b.closeWrite();
  piped.flood(a, 1000);
  const { error, ...result } = await piped.ended();
  assertEquals(result, { aToB: 0, bToA: 0, reason: "error", by: "b" });
  assert(error instanceof MemoryDuplexError);
  assertEquals(piped.carriers.a.abortCodes, []);
});

inMemory("never rejects, and gives both carriers back, whatever fails", async () => {
  /** A carrier whose calls come out as the next number says, until they have all been used up. */
  class Hostile implements Duplex {
    readonly stop?: () => void;
    disposed = 0;
    #over = false;
    readonly #dice: number[];

    constructor(dice: number[], canStop: boolean, readonly atOnce: boolean) {
      this.#dice = [...dice];
      if (canStop) this.stop = () => {};
    }

    #roll<T>(outcome: (number: number) => T): Awaitable<T> {
      const roll = () => {
        const number = this.#over ? 0 : this.#dice.shift() ?? 1;
        if (number === 0) throw new Error("bad luck");
        return outcome(number);
      };
      return this.atOnce ? roll() : Promise.try(roll);
    }

    read(buffer: Uint8Array) {
      return this.#roll((number) => number === 1 ? null : Math.min(number, buffer.length));
    }

    write(bytes: Uint8Array) {
      return this.#roll((number) => Math.min(number, bytes.length));
    }

    closeWrite() {
      return this.#roll(() => {});
    }

    abort() {
      this.#over = true;
    }

    async [Symbol.asyncDispose]() {
      this.disposed++;
      await this.#roll(() => {});
    }
  }
  const dice = fc.array(fc.oneof(fc.integer({ min: 0, max: 3 }), fc.constant(5000)));
  // Many at a time, since some of them pause before they abort.
  const flags = [fc.boolean(), fc.boolean(), fc.boolean()] as const;
  const pairs = fc.array(fc.tuple(dice, dice, ...flags), { maxLength: 50 });
  await fc.assert(
    fc.asyncProperty(pairs, async (pairs) => {
      await Promise.all(pairs.map(async ([diceA, diceB, canStop, ...atOnce]) => {
        const a = new Hostile(diceA, canStop, atOnce[0]);
        const b = new Hostile(diceB, canStop, atOnce[1]);
        const result = await pipeDuplex(a, b);
        assertEquals([a.disposed, b.disposed], [1, 1]);
        assert(result.reason === "end" || result.reason === "error");
        assert(result.by !== undefined);
        assertEquals(result.reason === "error", result.error !== undefined);
      }));
    }),
    { numRuns: 20 },
  );
});

inMemory("lets others have their turn while both carriers do all at once", async () => {
  const endless: Duplex = {
    read: (buffer) => buffer.length,
    write: (bytes) => bytes.length,
    closeWrite: () => {},
    abort() {
      this.read = this.write = () => {
        throw new Error("aborted");
      };
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const stop = new AbortController();
  const piped = Array.from({ length: 2 }, () => {
    return pipeDuplex({ ...endless }, { ...endless }, { signal: stop.signal });
  });
  await new Promise((resolve) => setTimeout(resolve, 10));
  stop.abort();
  for (const { aToB, bToA, reason } of await Promise.all(piped)) {
    assertEquals(reason, "aborted");
    assert(aToB > 0 && bToA > 0);
  }
});
