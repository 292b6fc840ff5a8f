// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertLess, assertMatch, assertThrows } from "@std/assert";
import fc from "fast-check";
import { Buffer } from "node:buffer";
import { ipBytes, type SocketAddress, socketAddress, unmapIp } from "../../lib/net/ip_address.ts";
import {
  formatProxyHeader,
  ProxyHeaderParser,
  type ProxyHeaderResult,
} from "../../lib/tunnel/proxy_protocol.ts";
import { concat } from "../support/bytes.ts";
import { runs } from "../support/fuzz.ts";
import { bytesOf, everyCut, pushInPieces, someCuts, textOf } from "../support/push_parser.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

/** Bytes from hexadecimal digits, two a byte; spaces are for the eye. */
function fromHex(digits: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.fromHex(digits.replaceAll(" ", ""));
}

function parse(bytes: Uint8Array): ProxyHeaderResult {
  return new ProxyHeaderParser().push(bytes);
}

/** A header of version 2 from its 13th byte on; the length, where it is left out, is right. */
function v2(commandAndFamily: string, block = "", length = fromHex(block).length): Uint8Array {
  const lengthHex = length.toString(16).padStart(4, "0");
  return fromHex(`${SIGNATURE}${commandAndFamily}${lengthHex}${block}`);
}

/** CRC32c by polynomial division, one bit after another from the least one of each byte. */
function referenceCrc32c(bytes: Uint8Array): number {
  let register = 0xffffffff;
  for (const byte of bytes) {
    for (let i = 0; i < 8; i++) {
      const out = (register >>> 31) ^ ((byte >> i) & 1);
      register = (register << 1) ^ (out === 1 ? 0x1edc6f41 : 0);
    }
  }
  const bits = (~register >>> 0).toString(2).padStart(32, "0");
  return Number.parseInt([...bits].reverse().join(""), 2);
}

const SIGNATURE = "0d0a0d0a000d0a515549540a";
const CLIENT = socketAddress("192.0.2.1", 56670)!;
const LISTENER = socketAddress("198.51.100.7", 443)!;
const CLIENT6 = socketAddress("2001:db8::1", 1)!;
const LISTENER6 = socketAddress("2001:db8::2", 65535)!;
const ipv4 = { client: CLIENT, listener: LISTENER };
const ipv6 = { client: CLIENT6, listener: LISTENER6 };
const mixed = { client: CLIENT, listener: LISTENER6 };
const NOTHING = new Uint8Array(0);
const header = { kind: "header", rest: NOTHING } as const;

const V4 = "c0000201 c6336407 dd5e 01bb";
const V6 = "20010db8000000000000000000000001 20010db8000000000000000000000002 0001 ffff";
const MIXED = "00000000000000000000ffffc0000201 20010db8000000000000000000000002 dd5e ffff";

/** A header of version 1. */
const line = (text: string) => bytesOf(`PROXY ${text}\r\n`);

/** Headers and all that they tell. */
const vectors: [
  bytes: Uint8Array,
  version: 1 | 2,
  told: Parameters<typeof formatProxyHeader>[1],
][] = [
  [line("TCP4 192.0.2.1 198.51.100.7 56670 443"), 1, ipv4],
  [line("TCP6 2001:db8::1 2001:db8::2 1 65535"), 1, ipv6],
  [line("TCP6 ::ffff:192.0.2.1 2001:db8::2 56670 65535"), 1, mixed],
  [line("UNKNOWN"), 1, {}],
  [v2("2111", V4), 2, ipv4],
  [v2("2121", V6), 2, ipv6],
  [v2("2121", MIXED), 2, mixed],
  [v2("2100"), 2, {}],
  [v2("2100", "050002abcd"), 2, { uniqueId: fromHex("abcd") }],
  [v2("2111", `${V4} 050001ff`), 2, { ...ipv4, uniqueId: fromHex("ff") }],
];

test("formatProxyHeader() writes the bytes of the specification", () => {
  for (const [bytes, version, told] of vectors) {
    assertEquals(formatProxyHeader(version, told).toHex(), bytes.toHex());
  }
});

test("formatProxyHeader() says that both addresses are unknown when one is", () => {
  for (const told of [{ client: CLIENT }, { listener: LISTENER6 }, { client: undefined }]) {
    assertEquals(textOf(formatProxyHeader(1, told)), "PROXY UNKNOWN\r\n");
    assertEquals(formatProxyHeader(2, told).toHex(), `${SIGNATURE}21000000`);
  }
});

