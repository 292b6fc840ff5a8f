// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  formatIp,
  formatSocketAddress,
  ipBytes,
  mapIp,
  socketAddress,
  unmapIp,
} from "../../lib/net/ip_address.ts";

function hex(bytes: Uint8Array | undefined): string | undefined {
  return bytes && Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

Deno.test({
  name: "ipBytes() reads every notation of an address",
  permissions: "none",
  fn() {
    const cases: [text: string, bytes: string][] = [
      ["0.0.0.0", "00000000"],
      ["127.0.0.1", "7f000001"],
      ["255.254.10.9", "fffe0a09"],
      ["::", "00000000000000000000000000000000"],
      ["::1", "00000000000000000000000000000001"],
      ["1::", "00010000000000000000000000000000"],
      ["2001:DB8::a:0", "20010db80000000000000000000a0000"],
      ["1:2:3:4:5:6:7:8", "00010002000300040005000600070008"],
      ["1:2:3:4:5:6:7::", "00010002000300040005000600070000"],
      ["::2:3:4:5:6:7:8", "00000002000300040005000600070008"],
      ["0001:0020:0300:4000::", "00010020030040000000000000000000"],
      ["64:ff9b::192.0.2.33", "0064ff9b0000000000000000c0000221"],
      ["1:2:3:4:5:6:1.2.3.4", "00010002000300040005000601020304"],
      ["::1.2.3.4", "00000000000000000000000001020304"],
      ["fe80::ffff:1.2.3.4", "fe80000000000000" + "0000ffff01020304"],
    ];
    for (const [text, bytes] of cases) assertEquals(hex(ipBytes(text)), bytes, text);
  },
});

Deno.test({
  name: "ipBytes() takes an IPv4-mapped IPv6 address for its IPv4 address",
  permissions: "none",
  fn() {
    for (const text of ["::ffff:10.0.0.1", "::FFFF:a00:1", "0:0:0:0:0:ffff:0a00:0001"]) {
      assertEquals(hex(ipBytes(text)), "0a000001", text);
    }
    for (const text of ["::fffe:a00:1", "::1:ffff:a00:1", "::ffff:0:a00:1"]) {
      assertEquals(ipBytes(text)?.length, 16, text);
    }
  },
});

Deno.test({
  name: "ipBytes() gives undefined for what is no address",
  permissions: "none",
  fn() {
    for (
      const text of ["", "localhost", "10.0.0", "010.0.0.1", "256.0.0.1", "10.0.0.1.", " ::1"]
        .concat([":", ":::", "1::2::3", "12345::", "::g", "[::1]", "fe80::1%eth0", "::1/128"])
        .concat(["1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4::5:6:7:8", "1.2.3.4::"])
    ) {
      assertEquals(ipBytes(text), undefined, text);
    }
  },
});

Deno.test({
  name: "formatIp() writes the canonical form of RFC 5952",
  permissions: "none",
  fn() {
    const cases: [text: string, canonical: string][] = [
      ["127.0.0.1", "127.0.0.1"],
      ["0:0:0:0:0:0:0:0", "::"],
      ["0:0:0:0:0:0:0:1", "::1"],
      ["1:0:0:0:0:0:0:0", "1::"],
      // §4.1 and §4.3: no leading zeros, small letters.
      ["2001:0DB8:0000:0000:0000:0000:0002:0001", "2001:db8::2:1"],
      // §4.2.2: a group alone is not shortened.
      ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
      ["2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
      ["0:1:2:3:4:5:6:0", "0:1:2:3:4:5:6:0"],
      // §4.2.3: the longest run, or the first of them.
      ["2001:0:0:1:0:0:0:1", "2001:0:0:1::1"],
      ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
      ["0:0:1:0:0:1:0:0", "::1:0:0:1:0:0"],
      ["1:0:0:2:3:0:0:0", "1:0:0:2:3::"],
      ["10:0:0:20::", "10:0:0:20::"],
    ];
    for (const [text, canonical] of cases) assertEquals(formatIp(ipBytes(text)!), canonical, text);
  },
});

Deno.test({
  name: "formatIp() writes 16 bytes of an IPv4-mapped address as such",
  permissions: "none",
  fn() {
    assertEquals(formatIp(mapIp(Uint8Array.of(192, 0, 2, 1))), "::ffff:192.0.2.1");
  },
});

Deno.test({
  name: "formatIp() refuses what is no address",
  permissions: "none",
  fn() {
    for (const length of [0, 3, 5, 15, 17]) {
      assertThrows(() => formatIp(new Uint8Array(length)), RangeError, `${length} bytes`);
    }
  },
});

Deno.test({
  name: "mapIp() and unmapIp() leave other addresses as they are",
  permissions: "none",
  fn() {
    const [v4, v6] = [ipBytes("192.0.2.1")!, ipBytes("2001:db8::1")!];
    assertEquals(hex(mapIp(v4)), "00000000000000000000ffffc0000201");
    assertEquals(unmapIp(mapIp(v4)), v4);
    assertEquals([mapIp(v6), unmapIp(v6), unmapIp(v4)], [v6, v6, v4]);
  },
});

Deno.test({
  name: "socketAddress() and formatSocketAddress() keep to the ports there are",
  permissions: "none",
  fn() {
    assertEquals(socketAddress("1.2.3.4", 80), { ip: Uint8Array.of(1, 2, 3, 4), port: 80 });
    const cases: [hostname: string, port: number, text: string][] = [
      ["1.2.3.4", 80, "1.2.3.4:80"],
      ["0:0::1", 0, "[::1]:0"],
      ["::ffff:1.2.3.4", 65535, "1.2.3.4:65535"],
    ];
    for (const [hostname, port, text] of cases) {
      assertEquals(formatSocketAddress(socketAddress(hostname, port)!), text);
    }
    for (const hostname of ["", "localhost", "[::1]", "fe80::1%2"]) {
      assertEquals(socketAddress(hostname, 80), undefined, hostname);
    }
    for (const port of [-1, 65536, 1.5, NaN, Infinity]) {
      assertEquals(socketAddress("::1", port), undefined, String(port));
    }
  },
});

Deno.test({
  name: "ipBytes() reads back what formatIp() writes, and that is the one text of an address",
  permissions: "none",
  fn() {
    const sparse = fc.array(fc.constantFrom(0, 0, 0, 0, 0, 1, 0xff), {
      minLength: 16,
      maxLength: 16,
    }).map((bytes) => Uint8Array.from(bytes));
    const ip = fc.oneof(
      fc.uint8Array({ minLength: 4, maxLength: 4 }),
      fc.uint8Array({ minLength: 16, maxLength: 16 }),
      sparse,
    );
    fc.assert(
      fc.property(ip, (bytes) => {
        assertEquals(hex(ipBytes(formatIp(bytes))), hex(unmapIp(bytes)));
      }),
      { numRuns: 2000 },
    );
    fc.assert(
      fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (text) => {
        const canonical = formatIp(ipBytes(text)!);
        assertEquals(formatIp(ipBytes(canonical)!), canonical);
        // A second, independent reading: what a URL makes of the address.
        const host = new URL(`http://${text.includes(":") ? `[${text}]` : text}/`).hostname;
        if (ipBytes(text)!.length === 4 && text.includes(":")) return;
        assertEquals(canonical, host.replace(/[[\]]/g, ""));
      }),
      { numRuns: 2000 },
    );
  },
});

Deno.test({
  name: "ipBytes() gives 4 bytes, 16 bytes or undefined for any text",
  permissions: "none",
  fn() {
    const text = fc.oneof(
      fc.string(),
      fc.string({ unit: fc.constantFrom(..."::::....0129afF%[]/") }),
    );
    fc.assert(
      fc.property(text, (text) => {
        const bytes = ipBytes(text);
        if (bytes !== undefined) assertEquals(ipBytes(formatIp(bytes)), bytes);
      }),
      { numRuns: 5000 },
    );
  },
});
