// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertGreater } from "@std/assert";
import { randomBytes } from "node:crypto";
import { isAllocated, libc } from "../../lib/net/libc.ts";
import { nativeConfig, transportSettings } from "../../lib/quic/options.ts";
import { quiche } from "../../lib/quic/quiche/native.ts";
import { losesExternals, takePacket } from "../../lib/quic/quiche/take_packet.ts";
import { ALPN, clientTls } from "../support/quic.ts";

const PACKETS = 100;

/** A test that allocates with the C library, where there is one. */
function mallocTest(name: string, fn: (malloc: (bytes: bigint) => Deno.PointerObject) => void) {
  Deno.test({
    name,
    ignore: !libc,
    fn() {
      const malloc = { parameters: ["usize"], result: "pointer" } as const;
      const library = Deno.dlopen("libc.so.6", { malloc });
      try {
        fn((bytes) => library.symbols.malloc(bytes)!);
      } finally {
        library.close();
      }
    },
  });
}

mallocTest("takePacket() frees what Deno allocates for the time of a packet", (malloc) => {
  const config = nativeConfig(transportSettings({ tls: clientTls, alpn: ALPN }));
  const [from, to] = [{ host: "127.0.0.1", port: 1 }, { host: "127.0.0.1", port: 2 }];
  const buffer = new Uint8Array(1500);
  let freed = 0;
  for (let i = 0; i < PACKETS; i++) {
    const id = new Uint8Array(randomBytes(16));
    const connection = quiche.Connection.connect("quic-tunnel-server", id, from, to, config);
    const [bytes, { at }] = connection.send(buffer)!;
    const external = at as unknown as Deno.PointerObject;
    assertEquals(takePacket({ send: () => [bytes, { from, to, at }] }, buffer), 1200);
    // What was freed last is given out first.
    const next = malloc(32n);
    if (Deno.UnsafePointer.equals(next, external)) freed++;
    libc!.free(next);
  }
  assertGreater(freed, PACKETS / 2);
});

mallocTest("isAllocated() is true of what malloc() has given for that size", (malloc) => {
  for (const bytes of [32, 40, 41, 1_000]) {
    const pointer = malloc(BigInt(bytes));
    const sizes = [bytes, bytes + 32, 16 * bytes];
    assertEquals(sizes.map((size) => isAllocated(pointer, size)), [true, false, false]);
    libc!.free(pointer);
  }
  assertEquals(isAllocated(null, 32), false);
});

Deno.test("isAllocated() takes a chunk of the size, or of the next one, which is not split", () => {
  const memory = new BigUint64Array(16);
  const isChunk = (size: bigint) => {
    memory[0] = size;
    return isAllocated(Deno.UnsafePointer.of(memory.subarray(1)), 32);
  };
  const flags = [0n, 1n, 5n, 7n];
  for (const size of [48n, 64n]) assert(flags.every((flag) => isChunk(size + flag)), `${size}`);
  for (const size of [0n, 32n, 80n, 96n, 2n ** 32n + 48n, 2n ** 64n - 8n]) {
    assert(!flags.some((flag) => isChunk(size + flag)), `${size}`);
  }
});

Deno.test("takePacket() returns 0 when there is none", () => {
  assertEquals(takePacket({ send: () => null }, new Uint8Array()), 0);
});

Deno.test("losesExternals() is true of those versions of Deno that were looked at", () => {
  const losing = ["2.7.11", "2.7.14", "2.8.0", "2.9.6"];
  const others = ["2.7.10", "1.46.3", "2.9.7", "2.10.0", "3.0.0", "2.9.6-rc.1", "2.9.6+abc", ""];
  assertEquals([...losing, ...others].filter(losesExternals), losing);
});