test("ProxyHeaderParser reads the bytes of the specification", () => {
  for (const [bytes, , { client, listener }] of vectors) {
    const addresses = client && listener ? { client, listener } : {};
    assertEquals(parse(bytes), { ...header, ...addresses }, bytes.toHex());
  }
});

test("ProxyHeaderParser gives the bytes behind the header as a copy, of a node Buffer as well", () => {
  for (const [bytes] of vectors) {
    const chunk = Buffer.from(concat(bytes, fromHex("0d0a5052")));
    const result = parse(chunk);
    chunk.fill(0);
    assertEquals(result, { ...parse(bytes), rest: fromHex("0d0a5052") } as ProxyHeaderResult);
  }
});

test("ProxyHeaderParser takes any notation of an address in version 1, and all ports", () => {
  const long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
  assertEquals(parse(bytesOf(`PROXY TCP6 ${long} ${long} 65535 65535\r\n`)), {
    ...header,
    client: { ip: new Uint8Array(16).fill(0xff), port: 65535 },
    listener: { ip: new Uint8Array(16).fill(0xff), port: 65535 },
  });
  assertEquals(parse(bytesOf("PROXY TCP6 ::FFFF:c000:201 0:0::1 0 1\r\n")), {
    ...header,
    client: { ip: ipBytes("192.0.2.1")!, port: 0 },
    listener: { ip: ipBytes("::1")!, port: 1 },
  });
});

test("ProxyHeaderParser ignores what follows UNKNOWN, up to 107 bytes in all", () => {
  const longest = `${"PROXY UNKNOWN ".padEnd(105, "f")}\r\n`;
  for (
    const line of ["PROXY UNKNOWN \r\n", "PROXY UNKNOWN x  \0\xff 1\r\n", longest]
      .concat("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n")
  ) {
    const rest = bytesOf("rest");
    assertEquals(parse(bytesOf(`${line}rest`)), { ...header, rest }, line);
  }
});

test("ProxyHeaderParser takes a LOCAL header for what its length says, and no more", () => {
  assertEquals(parse(v2("2000")), header);
  assertEquals(parse(v2("2011", "c0000201c6336407dd5e01bb")), header);
  // Neither a family that there is not, nor a block that is cut, is looked at.
  assertEquals(parse(v2("20ff", "0500")), header);
  assertEquals(parse(v2("2011", "0300040000000005000101")), header);
  assertEquals(parse(v2("2000", "00".repeat(2048))), header);
});

test("ProxyHeaderParser gives no addresses of other families and protocols", () => {
  const addressBytes = {
    "00": 0,
    "01": 0,
    "02": 0,
    10: 12,
    12: 12,
    20: 36,
    22: 36,
    30: 216,
    32: 216,
  };
  for (const [family, length] of Object.entries(addressBytes)) {
    // The TLV behind the addresses is found.
    const bytes = v2(`21${family}`, `${"ff".repeat(length)}050001ee`);
    assertEquals(parse(bytes), header, family);
    assertEquals(parse(v2(`21${family}`, `${"ff".repeat(length)}050002ee`)).kind, "reject", family);
  }
});

test("ProxyHeaderParser takes a header of any TLVs, up to 2048 bytes, and a unique id up to 128", () => {
  assertEquals(parse(v2("2100", "010000 0500010a 04000100 e00003ffffff 050000 20000100")), header);
  assertEquals(parse(v2("2100", `050080${"aa".repeat(128)}04077a${"00".repeat(0x77a)}`)), header);
});

test("ProxyHeaderParser verifies a checksum over the whole header", () => {
  assertEquals(referenceCrc32c(bytesOf("123456789")), 0xe3069283);
  // The checksum was computed elsewhere.
  const good = v2("2111", "c0000201c6336407dd5e01bb 030004fcdd81bc 0500046162632d");
  assertEquals(parse(good), { ...header, client: CLIENT, listener: LISTENER });
  for (let at = 16; at < good.length; at++) {
    // The types and lengths of the TLVs give other reasons.
    if ((at >= 28 && at < 31) || (at >= 35 && at < 38)) continue;
    for (const bit of [1, 0x80]) {
      const bad = good.slice();
      bad[at]! ^= bit;
      assertEquals(parse(bad), {
        kind: "reject",
        reason: "a PROXY header with a wrong checksum",
      });
    }
  }
});

