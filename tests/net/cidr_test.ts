// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { NotParsedError } from "../../lib/errors.ts";
import { type Cidr, cidrContains, formatCidr, parseCidr } from "../../lib/net/cidr.ts";
import { formatIp, ipBytes, mapIp } from "../../lib/net/ip_address.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("parseCidr() reads networks, and addresses as networks of one", () => {
  assertEquals(parseCidr("10.0.0.0/8"), {
    network: Uint8Array.of(10, 0, 0, 0),
    prefixLength: 8,
  });
  const cases: [text: string, canonical: string][] = [
    ["0.0.0.0/0", "0.0.0.0/0"],
    ["192.168.128.0/17", "192.168.128.0/17"],
    ["127.0.0.1/32", "127.0.0.1/32"],
    ["127.0.0.1", "127.0.0.1/32"],
    ["::/0", "::/0"],
    ["::1", "::1/128"],
    ["2001:DB8:0::/32", "2001:db8::/32"],
    ["fe80::/10", "fe80::/10"],
    ["::ffff:0:0/96", "0.0.0.0/0"],
    ["::ffff:10.0.0.0/104", "10.0.0.0/8"],
    ["::ffff:10.0.0.1/128", "10.0.0.1/32"],
    ["::ffff:10.0.0.1", "10.0.0.1/32"],
    ["::/80", "::/80"],
  ];
  for (const [text, canonical] of cases) {
    assertEquals(formatCidr(parseCidr(text)), canonical, text);
  }
});

test("parseCidr() names the network that was meant when bits beyond the prefix are set", () => {
  const cases: [text: string, meant: string][] = [
    ["10.0.0.1/8", "10.0.0.0/8"],
    ["0.0.0.1/0", "0.0.0.0/0"],
    ["192.168.129.0/16", "192.168.0.0/16"],
    ["127.0.0.1/31", "127.0.0.0/31"],
    ["2001:db8::1/32", "2001:db8::/32"],
    ["::1/127", "::/127"],
    ["::ffff:10.0.0.1/104", "::ffff:10.0.0.0/104"],
    ["::ffff:0.0.0.0/95", "::fffe:0:0/95"],
    ["::ffff:10.0.0.0/80", "::/80"],
  ];
  for (const [text, meant] of cases) {
    const error = assertThrows(() => parseCidr(text), NotParsedError);
    const problem = `host bits are set, the network is ${meant}`;
    assertEquals(error.message, `invalid network "${text}": ${problem}`);
    parseCidr(meant); // does not throw
  }
});

test("parseCidr() refuses everything else and says what is wrong", () => {
  const cases: [text: string, problem: string][] = [
    ["", "no IP address"],
    ["/8", "no IP address"],
    ["localhost/8", "no IP address"],
    ["10/8", "no IP address"],
    ["10.0.0/8", "no IP address"],
    ["10.0.0.0:80/8", "no IP address"],
    ["[::1]/128", "no IP address"],
    ["fe80::%eth0/64", "no IP address"],
    [" 10.0.0.0/8", "no IP address"],
    ["10.0.0.0/", "not a decimal number"],
    ["10.0.0.0/08", "without leading zeros"],
    ["10.0.0.0/00", "without leading zeros"],
    ["10.0.0.0/+8", "not a decimal number"],
    ["10.0.0.0/-8", "not a decimal number"],
    ["10.0.0.0/8 ", "not a decimal number"],
    ["10.0.0.0/8/8", "not a decimal number"],
    ["10.0.0.0/0x8", "not a decimal number"],
    ["10.0.0.0/255.0.0.0", "not a decimal number"],
    ["10.0.0.0/٨", "not a decimal number"],
    ["10.0.0.0/33", "not in 0 to 32"],
    ["10.0.0.0/99999999999999999999", "not in 0 to 32"],
    ["::/129", "not in 0 to 128"],
    ["::ffff:10.0.0.0/129", "not in 0 to 128"],
  ];
  for (const [text, problem] of cases) {
    const error = assertThrows(() => parseCidr(text), NotParsedError, problem, text);
    assert(error.message.startsWith(`invalid network ${JSON.stringify(text)}: `), error.message);
  }
});

