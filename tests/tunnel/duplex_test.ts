// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { type Duplex, prepend, writeAll } from "../../lib/tunnel/duplex.ts";
import { MemoryDuplexError, memoryPair, readExactly, readToEnd } from "../support/memory_duplex.ts";

/** Time for what has nothing left to wait for. */
const PROMPT_MS = 10_000;

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({
    name,
    permissions: "none",
    fn: () => deadline(Promise.resolve(fn()), PROMPT_MS),
  });
}

const first = new TextEncoder().encode("first");

test("prepend() gives the first bytes before all others, in buffers of any size", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 50 }),
      fc.uint8Array({ maxLength: 50 }),
      fc.integer({ min: 1, max: 60 }),
      async (first, others, readSize) => {
        const [near, far] = memoryPair();
        await writeAll(far, others);
        await far.closeWrite();
        const read = await readToEnd(prepend(first, near), readSize);
        assertEquals(read, Uint8Array.of(...first, ...others));
      },
    ),
  );
});

test("prepend() gives the first bytes without waiting for others", async () => {
  const [near, far] = memoryPair();
  const carrier = prepend(first, near);
  assertEquals(await carrier.read(new Uint8Array(100)), 5);
  const next = carrier.read(new Uint8Array(100));
  await writeAll(far, Uint8Array.of(0x78));
  assertEquals(await next, 1);
});

test("prepend() is the carrier itself when there is nothing to give", () => {
  const [near] = memoryPair();
  assertStrictEquals(prepend(new Uint8Array(0), near), near);
});

test("prepend() leaves everything else to the carrier", async () => {
  const [near, far] = memoryPair();
  const carrier = prepend(first, near);
  await writeAll(carrier, first.subarray(0, 3));
  assertEquals(await readExactly(far, 3), first.subarray(0, 3));
  await carrier.closeWrite();
  assertEquals(await far.read(new Uint8Array(1)), null);
  far.abort(8);
  assertEquals(await carrier.read(new Uint8Array(100)), 5);
  await assertRejects(
    async () => await carrier.read(new Uint8Array(1)),
    MemoryDuplexError,
    "code 8",
  );
});

test("prepend() has a stop only where the carrier has one", () => {
  assert("stop" in prepend(first, memoryPair()[0]));
  assert(!("stop" in prepend(first, memoryPair({ stop: false })[0])));
});

const ends: Readonly<
  Record<string, {
    readonly end: (carrier: Duplex) => void | Promise<void>;
    /** What the far end finds then. */
    readonly far: (far: Duplex) => Promise<unknown>;
  }>
> = {
  "abort()": {
    end: (carrier) => carrier.abort(7),
    far: (far) =>
      assertRejects(async () => await far.read(new Uint8Array(1)), MemoryDuplexError, "code 7"),
  },
  "stop()": {
    end: (carrier) => carrier.stop!(6),
    far: (far) => assertRejects(async () => await far.write(first), MemoryDuplexError, "code 6"),
  },
  "asyncDispose()": {
    end: async (carrier) => await carrier[Symbol.asyncDispose](),
    far: async (far) => assertEquals(await far.read(new Uint8Array(1)), null),
  },
};

for (const [name, { end, far: found }] of Object.entries(ends)) {
  test(`prepend() hands ${name} on, and gives none of the first bytes after it`, async () => {
    const [near, far] = memoryPair();
    const carrier = prepend(first, near);
    await carrier.read(new Uint8Array(2));
    await end(carrier);
    await assertRejects(async () => await carrier.read(new Uint8Array(2)), MemoryDuplexError);
    await found(far);
  });
}
