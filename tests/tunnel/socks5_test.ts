// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import { formatSocks5Reply, Socks5Parser, type Socks5Result } from "../../lib/tunnel/socks5.ts";
import { failureCodes } from "../../lib/tunnel/failure.ts";
import { formatIp, ipBytes } from "../../lib/net/ip_address.ts";
import { concat } from "../support/bytes.ts";
import { runs } from "../support/fuzz.ts";
import { bytesOf, textOf } from "../support/push_parser.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `Socks5Parser${name}`, permissions: "none", fn });
}

const GREETING = Uint8Array.of(5, 1, 0);
const ZEROS = [0, 1, 0, 0, 0, 0, 0, 0];

/** The results other than `incomplete`, of bytes that come in pieces of a size. */
function parse(bytes: Uint8Array, pieceBytes = bytes.length || 1): Socks5Result[] {
  const parser = new Socks5Parser();
  const results: Socks5Result[] = [];
  for (let i = 0; i < bytes.length; i += pieceBytes) {
    let result = parser.push(bytes.slice(i, i + pieceBytes));
    if (result.kind === "greeting") {
      results.push(result);
      result = parser.push(new Uint8Array(0));
    }
    if (result.kind === "incomplete") continue;
    if (result.kind === "connect") {
      result = { ...result, rest: concat(result.rest, bytes.subarray(i + pieceBytes)) };
    }
    return [...results, result];
  }
  return results;
}

/** What a request after a greeting comes to. */
function request(...bytes: number[]): Socks5Result {
  return parse(concat(GREETING, Uint8Array.from(bytes))).at(-1)!;
}

const named = (
  name: string,
  port = [0, 80],
) => [5, 1, 0, 3, name.length, ...bytesOf(name), ...port];

test(" accepts a client without a password, and reads IPv4, IPv6 and names", () => {
  for (const greeting of [[5, 1, 0], [5, 2, 2, 0], [5, 3, 0, 1, 2]]) {
    assertEquals(parse(Uint8Array.from(greeting)), [{
      kind: "greeting",
      reply: Uint8Array.of(5, 0),
    }]);
  }
  const rest = new Uint8Array(0);
  const connect = (hostname: string, port: number): Socks5Result => ({
    kind: "connect",
    target: { hostname, port },
    rest,
  });
  assertEquals(request(5, 1, 0, 1, 192, 0, 2, 1, 0x1f, 0x90), connect("192.0.2.1", 8080));
  const ipv6 = [...ipBytes("2001:db8::1")!];
  assertEquals(request(5, 1, 0, 4, ...ipv6, 0, 22), connect("2001:db8::1", 22));
  assertEquals(request(...named("db.internal")), connect("db.internal", 80));
  // Clients that do not resolve names send addresses as names, too.
  assertEquals(request(...named("192.0.2.1")), connect("192.0.2.1", 80));
  assertEquals(request(...named("::1")), connect("::1", 80));
});

test(" rejects with the reply of RFC 1928 and the cause", () => {
  const cases: [bytes: number[], reply: number[], reason: RegExp][] = [
    [[4, 1], [5, 1, ...ZEROS], /SOCKS version 4, only 5/],
    [[5, 0], [5, 0xff], /does not offer/],
    [[5, 2, 1, 2], [5, 0xff], /does not offer/],
    [[...GREETING, 4], [5, 1, ...ZEROS], /SOCKS version 4/],
    [[...GREETING, 5, 2, 0, 1, 0], [5, 7, ...ZEROS], /command 2/],
    [[...GREETING, 5, 3, 0, 1, 0], [5, 7, ...ZEROS], /command 3/],
    [[...GREETING, 5, 1, 1, 1, 0], [5, 1, ...ZEROS], /reserved SOCKS byte 0x01/],
    [[...GREETING, 5, 1, 0, 2, 0], [5, 8, ...ZEROS], /address type 2/],
    [[...GREETING, ...named("")], [5, 1, ...ZEROS], /no host/],
    [[...GREETING, ...named("a b")], [5, 1, ...ZEROS], /not allowed in host names/],
    [[...GREETING, ...named("a\0.b")], [5, 1, ...ZEROS], /not allowed in host names/],
    [[...GREETING, ...named("a@b")], [5, 1, ...ZEROS], /not allowed in host names/],
    [[...GREETING, ...named("127.1")], [5, 1, ...ZEROS], /not an IPv4 address/],
    [[...GREETING, ...named("0x7f000001")], [5, 1, ...ZEROS], /not an IPv4 address/],
    [[...GREETING, ...named("fe80::1%eth0")], [5, 1, ...ZEROS], /percent/],
    [[...GREETING, ...named("a", [0, 0])], [5, 1, ...ZEROS], /port 0/],
  ];
  for (const [bytes, reply, reason] of cases) {
    const result = parse(Uint8Array.from(bytes)).at(-1)!;
    assert(result.kind === "reject", `${bytes}`);
    assertEquals([...result.reply], reply, `${bytes}`);
    assertMatch(result.reason, reason);
  }
});

test(" reads any request however it is cut, and leaves what follows unaltered", () => {
  const target = fc.record({
    hostname: fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()),
    port: fc.integer({ min: 1, max: 65535 }),
  });
  fc.assert(
    fc.property(target, fc.uint8Array({ maxLength: 40 }), fc.integer({ min: 1, max: 300 }), (
      { hostname, port },
      rest,
      pieceBytes,
    ) => {
      const ip = ipBytes(hostname);
      const head = ip
        ? [5, 1, 0, ip.length === 4 ? 1 : 4, ...ip, port >> 8, port & 0xff]
        : named(hostname, [port >> 8, port & 0xff]);
      const bytes = concat(GREETING, Uint8Array.from(head), rest);
      assertEquals(parse(bytes, pieceBytes), [
        { kind: "greeting", reply: Uint8Array.of(5, 0) },
        {
          kind: "connect",
          target: { hostname: ip ? formatIp(ip) : hostname, port },
          rest: bytesOf(textOf(rest)),
        },
      ]);
    }),
    runs(500),
  );
});

test(" judges any bytes without throwing, the same whatever the cuts", () => {
  const bytes = fc.tuple(
    fc.constantFrom([], [5], [5, 1, 0], [5, 1, 0, 5, 1, 0], [5, 1, 0, 5, 1, 0, 3]),
    fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 300 }),
  ).map((parts) => Uint8Array.from(parts.flat()));
  fc.assert(
    fc.property(bytes, fc.integer({ min: 1, max: 9 }), (bytes, pieceBytes) => {
      assertEquals(parse(bytes, pieceBytes), parse(bytes));
    }),
    runs(2000),
  );
});

Deno.test("formatSocks5Reply() has a reply for success and for each failure", () => {
  assertEquals([...formatSocks5Reply()], [5, 0, ...ZEROS]);
  const replies = failureCodes.map((code) => [code, formatSocks5Reply(code)[1]]);
  assertEquals(Object.fromEntries(replies), {
    "bad-request": 1,
    "refused": 5,
    "timeout": 4,
    "unreachable": 3,
    "unknown-name": 4,
    "denied": 2,
    "overloaded": 1,
    "draining": 1,
    "internal-error": 1,
  });
});
