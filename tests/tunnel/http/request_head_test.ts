// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import fc from "fast-check";
import { Buffer } from "node:buffer";
import { formatAuthority, parseAuthority } from "../../../lib/net/authority.ts";
import {
  RequestHeadParser,
  type RequestHeadResult,
} from "../../../lib/tunnel/http/request_head.ts";
import { concat } from "../../support/bytes.ts";
import { runs } from "../../support/fuzz.ts";
import { bytesOf, everyCut, pushInPieces, someCuts, textOf } from "../../support/push_parser.ts";

function parse(text: string, maxHeadBytes = 16384): RequestHeadResult {
  return new RequestHeadParser({ maxHeadBytes }).push(bytesOf(text));
}

function test(name: string, fn: () => void): void {
  Deno.test({ name: `RequestHeadParser${name}`, permissions: "none", fn });
}

const KUBE = "CONNECT 10.0.0.1:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

test(" reads what kube-apiserver sends, and the target is not the Host", () => {
  const parser = new RequestHeadParser();
  assertEquals(parser.push(bytesOf(KUBE)), {
    kind: "connect",
    target: { hostname: "10.0.0.1", port: 10250 },
    authority: "10.0.0.1:10250",
    rest: new Uint8Array(0),
  });
  assertEquals(parser.byteLength, KUBE.length);
});

test(" gives the bytes behind the head as a copy, of a node Buffer as well", () => {
  const chunk = Buffer.from(`${KUBE}\x16\x03\x01\r\n`);
  const result = new RequestHeadParser().push(chunk);
  chunk.fill(0);
  assert(result.kind === "connect");
  assertEquals(result.rest, Uint8Array.of(0x16, 3, 1, 13, 10));
});

test(" takes what RFC 9112 lets it, and what CONNECT has no use for", () => {
  for (
    const head of [
      "CONNECT a:1 HTTP/1.0\r\n\r\n",
      "CONNECT a:1 HTTP/1.7\r\n\r\n",
      "\r\n\n\r\nCONNECT a:1 HTTP/1.1\nA: b\r\nC:d\n\n",
      "CONNECT a:1 HTTP/1.1\r\nHost: b\r\nHost: c\r\nContent-Length: 2\r\n" +
      "Transfer-Encoding: chunked\r\n\r\n",
      "CONNECT a:1 HTTP/1.1\r\nX-A: 1\r\nx-a:\t two  words \t\r\nEmpty:\r\nBlank: \t \r\n" +
      "Colons::a:b\r\nRaw:\xa0\x80\xff\xa0\r\n\r\n",
    ]
  ) {
    assertEquals(parse(`${head}0\r\n\r\n`), {
      kind: "connect",
      target: { hostname: "a", port: 1 },
      authority: "a:1",
      rest: bytesOf("0\r\n\r\n"),
    });
  }
});