test("ProxyHeaderParser rejects as soon as the bytes cannot become a header", () => {
  const signature = fromHex(SIGNATURE);
  const no = "no PROXY header";
  const alone = "a CR or LF on its own in the PROXY line";
  const tooLong = "the PROXY line is longer than 107 bytes";
  const protocol = "the PROXY line names no known protocol";
  const fields = "the PROXY line does not have 5 fields";
  const source = "an invalid source address or port in the PROXY line";
  const destination = "an invalid destination address or port in the PROXY line";
  const command = "an unknown PROXY version or command";
  const family = "an unknown PROXY address family or protocol";
  const tooShort = "a PROXY header too short for its addresses";
  const v2TooLong = "a PROXY header longer than 2048 bytes";
  const cut = "a PROXY header that ends within a TLV";
  // Each ends with the byte that gives it away: all before it must be merely too few.
  const cases: [bytes: Uint8Array, reason: string][] = [
    [bytesOf("\0"), no],
    [bytesOf("G"), no],
    [bytesOf("p"), no],
    [bytesOf("\n"), no],
    [bytesOf("\x16"), no],
    [bytesOf("PRI"), no],
    [bytesOf("PROXY\r"), no],
    [bytesOf("PROXY\t"), no],
    ...Array.from({ length: 11 }, (_, i): [Uint8Array, string] => {
      return [concat(signature.subarray(0, i + 1), Uint8Array.of(signature[i + 1]! ^ 1)), no];
    }),

    [bytesOf("PROXY \n"), alone],
    [bytesOf("PROXY \r\r"), alone],
    [bytesOf("PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n"), alone],
    [bytesOf("PROXY TCP4 192.0.2.1\rx"), alone],
    [bytesOf("PROXY UNKNOWN x\n"), alone],
    [bytesOf("PROXY UNKNOWN\r\0"), alone],
    [bytesOf("PROXY UNKNOWN ".padEnd(107, "x")), tooLong],
    [bytesOf(`${"PROXY UNKNOWN ".padEnd(106, "x")}\r`), tooLong],
    [bytesOf("PROXY TCP4 ".padEnd(107, "1")), tooLong],

    [line(""), protocol],
    [line(" TCP4 192.0.2.1 198.51.100.7 1 2"), protocol],
    [line("TCP5 192.0.2.1 198.51.100.7 1 2"), protocol],
    [line("tcp4 192.0.2.1 198.51.100.7 1 2"), protocol],
    [line("UDP4 192.0.2.1 198.51.100.7 1 2"), protocol],
    [line("unknown"), protocol],
    [line("UNKNOWN\t"), protocol],
    [line("UNKNOWNX"), protocol],
    [line("TCP4\t192.0.2.1 198.51.100.7 1 2"), protocol],
    [line("TCP4"), fields],
    [line("TCP4 192.0.2.1 198.51.100.7 1"), fields],
    [line("TCP4 192.0.2.1 198.51.100.7 1 2 3"), fields],
    [line("TCP4 192.0.2.1 198.51.100.7 1 2 "), fields],
    [line("TCP4  192.0.2.1 198.51.100.7 1 2"), fields],
    [line("TCP4 192.0.2.1 198.51.100.7\t1 2"), fields],
    [line("TCP4  198.51.100.7 1 2"), source],
    [line("TCP4 2001:db8::1 198.51.100.7 1 2"), source],
    [line("TCP4 ::ffff:192.0.2.1 198.51.100.7 1 2"), source],
    [line("TCP4 192.0.2.01 198.51.100.7 1 2"), source],
    [line("TCP4 192.0.2 198.51.100.7 1 2"), source],
    [line("TCP4 192.0.2.256 198.51.100.7 1 2"), source],
    [line("TCP4 localhost 198.51.100.7 1 2"), source],
    [line("TCP6 192.0.2.1 2001:db8::2 1 2"), source],
    [line("TCP6 [::1] 2001:db8::2 1 2"), source],
    [line("TCP6 fe80::1%eth0 2001:db8::2 1 2"), source],
    [line("TCP6 1:2:3:4:5:6:7 2001:db8::2 1 2"), source],
    ...["", "00", "01", "+1", "-1", "1.0", "0x1", "65536", "100000", "1\t", "\xb2"].map(
      (port): [Uint8Array, string] => [line(`TCP4 192.0.2.1 198.51.100.7 ${port} 2`), source],
    ),
    [line("TCP4 192.0.2.1 2001:db8::2 1 2"), destination],
    [line("TCP6 2001:db8::1 198.51.100.7 1 2"), destination],
    [line("TCP6 2001:db8::1  1 2"), destination],
    [line("TCP4 192.0.2.1 198.51.100.7 1 02"), destination],
    [line("TCP4 192.0.2.1 198.51.100.7 1 65536"), destination],

    ...["00", "01", "11", "22", "2f", "31", "a1"].map(
      (byte): [Uint8Array, string] => [fromHex(SIGNATURE + byte), command],
    ),
    ...["03", "13", "1f", "23", "33", "40", "41", "f1"].map(
      (byte): [Uint8Array, string] => [fromHex(`${SIGNATURE}21${byte}`), family],
    ),
    [v2("2111", "", 2049), v2TooLong],
    [v2("2100", "", 65535), v2TooLong],
    [v2("2000", "", 2049), v2TooLong],
    [v2("2111", "", 11), tooShort],
    [v2("2112", "", 0), tooShort],
    [v2("2110", "", 11), tooShort],
    [v2("2121", "", 35), tooShort],
    [v2("2122", "", 12), tooShort],
    [v2("2131", "", 215), tooShort],
    [v2("2100", "04"), cut],
    [v2("2100", "0400"), cut],
    [v2("2100", "040001"), cut],
    [v2("2100", "04ffff00"), cut],
    [v2("2100", "04000005"), cut],
    [v2("2111", "c0000201c6336407dd5e01bb05000301aa"), cut],
    [v2("2112", "c0000201c6336407dd5e01bb05"), cut],
    [v2("2100", "030003000000"), "a PROXY checksum that does not have 4 bytes"],
    [v2("2100", "0300050000000000"), "a PROXY checksum that does not have 4 bytes"],
    [v2("2100", "030000"), "a PROXY checksum that does not have 4 bytes"],
    [v2("2100", "03000400000000"), "a PROXY header with a wrong checksum"],
    [v2("2100", `050081${"00".repeat(129)}`), "a PROXY unique ID that is too long"],
  ];
  for (const [bytes, reason] of cases) {
    const parser = new ProxyHeaderParser();
    const text = JSON.stringify(textOf(bytes));
    assertEquals(parser.push(bytes.subarray(0, -1)), { kind: "more" }, text);
    assertEquals(parser.push(bytes.subarray(-1)), { kind: "reject", reason }, text);
  }
});

