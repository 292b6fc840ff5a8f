// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertGreater } from "@std/assert";
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
    assertEquals([bytes, bytes + 16, 16 * bytes].map((size) => isAllocated(pointer, size)), [
      true,
      false,
      false,
    ]);
    libc!.free(pointer);
  }
  const other = Deno.UnsafePointer.of(new Uint8Array(64).fill(0xff).subarray(16))!;
  assertEquals([isAllocated(other, 32), isAllocated(null, 32)], [false, false]);
});

Deno.test("takePacket() returns 0 when there is none", () => {
  assertEquals(takePacket({ send: () => null }, new Uint8Array()), 0);
});

Deno.test("losesExternals() is true of those versions of Deno that were looked at", () => {
  const losing = ["2.7.11", "2.7.14", "2.8.0", "2.9.6"];
  const others = ["2.7.10", "1.46.3", "2.9.7", "2.10.0", "3.0.0", "2.9.6-rc.1", "2.9.6+abc", ""];
  assertEquals([...losing, ...others].filter(losesExternals), losing);
});
