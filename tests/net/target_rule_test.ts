// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { NotParsedError } from "../../lib/errors.ts";
import { formatRule, parseRule } from "../../lib/net/target_rule.ts";
import { runs } from "../support/fuzz.ts";
import { rule } from "../support/target_rules.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("parseRule() reads networks, names and *, with and without ports", () => {
  const cases: [text: string, canonical: string][] = [
    ["10.0.0.0/8", "10.0.0.0/8"],
    ["10.0.0.0/8:443", "10.0.0.0/8:443"],
    ["10.1.2.3", "10.1.2.3"],
    ["10.1.2.3/32:22", "10.1.2.3:22"],
    ["0.0.0.0/0:1-65535", "0.0.0.0/0:1-65535"],
    ["fd00::/8", "fd00::/8"],
    ["FD00:0::1", "fd00::1"],
    ["[fd00::/8]", "fd00::/8"],
    ["[fd00::/8]:443", "[fd00::/8]:443"],
    ["[::1]:80-90", "[::1]:80-90"],
    ["[::1]:80-80", "[::1]:80"],
    ["[::ffff:10.0.0.0/104]:22", "10.0.0.0/8:22"],
    ["fd00::1:443", "fd00::1:443"],
    ["example.com", "example.com"],
    ["Example.COM.", "example.com"],
    ["*.Example.com.:00443", "*.example.com:443"],
    ["*.svc.cluster.local:80-90", "*.svc.cluster.local:80-90"],
    ["*.com", "*.com"],
    ["_srv._tcp.example", "_srv._tcp.example"],
    ["*", "*"],
    ["*:22", "*:22"],
  ];
  for (const [text, canonical] of cases) {
    assertEquals(formatRule(parseRule(text)), canonical, text);
    assertEquals(parseRule(canonical), parseRule(text));
  }
  assertEquals(parseRule("*.A.b:1-2"), {
    host: { kind: "name", name: "a.b", below: true },
    ports: { first: 1, last: 2 },
  });
});

test("parseRule() names what is no rule, and what is wrong with it", () => {
  const cases: [text: string, problem: string][] = [
    ["", "it is empty"],
    [":22", "no host"],
    ["*.", "no host"],
    ["*.:22", "no host"],
    ["[::1", 'no "]" after the IPv6 network'],
    ["[::1]22", 'only ports may follow the "]"'],
    ["[::1]/128", 'only ports may follow the "]"'],
    ["[10.0.0.0/8]:22", "not an IPv6 network in the brackets"],
    ["[example.com]:22", "not an IPv6 network in the brackets"],
    ["fd00::/8:443", "need brackets, as in [fd00::/8]:443"],
    ["10.0.0.0/8:80:90", "need brackets"],
    ["*foo.com", "* must stand alone"],
    ["foo.*", "* must stand alone"],
    ["*.*.com", "* must stand alone"],
    ["**", "* must stand alone"],
    ["*.10.0.0.1", "an IP address has no names below it"],
    ["10.0.0", "not an IPv4 address"],
    ["*.0.1", "not an IPv4 address"],
    ["010.0.0.1", "not an IPv4 address"],
    ["0x7f.1", "not an IPv4 address"],
    ["a..b", "an empty label in the host name"],
    ["a b", "a character that is not allowed in host names"],
    [" a", "a character that is not allowed in host names"],
    ["b\u00fccher.example", "a character that is not allowed in host names"],
    [`${"a".repeat(64)}.b`, "longer than 63"],
    ["a:", "not a port"],
    ["a:http", "not a port"],
    ["a:80,90", "not a port"],
    ["a:80-", "not a port"],
    ["a:-80", "not a port"],
    ["a:80-90-100", "not a port"],
    ["a:*", "not a port"],
    ["a:123456", "not a port"],
    ["http://a", "not a port"],
    ["a:0", "the ports must be in 1 to 65535"],
    ["a:0-10", "the ports must be in 1 to 65535"],
    ["a:65536", "the ports must be in 1 to 65535"],
    ["a:90-80", "the first port is greater than the last"],
  ];
  for (const [text, problem] of cases) {
    const { message } = assertThrows(() => parseRule(text), NotParsedError, problem, text);
    assert(
      text.length > 60 || message.startsWith(`invalid rule ${JSON.stringify(text)}: `),
      message,
    );
  }
  const networks: [text: string, problem: string][] = [
    ["10.0.0.1/8:22", "the network is 10.0.0.0/8"],
    ["10.0.0.0/33", "not in 0 to 32"],
    ["10.0.0.0/", "the prefix length is not a decimal number"],
    ["example.com/8", "no IP address"],
    ["[fd00::1/8]:22", "the network is fd00::/8"],
    ["[fe80::1%eth0]:22", "no IP address"],
    ["1:2:3", "no IP address"],
    ["[:]:1", "no IP address"],
  ];
  for (const [text, problem] of networks) {
    assertThrows(() => parseRule(text), NotParsedError, problem, text);
  }
});

test("parseRule() reads back what formatRule() writes", () => {
  fc.assert(
    fc.property(rule, (rule) => assertEquals(parseRule(formatRule(rule)), rule)),
    runs(3000),
  );
});

test("parseRule() throws only errors that name the text, and what it takes can be written", () => {
  const piece = fc.constantFrom(
    ..."*.:[]/-, 0189afZ_%\n",
    "10.0.0.0/8",
    "fd00::/8",
    "::1",
    "example",
    ":80",
    "80-90",
    "*.",
  );
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join("")),
    rule.map(formatRule),
  );
  fc.assert(
    fc.property(text, (text) => {
      let parsed;
      try {
        parsed = parseRule(text);
      } catch (error) {
        assert(error instanceof NotParsedError, String(error));
        const [, quoted] =
          /^invalid (?:rule|network) ("(?:[^"\\]|\\.)*"): ./s.exec(error.message) ??
            [];
        assert(quoted, error.message);
        const written = quoted.replace(
          /\\\\|\\u\{([0-9a-f]+)\}/g,
          (escape, hex) => hex ? String.fromCodePoint(parseInt(hex, 16)) : escape,
        );
        assertStringIncludes(text, JSON.parse(written).replace(/…$/, ""));
        return;
      }
      const canonical = formatRule(parsed);
      assertEquals(parseRule(canonical), parsed);
      assertEquals(formatRule(parseRule(canonical)), canonical);
    }),
    runs(5000),
  );
});