test("ProxyHeaderParser.push() throws after a result", () => {
  for (const text of ["PROXY UNKNOWN\r\n", "\0"]) {
    const parser = new ProxyHeaderParser();
    parser.push(bytesOf(text));
    assertThrows(() => parser.push(NOTHING), TypeError, "already parsed");
  }
});

const rest = fc.uint8Array({ maxLength: 32 });
const version = fc.constantFrom(1 as const, 2 as const);
const ip = fc.oneof(
  fc.uint8Array({ minLength: 4, maxLength: 4 }),
  fc.uint8Array({ minLength: 16, maxLength: 16 }).map(unmapIp),
);
const address: fc.Arbitrary<SocketAddress> = fc.record({
  ip: ip.map((bytes) => Uint8Array.from(bytes)),
  port: fc.integer({ min: 0, max: 65535 }),
});
const told = fc.oneof(
  fc.record({ client: address, listener: address }),
  fc.constant({}),
).chain((addresses) =>
  fc.option(fc.uint8Array({ minLength: 1, maxLength: 128 }), { nil: undefined }).map((id) =>
    id === undefined ? addresses : { ...addresses, uniqueId: Uint8Array.from(id) }
  )
);

test("ProxyHeaderParser reads what formatProxyHeader() writes, whatever the cuts and the rest", () => {
  fc.assert(
    fc.property(version, told, rest, someCuts, (version, told, rest, cuts) => {
      const bytes = concat(formatProxyHeader(version, told), rest);
      const { uniqueId: _, ...addresses } = { uniqueId: undefined, ...told };
      for (const at of [[], cuts, everyCut(bytes)]) {
        assertEquals(pushInPieces(new ProxyHeaderParser(), bytes, at), {
          ...header,
          ...addresses,
          rest: concat(rest),
        });
      }
    }),
    runs(1000),
  );
});