test(" rejects as soon as the bytes cannot become a CONNECT", () => {
  // Each text ends with the byte that gives it away: all before it must be merely incomplete.
  const cases: [text: string, status: number, reason: string][] = [
    ["\x16", 400, "TLS bytes where an HTTP request was expected"],
    ["\r\n\x16", 400, "not an HTTP request: it begins with byte 0x16"],
    ["\x00", 400, "not an HTTP request: it begins with byte 0x00"],
    ["\x05", 400, "not an HTTP request: it begins with byte 0x05"],
    [" ", 400, "not an HTTP request: it begins with byte 0x20"],
    ["\x80", 400, "not an HTTP request: it begins with byte 0x80"],
    ["\rC", 400, "a CR without LF"],
    ["\r\r", 400, "a CR without LF"],
    ["CONNECT\t", 400, "byte 0x09 in the method"],
    ["CONN\x00", 400, "byte 0x00 in the method"],
    ["SSH-2.0-OpenSSH_9.6\r", 400, "no target"],
    ["CONNECT\n", 400, "no target"],
    ["A".repeat(33), 400, "the method is longer than 32 bytes"],
    ["CONNECT  ", 400, "the request target is empty"],
    ["CONNECT a:1\r", 400, "no HTTP version"],
    ["GET /\n", 400, "no HTTP version"],
    ["CONNECT a\x7f", 400, "byte 0x7f in the request target"],
    ["CONNECT a\x00", 400, "byte 0x00 in the request target"],
    ["CONNECT \xe4", 400, "byte 0xe4 in the request target"],
    ["CONNECT foo ", 400, 'invalid address "foo": no port'],
    ["CONNECT foo:x ", 400, "the port is not a number"],
    ["CONNECT foo:0 ", 400, "the port is not in 1 to 65535"],
    ["CONNECT :80 ", 400, "no host"],
    ["CONNECT u@foo:80 ", 400, "user information"],
    ["CONNECT / ", 400, "a URL or path"],
    ["CONNECT http://foo:80/ ", 400, "a URL or path"],
    ["CONNECT * ", 400, "no port"],
    ["CONNECT [fe80::1%25a]:80 ", 400, "zone ids"],
    ["CONNECT a:1  ", 400, "does not end in an HTTP version"],
    ["CONNECT a:1 h", 400, "does not end in an HTTP version"],
    ["CONNECT a:1 HTTP/x", 400, "does not end in an HTTP version"],
    ["CONNECT a:1 HTTP/1\r", 400, "does not end in an HTTP version"],
    ["CONNECT a:1 HTTP/1.1 ", 400, "text after the HTTP version"],
    ["CONNECT a:1 HTTP/1.10", 400, "text after the HTTP version"],
    ["CONNECT a:1 HTTP/1.1\rH", 400, "a CR without LF"],
    ["CONNECT a:1 HTTP/2.0\r\n", 505, "HTTP/2.0"],
    ["CONNECT a:1 HTTP/0.9\n", 505, "HTTP/0.9"],
    ["PRI * HTTP/2.0\r\n", 505, "HTTP/2.0"],
    ["GET / HTTP/1.1\r\n", 405, "the method is GET, only CONNECT is allowed"],
    ["GET http://foo/ HTTP/1.1\n", 405, "GET"],
    ["connect a:1 HTTP/1.1\r\n", 405, "connect"],
    ["CONNECT a:1 HTTP/1.1\r\n ", 400, "begins with whitespace"],
    ["CONNECT a:1 HTTP/1.1\r\nA: b\r\n\t", 400, "begins with whitespace"],
    ["CONNECT a:1 HTTP/1.1\r\nA ", 400, "whitespace in or after a field name"],
    ["CONNECT a:1 HTTP/1.1\r\nA\t", 400, "whitespace in or after a field name"],
    ["CONNECT a:1 HTTP/1.1\r\n:", 400, "byte 0x3a in a field name"],
    ["CONNECT a:1 HTTP/1.1\r\nA(", 400, "byte 0x28 in a field name"],
    ["CONNECT a:1 HTTP/1.1\r\nA\x00", 400, "byte 0x00 in a field name"],
    ["CONNECT a:1 HTTP/1.1\r\nA\r", 400, "no colon"],
    ["CONNECT a:1 HTTP/1.1\r\nA\n", 400, "no colon"],
    ["CONNECT a:1 HTTP/1.1\r\nA: b\x00", 400, "byte 0x00 in a field value"],
    ["CONNECT a:1 HTTP/1.1\r\nA: b\x7f", 400, "byte 0x7f in a field value"],
    ["CONNECT a:1 HTTP/1.1\r\nA: b\x1b", 400, "byte 0x1b in a field value"],
    ["CONNECT a:1 HTTP/1.1\r\nA: b\rc", 400, "a CR without LF"],
    ["CONNECT a:1 HTTP/1.1\r\n\rx", 400, "a CR without LF"],
  ];
  for (const [text, status, reason] of cases) {
    const parser = new RequestHeadParser();
    const before = parser.push(bytesOf(text.slice(0, -1)));
    assertEquals(before, { kind: "incomplete" }, JSON.stringify(text));
    const result = parser.push(bytesOf(text.slice(-1)));
    if (result.kind !== "reject") throw new Error(`not rejected: ${JSON.stringify(text)}`);
    assertEquals(result.status, status, JSON.stringify(text));
    assertStringIncludes(result.reason, reason);
    assertMatch(result.reason, /^[\x20-\x7e]+$/);
  }
});

