// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  formatIp,
  ipBytes,
  isIpAddress,
  mapIp,
  socketAddress,
  unmapIp,
} from "../../lib/net/ip_address.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("ipBytes() reads every notation of an address", () => {
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
  for (const [text, bytes] of cases) assertEquals(ipBytes(text)?.toHex(), bytes, text);
});

test("ipBytes() takes an IPv4-mapped IPv6 address for its IPv4 address", () => {
  for (const text of ["::ffff:10.0.0.1", "::FFFF:a00:1", "0:0:0:0:0:ffff:0a00:0001"]) {
    assertEquals(ipBytes(text)?.toHex(), "0a000001", text);
  }
  for (const text of ["::fffe:a00:1", "::1:ffff:a00:1", "::ffff:0:a00:1"]) {
    assertEquals(ipBytes(text)?.length, 16, text);
  }
});

test("ipBytes() and isIpAddress() refuse what is no address", () => {
  for (
    const text of ["", "localhost", "10.0.0", "010.0.0.1", "256.0.0.1", "10.0.0.1.", " ::1"]
      .concat([":", ":::", "1::2::3", "12345::", "::g", "[::1]", "fe80::1%eth0", "::1/128"])
      .concat(["1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4::5:6:7:8", "1.2.3.4::"])
      .concat(["1:2:3:4:5:6:7:1.2.3.4", "::1.2.3.4:1", "::ffff:10.0.0.256", "1.2.3.4::1.2.3.4"])
  ) {
    assertEquals(ipBytes(text), undefined, text);
    assertEquals(isIpAddress(text), 0, text);
  }
});

test("isIpAddress() tells the version of the notation", () => {
  assertEquals(["10.0.0.1", "::1", "::ffff:10.0.0.1"].map(isIpAddress), [4, 6, 6]);
});

test("formatIp() writes the canonical form of RFC 5952", () => {
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
});

test("formatIp() refuses what is no address", () => {
  for (const length of [0, 3, 5, 15, 17]) {
    assertThrows(() => formatIp(new Uint8Array(length)), RangeError, `${length} bytes`);
  }
});

test("mapIp() and unmapIp() leave other addresses as they are", () => {
  const [v4, v6] = [ipBytes("192.0.2.1")!, ipBytes("2001:db8::1")!];
  assertEquals(mapIp(v4).toHex(), "00000000000000000000ffffc0000201");
  assertEquals(formatIp(mapIp(v4)), "::ffff:192.0.2.1");
  assertEquals(unmapIp(mapIp(v4)), v4);
  assertEquals([mapIp(v6), unmapIp(v6), unmapIp(v4)], [v6, v6, v4]);
});

test("socketAddress() keeps to the addresses and ports there are", () => {
  assertEquals(socketAddress("1.2.3.4", 0), { ip: Uint8Array.of(1, 2, 3, 4), port: 0 });
  assertEquals(socketAddress("::ffff:1.2.3.4", 65535), {
    ip: Uint8Array.of(1, 2, 3, 4),
    port: 65535,
  });
  for (const hostname of ["", "localhost", "[::1]", "fe80::1%2"]) {
    assertEquals(socketAddress(hostname, 80), undefined, hostname);
  }
  for (const port of [-1, 65536, 1.5, NaN, Infinity]) {
    assertEquals(socketAddress("::1", port), undefined, String(port));
  }
});

test("ipBytes() reads back what formatIp() writes, and that is the one text of an address", () => {
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
      assertEquals(ipBytes(formatIp(bytes))?.toHex(), unmapIp(bytes).toHex());
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
});

test("ipBytes() gives 4 bytes, 16 bytes or undefined for any text", () => {
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
});
