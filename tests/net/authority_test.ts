// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { NotParsedError } from "../../lib/errors.ts";
import { formatAuthority, formatSocketAddress, parseAuthority } from "../../lib/net/authority.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("parseAuthority() reads IPv4 addresses, bracketed IPv6 addresses and names", () => {
  const cases: [text: string, hostname: string, port: number][] = [
    ["127.0.0.1:9999", "127.0.0.1", 9999],
    ["0.0.0.0:1", "0.0.0.0", 1],
    ["255.255.255.255:65535", "255.255.255.255", 65535],
    ["[::1]:443", "::1", 443],
    ["[::]:443", "::", 443],
    ["[2001:DB8::a:0]:443", "2001:DB8::a:0", 443],
    ["[1:2:3:4:5:6:7:8]:443", "1:2:3:4:5:6:7:8", 443],
    ["[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80],
    ["localhost:80", "localhost", 80],
    ["Node-1.Example.com.:10250", "Node-1.Example.com.", 10250],
    ["_srv._tcp.example:80", "_srv._tcp.example", 80],
    ["10-250-0-4:10250", "10-250-0-4", 10250],
    ["1password.com:443", "1password.com", 443],
    ["worker.1:443", "worker.1", 443],
    ["host:00080", "host", 80],
    [`${"a".repeat(63)}:1`, "a".repeat(63), 1],
    [`${"a.".repeat(127)}b:1`, `${"a.".repeat(127)}b`, 1],
  ];
  for (const [text, hostname, port] of cases) {
    assertEquals(parseAuthority(text), { hostname, port }, text);
  }
});

test("parseAuthority() refuses everything else and says what is wrong", () => {
  const cases: [text: string, problem: string][] = [
    ["", "it is empty"],
    ["foo", "no port"],
    ["foo:", "no port"],
    ["[::1]", "no port"],
    ["[::1]:", "no port"],
    [":80", ": no host"],
    ["foo:0", "the port is not in 1 to 65535"],
    ["foo:65536", "the port is not in 1 to 65535"],
    ["foo:000080", "the port is not in 1 to 65535"],
    ["foo:-1", "the port is not a number"],
    ["foo:+80", "the port is not a number"],
    ["foo: 80", "the port is not a number"],
    ["foo:8e1", "the port is not a number"],
    ["foo:0x50", "the port is not a number"],
    ["foo:http", "the port is not a number"],
    ["foo:٨٠", "the port is not a number"],
    ["foo:80\n", "the port is not a number"],
    ["::1:80", "an IPv6 address needs brackets"],
    ["a:b:80", "too many colons"],
    ["[::1:80", 'no "]"'],
    ["[::1]80", 'only a port may follow the "]"'],
    ["[]:80", "not an IPv6 address"],
    ["[127.0.0.1]:80", "not an IPv6 address"],
    ["[localhost]:80", "not an IPv6 address"],
    ["[:::1]:80", "not an IPv6 address"],
    ["[1::2::3]:80", "not an IPv6 address"],
    ["[12345::]:80", "not an IPv6 address"],
    ["[1:2:3:4:5:6:7]:80", "not an IPv6 address"],
    ["[1:2:3:4:5:6:7:8:9]:80", "not an IPv6 address"],
    ["[1:2:3:4::5:6:7:8]:80", "not an IPv6 address"],
    ["[10.0.0.1::]:80", "not an IPv6 address"],
    ["[::ffff:10.0.0.256]:80", "not an IPv6 address"],
    ["[v1.fe80]:80", "not an IPv6 address"],
    ["[fe80::1%eth0]:80", "zone ids"],
    ["[fe80::1%25eth0]:80", "zone ids"],
    ["user@host:80", "user information"],
    ["user:secret@host:80", "user information"],
    ["http://host:80", "a URL or path"],
    ["host:80/", "a URL or path"],
    ["/metrics", "a URL or path"],
    ["host:80?x", "a URL or path"],
    ["http://host:80/a?token=b&c=d", "a URL or path"],
    ["h%6Fst:80", "percent-encoding"],
    ["ho st:80", "a character that is not allowed in host names"],
    ["höst:80", "a character that is not allowed in host names"],
    ["host\0:80", "a character that is not allowed in host names"],
    ["*:80", "a character that is not allowed in host names"],
    ["host]:80", "a character that is not allowed in host names"],
    [".host:80", "an empty label"],
    ["a..b:80", "an empty label"],
    [".:80", "an empty label"],
    ["host..:80", "an empty label"],
    [`${"a".repeat(64)}:80`, "longer than 63"],
    [`${"a.".repeat(128)}:80`, "longer than 255"],
    ["256.0.0.1:80", "not an IPv4 address"],
    ["1.2.3:80", "not an IPv4 address"],
    ["1.2.3.4.5:80", "not an IPv4 address"],
    ["1.2.3.4.:80", "not an IPv4 address"],
    ["127.1:80", "not an IPv4 address"],
    ["2130706433:80", "not an IPv4 address"],
    ["0177.0.0.1:80", "not an IPv4 address"],
    ["0x7f000001:80", "not an IPv4 address"],
    ["0X7F.0.0.0x1:80", "not an IPv4 address"],
  ];
  for (const [text, problem] of cases) {
    const error = assertThrows(() => parseAuthority(text), NotParsedError, problem, text);
    const shown = text.replace(/\?.*/, "?***").replace(/^.*@/, "***@");
    assertStringIncludes(error.message, `invalid address ${JSON.stringify(shown).slice(0, 80)}`);
  }
});

test("parseAuthority() takes port 0 and an empty host only where they are allowed", () => {
  const [allowPortZero, allowEmptyHost] = [{ allowPortZero: true }, { allowEmptyHost: true }];
  const hostname = "0.0.0.0";
  assertEquals(parseAuthority("0.0.0.0:0", allowPortZero), { hostname, port: 0 });
  assertEquals(parseAuthority(":8443", allowEmptyHost), { hostname: "", port: 8443 });
  for (
    const [text, options, problem] of [
      [":0", allowEmptyHost, "1 to 65535"],
      [":0", allowPortZero, "no host"],
      [":", allowEmptyHost, "no port"],
      ["[]:80", allowEmptyHost, "not an IPv6 address"],
      ["a:65536", allowPortZero, "0 to 65535"],
    ] as const
  ) assertThrows(() => parseAuthority(text, options), NotParsedError, problem);
});

test("formatSocketAddress() puts IPv6 into brackets", () => {
  assertEquals(formatSocketAddress({ ip: Uint8Array.of(1, 2, 3, 4), port: 80 }), "1.2.3.4:80");
  assertEquals(formatSocketAddress({ ip: new Uint8Array(16), port: 0 }), "[::]:0");
});

const hostname = fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain());

test("parseAuthority() reads back what formatAuthority() writes", () => {
  fc.assert(
    fc.property(hostname, fc.integer({ min: 1, max: 65535 }), (hostname, port) => {
      assertEquals(parseAuthority(formatAuthority({ hostname, port })), { hostname, port });
    }),
    { numRuns: 1000 },
  );
});

test("parseAuthority() throws only NotParsedError, and what it takes can be written again", () => {
  const character = fc.constantFrom(..."[]:.%@/-_ \n\0aF019xé");
  const text = fc.oneof(fc.string(), fc.string({ unit: character }));
  fc.assert(
    fc.property(text, (text) => {
      let authority;
      try {
        authority = parseAuthority(text);
      } catch (error) {
        return error instanceof NotParsedError;
      }
      assertEquals(parseAuthority(formatAuthority(authority)), authority);
      return true;
    }),
    { numRuns: 5000 },
  );
});