test(" takes a head of exactly maxHeadBytes and rejects a longer one with 431", () => {
  for (const head of [KUBE, `\r\n\r\n${KUBE}`, "CONNECT a:1 HTTP/1.1\n\n"]) {
    assertEquals(parse(`${head}rest`, head.length).kind, "connect");
    assertEquals(parse(head, head.length - 1), {
      kind: "reject",
      status: 431,
      reason: `the head is longer than ${head.length - 1} bytes`,
    });
  }
  const byDefault = new RequestHeadParser();
  assertEquals(byDefault.push(bytesOf("\n".repeat(16_383))).kind, "incomplete");
  assertEquals(byDefault.push(bytesOf("\n")).kind, "reject");
});

test(" holds a target of any length, of which the longest name is the longest good one", () => {
  const hostname = `${"a.".repeat(127)}b`;
  const result = parse(`CONNECT ${hostname}:65535 HTTP/1.1\r\n\r\n`);
  assert(result.kind === "connect");
  assertEquals(result.target, { hostname, port: 65535 });
  const tooLong = parse(`CONNECT ${"a.".repeat(2_000)}b:1 `);
  assert(tooLong.kind === "reject");
  assertStringIncludes(tooLong.reason, "longer than 255");
});

test(".push() throws after a result", () => {
  for (const text of [KUBE, "\0"]) {
    const parser = new RequestHeadParser();
    parser.push(bytesOf(text));
    assertThrows(() => parser.push(new Uint8Array(0)), Error, "already parsed");
  }
});

test(" takes a head of a megabyte one byte at a time, in linear time", () => {
  // Were each push to look at all bytes so far, this would take half a trillion steps and hours.
  const value = `${" ".repeat(500_000)}x${" ".repeat(500_000)}`;
  const head = bytesOf(`CONNECT a:1 HTTP/1.1\r\n${"A: b\r\n".repeat(10_000)}C:${value}\r\n\r\n`);
  const parser = new RequestHeadParser({ maxHeadBytes: head.length });
  const one = new Uint8Array(1);
  const results = Array.from(head, (byte) => {
    one[0] = byte;
    return parser.push(one).kind;
  });
  assertEquals(results.indexOf("connect"), head.length - 1);
});

const TOKEN = "!#$%&'*+-.^_`|~0129ABCXYZabcxyz";
const lineEnd = fc.constantFrom("\r\n", "\n");
const target = fc.record({
  hostname: fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()),
  port: fc.integer({ min: 1, max: 65535 }),
});
const field = fc.record({
  name: fc.string({ unit: fc.constantFrom(...TOKEN), minLength: 1 }),
  value: fc.string({
    unit: fc.integer({ min: 0x20, max: 0xff }).filter((code) => code !== 0x7f)
      .map((code) => String.fromCharCode(code)),
  }).map((value) => value.replace(/^ +| +$/g, "")),
  before: fc.string({ unit: fc.constantFrom(" ", "\t") }),
  after: fc.string({ unit: fc.constantFrom(" ", "\t") }),
  lineEnd,
});
const head = fc.record({
  empty: fc.array(lineEnd, { maxLength: 3 }),
  target,
  version: fc.constantFrom("1.0", "1.1"),
  lineEnd,
  fields: fc.array(field, { maxLength: 6 }),
  end: lineEnd,
}).map(({ empty, target, version, lineEnd, fields, end }) => {
  const lines = fields.map((f) => `${f.name}:${f.before}${f.value}${f.after}${f.lineEnd}`);
  const requestLine = `CONNECT ${formatAuthority(target)} HTTP/${version}${lineEnd}`;
  return {
    text: `${empty.join("")}${requestLine}${lines.join("")}${end}`,
    target,
  };
});