test("ProxyHeaderParser asks for more at every true beginning of a header", () => {
  fc.assert(fc.property(version, told, fc.nat(), (version, told, length) => {
    const bytes = formatProxyHeader(version, told);
    assertEquals(parse(bytes.subarray(0, length % bytes.length)), { kind: "more" });
  }));
});

test("ProxyHeaderParser takes any TLVs, with their checksum and not with another", () => {
  const tlv = fc.record({
    type: fc.integer({ min: 0, max: 255 }).filter((type) => type !== 3 && type !== 5),
    value: fc.uint8Array({ maxLength: 40 }),
  }).map(({ type, value }) => `${Uint8Array.of(type, 0, value.length, ...value).toHex()}`);
  const tlvs = fc.array(tlv, { maxLength: 10 }).map((parts) => parts.join(""));
  fc.assert(
    fc.property(tlvs, tlvs, fc.nat(), (before, after, change) => {
      const start = "c0000201c6336407dd5e01bb";
      const bytes = v2("2111", `${start}${before}03000400000000${after}`);
      const at = 16 + (start.length + before.length) / 2 + 3;
      const view = new DataView(bytes.buffer);
      const sum = referenceCrc32c(bytes);
      view.setUint32(at, sum);
      const expected = { ...header, client: CLIENT, listener: LISTENER };
      assertEquals(parse(bytes), expected);
      view.setUint32(at, sum ^ (1 << (change % 32)));
      assertEquals(parse(bytes).kind, "reject");
    }),
    runs(500),
  );
});

/** Bytes that get past the first few checks more often than evenly drawn ones. */
const piece = fc.oneof(
  fc.constantFrom("PROXY ", "TCP4 ", "TCP6 ", "UNKNOWN", " ", "\r\n", "\r", "\n", "1", "0"),
  fc.constantFrom("192.0.2.1 ", "::1 ", "::ffff:192.0.2.1 "),
  fc.constantFrom("\x21\x11\0\x0c", "\x21\0\0\x08", "\x20\0\x08\0", "\x21\x21\x08\0"),
  fc.constantFrom("\x05\0\x01a", "\x04\0\0", "\x03\0\x04\0\0\0\0", "\0".repeat(12)),
  fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)),
);
const noise = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.tuple(
    fc.constantFrom("", "PROXY ", "PROXY TCP4 ", textOf(fromHex(SIGNATURE))),
    fc.array(piece, { maxLength: 40 }),
    fc.constantFrom(0, 0, 100, 2100),
  ).map(([start, parts, padding]) => bytesOf(`${start}${parts.join("")}${"\0".repeat(padding)}`)),
  fc.tuple(version, told, fc.nat(), fc.uint8Array({ maxLength: 3 })).map(
    ([version, told, at, inserted]) => {
      const bytes = formatProxyHeader(version, told);
      at %= bytes.length + 1;
      const after = at + inserted.length % 2;
      return concat(bytes.subarray(0, at), inserted, bytes.subarray(after));
    },
  ),
);

test("ProxyHeaderParser judges any bytes without throwing, within its bounds, whatever the cuts", () => {
  const counts = { more: 0, header: 0, reject: 0 };
  fc.assert(
    fc.property(noise, someCuts, (bytes, cuts) => {
      const whole = parse(bytes);
      counts[whole.kind]++;
      assertEquals(pushInPieces(new ProxyHeaderParser(), bytes, cuts), whole);
      const isV1 = bytes[0] === 0x50;
      if (whole.kind === "more") assertLess(bytes.length, isV1 ? 107 : 2064);
      if (whole.kind === "reject") assertMatch(whole.reason, /^[\x20-\x7e]+$/);
      if (whole.kind !== "header") return;
      // A second, independent reading of where the header ends.
      const length = isV1
        ? textOf(bytes).indexOf("\r\n") + 2
        : 16 + new DataView(bytes.buffer, bytes.byteOffset).getUint16(14);
      assertEquals(whole.rest, bytes.slice(length));
      assertEquals(whole.client === undefined, whole.listener === undefined);
      // What was read can be written, and reads the same.
      const again = parse(formatProxyHeader(isV1 ? 1 : 2, whole));
      assertEquals(again, { ...whole, rest: NOTHING });
    }),
    runs(10_000),
  );
  for (const [kind, count] of Object.entries(counts)) {
    assert(count > 100, `only ${count} times ${kind}`);
  }
});
