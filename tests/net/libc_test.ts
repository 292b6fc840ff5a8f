// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { ipBytes } from "../../lib/net/ip_address.ts";
import {
  libc,
  raiseDescriptorLimit,
  SOCKADDR_BYTES,
  writeSocketAddress,
} from "../../lib/net/libc.ts";

Deno.test("writeSocketAddress() writes sockaddr_in and sockaddr_in6, over whatever was there", () => {
  for (
    const [text, asV6, bytes, expected] of [
      ["192.0.2.1", undefined, 16, "0200 01bb c0000201"],
      ["192.0.2.1", true, 28, "0a00 01bb 00000000 00000000000000000000ffffc0000201 00000000"],
      [
        "2001:db8::1",
        undefined,
        28,
        "0a00 01bb 00000000 20010db8000000000000000000000001 00000000",
      ],
    ] as const
  ) {
    const view = new DataView(new Uint8Array(SOCKADDR_BYTES).fill(0xff).buffer);
    assertEquals(writeSocketAddress(view, ipBytes(text)!, 443, asV6), bytes);
    const hex = expected.replaceAll(" ", "");
    assertEquals(new Uint8Array(view.buffer).toHex().slice(0, hex.length), hex);
  }
});

Deno.test({
  name:
    "raiseDescriptorLimit() raises the soft limit to the hard one, as Deno has not when compiled",
  ignore: Deno.build.os !== "linux",
  fn() {
    const hard = raiseDescriptorLimit();
    // RLIMIT_NOFILE, soft and hard.
    assertEquals(libc!.setrlimit(7, BigUint64Array.of(200n, BigInt(hard))), 0);
    assertEquals(raiseDescriptorLimit(), hard);
    const limits = new BigUint64Array(2);
    assertEquals(libc!.getrlimit(7, limits), 0);
    assertEquals(Array.from(limits, Number), [hard, hard]);
    assert(hard > 200);
  },
});