test(" reads any valid head, whatever the cuts, and leaves its rest unaltered", () => {
  fc.assert(
    fc.property(head, fc.uint8Array({ maxLength: 64 }), someCuts, (head, rest, cuts) => {
      const bytes = concat(bytesOf(head.text), rest);
      for (const at of [[], cuts, everyCut(bytes)]) {
        assertEquals(pushInPieces(new RequestHeadParser(), bytes, at), {
          kind: "connect",
          target: head.target,
          authority: formatAuthority(head.target),
          rest: bytesOf(textOf(rest)),
        });
      }
    }),
    runs(500),
  );
});

test(" calls every true beginning of a valid head incomplete", () => {
  fc.assert(
    fc.property(head, fc.nat(), ({ text }, length) => {
      assertEquals(parse(text.slice(0, length % text.length)), { kind: "incomplete" });
    }),
  );
});

/** Bytes that get past the first few checks more often than evenly drawn ones. */
const noise = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.array(
    fc.oneof(
      fc.constantFrom(
        "CONNECT ",
        "GET / ",
        "a:1 ",
        "[::1]:80 ",
        "HTTP/1.1",
        "\r\n",
        "\n",
        "A: b",
        ":",
      ),
      fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)),
    ),
    { maxLength: 40 },
  ).map((parts) => bytesOf(parts.join(""))),
);

test(" judges any bytes without throwing, within its limit, whatever the cuts", () => {
  fc.assert(
    fc.property(noise, someCuts, fc.integer({ min: 1, max: 100 }), (bytes, cuts, maxHeadBytes) => {
      const parser = new RequestHeadParser({ maxHeadBytes });
      const whole = parser.push(bytes);
      assertLessOrEqual(parser.byteLength, Math.min(maxHeadBytes, bytes.length));
      if (whole.kind === "incomplete") assertEquals(parser.byteLength, bytes.length);
      if (whole.kind === "connect") {
        assertEquals(whole.rest, bytesOf(textOf(bytes.subarray(parser.byteLength))));
      }
      assertEquals(pushInPieces(new RequestHeadParser({ maxHeadBytes }), bytes, cuts), whole);
    }),
    runs(5000),
  );
});

test(" never connects elsewhere than the bytes of an altered head say", () => {
  const edit = fc.record({
    at: fc.nat(),
    remove: fc.integer({ min: 0, max: 2 }),
    insert: fc.oneof(
      fc.uint8Array({ maxLength: 2 }).map(textOf),
      fc.constantFrom(
        "\r",
        "\n",
        " ",
        "\t",
        "\0",
        ":",
        "@",
        "\r\n\r\n",
        "CONNECT b:2 HTTP/1.1\r\n",
      ),
    ),
  });
  let connects = 0;
  fc.assert(
    fc.property(head, fc.array(edit, { minLength: 1, maxLength: 3 }), ({ text }, edits) => {
      for (const { at, remove, insert } of edits) {
        const start = at % (text.length + 1);
        text = text.slice(0, start) + insert + text.slice(start + remove);
      }
      const result = parse(text);
      if (result.kind !== "connect") return;
      connects++;
      // A second, independent reading: regular expressions over the text as a whole.
      const said = /^(?:\r?\n)*CONNECT ([!-~]+) HTTP\/1\.[0-9]\r?\n/.exec(text);
      assertEquals(result.authority, said?.[1]);
      assertEquals(result.target, parseAuthority(said?.[1] ?? ""));
      const headText = text.slice(0, text.length - result.rest.length);
      assertMatch(headText, /[^\r\n]\r?\n\r?\n$/);
      assertEquals(/[^\r\n]\r?\n\r?\n[^]/.test(headText), false);
      assertEquals(headText.replace(/\r\n/g, "\n").includes("\r"), false);
      assertEquals(textOf(result.rest), text.slice(headText.length));
    }),
    runs(5000),
  );
  assert(connects > 100, `only ${connects} altered heads were still valid`);
});