test("cidrContains() compares the bits of the prefix, and keeps IPv4 and IPv6 apart", () => {
  for (
    const [network, address, expected] of [
      ["192.168.128.0/17", "192.168.255.1", true],
      ["192.168.128.0/17", "192.168.127.255", false],
      ["127.0.0.1", "127.0.0.2", false],
      ["2001:db8::/33", "2001:db8:7fff::1", true],
      ["2001:db8::/33", "2001:db8:8000::", false],
      ["::/0", "10.0.0.1", false],
      ["::/80", "::ffff:10.0.0.1", false],
      ["0.0.0.0/0", "::1", false],
      ["::ffff:10.0.0.0/104", "10.1.2.3", true],
      ["10.0.0.0/8", "::ffff:10.1.2.3", true],
    ] as const
  ) {
    assertEquals(cidrContains(parseCidr(network), ipBytes(address)!), expected, network);
  }
  // Even where the caller has not brought the address into its one form.
  const mapped = mapIp(Uint8Array.of(10, 1, 2, 3));
  assertEquals(cidrContains(parseCidr("10.0.0.0/8"), mapped), true);
  assertEquals(cidrContains(parseCidr("::/0"), mapped), false);
});

const ip = fc.oneof(
  fc.uint8Array({ minLength: 4, maxLength: 4 }),
  fc.uint8Array({ minLength: 16, maxLength: 16 }),
);

/** A digit per bit. */
function bitsOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("");
}

function bytesOf(bits: string): Uint8Array {
  return Uint8Array.from(bits.match(/.{8}/g) ?? [], (byte) => Number.parseInt(byte, 2));
}

const cidr = fc.tuple(ip, fc.nat()).map(([ip, length]): Cidr => {
  const bits = bitsOf(ip);
  const prefixLength = length % (bits.length + 1);
  const network = bytesOf(bits.slice(0, prefixLength).padEnd(bits.length, "0"));
  return { network, prefixLength };
});

test("cidrContains() agrees with a comparison bit by bit", () => {
  fc.assert(
    fc.property(cidr, ip, fc.nat(), (cidr, other, at) => {
      const expected = (address: Uint8Array) =>
        address.length === cidr.network.length &&
        bitsOf(address).startsWith(bitsOf(cidr.network).slice(0, cidr.prefixLength));
      assertEquals(cidrContains(cidr, other), expected(other));
      // An address that differs in one bit decides where the prefix ends.
      const bits = bitsOf(cidr.network);
      at %= bits.length;
      const flipped = bits.slice(0, at) + (bits[at] === "0" ? "1" : "0") + bits.slice(at + 1);
      assertEquals(cidrContains(cidr, bytesOf(flipped)), at >= cidr.prefixLength);
      assertEquals(cidrContains(cidr, cidr.network), true);
    }),
    { numRuns: 5000 },
  );
});

test("parseCidr() reads back what formatCidr() writes, and refuses one bit more", () => {
  fc.assert(
    fc.property(cidr, fc.nat(), (cidr, at) => {
      assertEquals(parseCidr(formatCidr(cidr)), cidr);
      const bits = bitsOf(cidr.network);
      if (cidr.prefixLength === bits.length) return;
      at = cidr.prefixLength + at % (bits.length - cidr.prefixLength);
      const address = bytesOf(`${bits.slice(0, at)}1${bits.slice(at + 1)}`);
      const text = `${formatIp(address)}/${cidr.prefixLength}`;
      assertThrows(() => parseCidr(text), NotParsedError, `the network is ${formatCidr(cidr)}`);
    }),
    { numRuns: 2000 },
  );
});

test("parseCidr() throws only NotParsedError, and what it takes can be written again", () => {
  const text = fc.oneof(
    fc.string(),
    fc.string({ unit: fc.constantFrom(..."::..//0128fF") }),
    fc.tuple(fc.oneof(fc.ipV4(), fc.ipV6()), fc.integer({ min: -1, max: 130 }))
      .map((parts) => parts.join("/")),
  );
  fc.assert(
    fc.property(text, (text) => {
      let cidr;
      try {
        cidr = parseCidr(text);
      } catch (error) {
        return error instanceof NotParsedError;
      }
      assertEquals(parseCidr(formatCidr(cidr)), cidr);
      return true;
    }),
    { numRuns: 5000 },
  );
});
