// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which HTTP proxy is used, and for which targets. */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { HttpProxy, parseHttpProxy } from "../../lib/connect_udp/http_proxy.ts";
import { bypassesProxy, parseNoProxy } from "../../lib/connect_udp/no_proxy.ts";
import { NotParsedError } from "../../lib/errors.ts";
import { parseAuthority } from "../../lib/net/authority.ts";
import { runs } from "../support/fuzz.ts";
import { pureTest } from "../support/pure_test.ts";

pureTest("parseHttpProxy() reads a proxy, with or without user name and password", () => {
  const cases: [text: string, shown: string, credentials?: string][] = [
    ["http://proxy.example:3128", "http://proxy.example:3128"],
    ["HTTP://[2001:db8::1]:80/", "http://[2001:db8::1]:80"],
    ["10.0.0.1:3128", "http://10.0.0.1:3128"],
    ["http://u:p@a:1", "http://u:***@a:1", "u:p"],
    ["http://u@a:1", "http://u:***@a:1", "u:"],
    ["http://d%5Cu:p%40%3A%C3%BC/@a:1", "http://d%5Cu:***@a:1", "d\\u:p@:ü/"],
    ["u:p@:w@a:1", "http://u:***@a:1", "u:p@:w"],
  ];
  for (const [text, shown, credentials] of cases) {
    const proxy = parseHttpProxy(text);
    assertEquals(`${proxy}`, shown);
    const [scheme, encoded] = proxy.authorization?.split(" ") ?? [];
    assertEquals(scheme, credentials === undefined ? undefined : "Basic");
    if (encoded === undefined) continue;
    assertEquals(new TextDecoder().decode(Uint8Array.fromBase64(encoded)), credentials);
  }
});

pureTest("parseHttpProxy() reads what was percent-encoded, and shows no password", () => {
  const printable = fc.string({ unit: "grapheme", maxLength: 20 }).filter((text) =>
    !/[\p{Cc}\p{Cs}]/u.test(text)
  );
  fc.assert(
    fc.property(printable, printable, (name, password) => {
      const user = name.replaceAll(":", "");
      const secret = `s3cret${password}`;
      const proxy = parseHttpProxy(
        `http://${encodeURIComponent(user)}:${encodeURIComponent(secret)}@a:1`,
      );
      const same = new HttpProxy({ hostname: "a", port: 1 }, user, secret);
      assertEquals([proxy.user, proxy.authorization], [user, same.authorization]);
      const texts = [`${proxy}`, JSON.stringify(proxy), Deno.inspect(proxy)];
      assertEquals(texts.some((text) => text.includes("s3cret")), false);
    }),
    runs(100),
  );
});

pureTest("parseHttpProxy() refuses anything else, without a password in the message", () => {
  const cases: [text: string, message: string][] = [
    ["", 'invalid proxy "": it is empty'],
    ["https://u:s3cret@a:1", 'invalid proxy "https://***@a:1": https:// is not supported, only'],
    ["socks5://a:1", "socks5:// is not supported"],
    ["http://a", 'invalid address "a": no port'],
    ["http://u:s3cret@a:x", 'invalid address "a:x": the port is not a number'],
    ["http://u:s3cret@a:1/path", "a URL or path"],
    ["http://u:s3cret@a:1?s3cret", "a URL or path"],
    ["http://u:s3cret%@a:1", "user name or password is not percent-encoded UTF-8"],
    ["http://u%3Av:s3cret@a:1", "a colon in the user name"],
    ["http://u:s3cret%0d%0a@a:1", "a control character in user name or password"],
  ];
  for (const [text, message] of cases) {
    const error = assertThrows(() => parseHttpProxy(text), NotParsedError, message);
    assertEquals(error.message.includes("s3cret"), false, error.message);
  }
});

pureTest("bypassesProxy() follows NO_PROXY", () => {
  const cases: [noProxy: string, direct: string[], proxied: string[]][] = [
    ["", [], ["a:1", "127.0.0.1:1", "[::1]:1"]],
    ["*", ["a:1", "127.0.0.1:1", "[::1]:1"], []],
    ["example.com", ["example.com:1", "EXAMPLE.com.:2", "a.example.com:1"], [
      "badexample.com:1",
      "example.org:1",
    ]],
    [".example.com, *.example.org", ["a.example.com:1", "a.b.example.org:1"], [
      "example.com:1",
      "example.org:1",
    ]],
    ["a:443 b", ["a:443", "x.a:443", "b:1"], ["a:444"]],
    ["10.0.0.0/8,192.0.2.1,[2001:db8::]/32", ["10.9.8.7:1", "192.0.2.1:1"], ["11.0.0.1:1"]],
    ["2001:db8::/32,::1,[fd00::1]:443", ["[2001:db8::9]:1", "[::1]:5", "[fd00::1]:443"], [
      "[fd00::1]:444",
      "10.0.0.1:1",
    ]],
  ];
  for (const [text, direct, proxied] of cases) {
    const noProxy = parseNoProxy(text);
    for (const target of direct) {
      assertEquals(bypassesProxy(noProxy, parseAuthority(target)), true, `${text}: ${target}`);
    }
    for (const target of proxied) {
      assertEquals(bypassesProxy(noProxy, parseAuthority(target)), false, `${text}: ${target}`);
    }
  }
});

pureTest("parseNoProxy() tells which entries it does not understand, and takes the others", () => {
  const { rules, invalid } = parseNoProxy("a*b,localhost,10.0.0.1/8");
  assertEquals(rules.length, 2);
  assertEquals(invalid.map(({ message }) => message.split(":")[0]), [
    'invalid rule "a*b"',
    'invalid network "10.0.0.1/8"',
  ]);
});
