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
import { formatAuthority, parseAuthority } from "../../lib/net/authority.ts";
import {
  CONNECT_OK,
  ConnectHeadParser,
  type ConnectHeadResult,
  formatConnectResponse,
  formatProxyStatus,
} from "../../lib/tunnel/connect_head.ts";
import { concat } from "../support/bytes.ts";
import { runs } from "../support/fuzz.ts";

/** One byte per character. */
function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function textOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

function parse(text: string, maxHeadBytes = 16384): ConnectHeadResult {
  return new ConnectHeadParser({ maxHeadBytes }).push(bytesOf(text));
}

function connectOf(result: ConnectHeadResult) {
  if (result.kind !== "connect") throw new Error(`not a connect: ${JSON.stringify(result)}`);
  return result;
}

/** Pushes the pieces between `cuts`, and adds those after the head to its rest. */
function parseInPieces(bytes: Uint8Array, cuts: number[], maxHeadBytes = 16384): ConnectHeadResult {
  const parser = new ConnectHeadParser({ maxHeadBytes });
  const ends = [...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  let start = 0;
  for (const end of ends) {
    const piece = bytes.slice(start, end);
    const result = parser.push(piece);
    piece.fill(0xff);
    if (result.kind === "connect") {
      return { ...result, rest: bytesOf(textOf(concat(result.rest, bytes.subarray(end)))) };
    }
    if (result.kind === "reject") return result;
    assertEquals(parser.byteLength, end);
    start = end;
  }
  return { kind: "incomplete" };
}

const KUBE = "CONNECT 10.0.0.1:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

Deno.test({
  name: "ConnectHeadParser reads what kube-apiserver sends, and the target is not the Host",
  permissions: "none",
  fn() {
    const parser = new ConnectHeadParser();
    assertEquals(parser.push(bytesOf(KUBE)), {
      kind: "connect",
      target: { hostname: "10.0.0.1", port: 10250 },
      authority: "10.0.0.1:10250",
      version: "1.1",
      headers: [["Host", "127.0.0.1"]],
      rest: new Uint8Array(0),
    });
    assertEquals(parser.byteLength, KUBE.length);
  },
});

Deno.test({
  name: "ConnectHeadParser gives the bytes behind the head as a copy",
  permissions: "none",
  fn() {
    for (
      const chunk of [bytesOf(`${KUBE}\x16\x03\x01\r\n`), Buffer.from(`${KUBE}\x16\x03\x01\r\n`)]
    ) {
      const parser = new ConnectHeadParser();
      const { rest } = connectOf(parser.push(chunk));
      chunk.fill(0);
      assertEquals(rest, new Uint8Array([0x16, 3, 1, 13, 10]));
      assertEquals(parser.byteLength, KUBE.length);
    }
  },
});

Deno.test({
  name: "ConnectHeadParser takes every HTTP/1.x, IPv6 targets and heads without fields",
  permissions: "none",
  fn() {
    for (const version of ["1.0", "1.1", "1.7"]) {
      const result = connectOf(parse(`CONNECT [::1]:443 HTTP/${version}\r\n\r\n`));
      assertEquals(result.version, version);
      assertEquals(result.target, { hostname: "::1", port: 443 });
      assertEquals(result.authority, "[::1]:443");
      assertEquals(result.headers, []);
    }
  },
});

Deno.test({
  name: "ConnectHeadParser takes lone LFs as line ends, and skips empty lines before the request",
  permissions: "none",
  fn() {
    const result = connectOf(parse("\r\n\n\r\nCONNECT a:1 HTTP/1.1\nA: b\r\nC:d\n\nrest"));
    assertEquals(result.headers, [["A", "b"], ["C", "d"]]);
    assertEquals(textOf(result.rest), "rest");
  },
});

Deno.test({
  name: "ConnectHeadParser keeps the fields' order, letter case, repetitions and Latin-1 values",
  permissions: "none",
  fn() {
    const head = "CONNECT a:1 HTTP/1.1\r\n" +
      "X-A: 1\r\nx-a:\t two  words \t\r\nEmpty:\r\nBlank: \t \r\nColons::a:b\r\nRaw:\xa0\x80\xff\xa0\r\n\r\n";
    assertEquals(connectOf(parse(head)).headers, [
      ["X-A", "1"],
      ["x-a", "two  words"],
      ["Empty", ""],
      ["Blank", ""],
      ["Colons", ":a:b"],
      ["Raw", "\xa0\x80\xff\xa0"],
    ]);
  },
});

Deno.test({
  name: "ConnectHeadParser ignores Content-Length, Transfer-Encoding and repeated Hosts",
  permissions: "none",
  fn() {
    const head = "CONNECT a:1 HTTP/1.1\r\nHost: b\r\nHost: c\r\nContent-Length: 2\r\n" +
      "Transfer-Encoding: chunked\r\n\r\n";
    assertEquals(textOf(connectOf(parse(`${head}0\r\n\r\n`)).rest), "0\r\n\r\n");
  },
});

Deno.test({
  name: "ConnectHeadParser rejects as soon as the bytes cannot become a CONNECT",
  permissions: "none",
  fn() {
    // Each text ends with the byte that gives it away: all before it must be merely incomplete.
    const cases: [text: string, status: number, reason: string][] = [
      ["\x16", 400, "TLS bytes where an HTTP request was expected"],
      ["\r\n\x16", 400, "begins with byte 0x16"],
      ["\x00", 400, "begins with byte 0x00"],
      ["\x05", 400, "begins with byte 0x05"],
      [" ", 400, "begins with byte 0x20"],
      ["\x80", 400, "begins with byte 0x80"],
      ["\rC", 400, "a CR that no LF follows"],
      ["\r\r", 400, "a CR that no LF follows"],
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
      ["CONNECT foo ", 400, 'bad address "foo": no port'],
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
      ["CONNECT a:1 HTTP/1.1 ", 400, "more text behind the HTTP version"],
      ["CONNECT a:1 HTTP/1.10", 400, "more text behind the HTTP version"],
      ["CONNECT a:1 HTTP/1.1\rH", 400, "a CR that no LF follows"],
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
      ["CONNECT a:1 HTTP/1.1\r\nA: b\rc", 400, "a CR that no LF follows"],
      ["CONNECT a:1 HTTP/1.1\r\n\rx", 400, "a CR that no LF follows"],
    ];
    for (const [text, status, reason] of cases) {
      const parser = new ConnectHeadParser();
      const before = parser.push(bytesOf(text.slice(0, -1)));
      assertEquals(before, { kind: "incomplete" }, JSON.stringify(text));
      const result = parser.push(bytesOf(text.slice(-1)));
      if (result.kind !== "reject") throw new Error(`not rejected: ${JSON.stringify(text)}`);
      assertEquals(result.status, status, JSON.stringify(text));
      assertStringIncludes(result.reason, reason);
      assertMatch(result.reason, /^[\x20-\x7e]+$/);
    }
  },
});

Deno.test({
  name: "ConnectHeadParser takes a head of exactly maxHeadBytes and rejects a longer one with 431",
  permissions: "none",
  fn() {
    for (const head of [KUBE, `\r\n\r\n${KUBE}`, "CONNECT a:1 HTTP/1.1\n\n"]) {
      assertEquals(parse(`${head}rest`, head.length).kind, "connect");
      assertEquals(parse(head, head.length - 1), {
        kind: "reject",
        status: 431,
        reason: `the head is longer than ${head.length - 1} bytes`,
      });
    }
    assertEquals(parse("\r\n".repeat(8192)).kind, "reject");
  },
});

Deno.test({
  name: "ConnectHeadParser.push() throws after a result, and takes empty chunks before it",
  permissions: "none",
  fn() {
    for (const text of [KUBE, "\0"]) {
      const parser = new ConnectHeadParser();
      assertEquals(parser.push(new Uint8Array(0)), { kind: "incomplete" });
      parser.push(bytesOf(text));
      assertThrows(() => parser.push(new Uint8Array(0)), Error, "judged already");
    }
  },
});

Deno.test({
  name: "ConnectHeadParser refuses a maxHeadBytes that is no whole number from 1",
  permissions: "none",
  fn() {
    for (const maxHeadBytes of [0, -1, 1.5, NaN, Infinity]) {
      assertThrows(() => new ConnectHeadParser({ maxHeadBytes }), RangeError, "maxHeadBytes");
    }
  },
});

Deno.test({
  name: "ConnectHeadParser takes a head of a megabyte one byte at a time without scanning it again",
  permissions: "none",
  fn() {
    // Were each push to look at all bytes so far, this would take half a trillion steps and hours.
    const value = `${" ".repeat(500_000)}x${" ".repeat(500_000)}`;
    const head = bytesOf(`CONNECT a:1 HTTP/1.1\r\n${"A: b\r\n".repeat(10_000)}C:${value}\r\n\r\n`);
    const parser = new ConnectHeadParser({ maxHeadBytes: head.length });
    const one = new Uint8Array(1);
    let result: ConnectHeadResult = { kind: "incomplete" };
    for (const byte of head) {
      assertEquals(result.kind === "incomplete", true);
      one[0] = byte;
      result = parser.push(one);
    }
    assertEquals(connectOf(result).headers.length, 10_001);
    assertEquals(connectOf(result).headers.at(-1), ["C", "x"]);
  },
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
    version,
    headers: fields.map((f): [string, string] => [f.name, f.value]),
  };
});
const cuts = fc.array(fc.nat(), { maxLength: 12 });

Deno.test({
  name: "ConnectHeadParser reads any valid head, whatever the cuts, and leaves its rest unaltered",
  permissions: "none",
  fn() {
    fc.assert(
      fc.property(head, fc.uint8Array({ maxLength: 64 }), cuts, (head, rest, cuts) => {
        const bytes = concat(bytesOf(head.text), rest);
        const expected: ConnectHeadResult = {
          kind: "connect",
          target: head.target,
          authority: formatAuthority(head.target),
          version: head.version,
          headers: head.headers,
          rest: bytesOf(textOf(rest)),
        };
        assertEquals(parseInPieces(bytes, []), expected);
        assertEquals(parseInPieces(bytes, cuts), expected);
        const each = Array.from({ length: bytes.length }, (_, index) => index);
        assertEquals(parseInPieces(bytes, each), expected);
      }),
      runs(500),
    );
  },
});

Deno.test({
  name: "ConnectHeadParser calls every true beginning of a valid head incomplete",
  permissions: "none",
  fn() {
    fc.assert(
      fc.property(head, fc.nat(), ({ text }, length) => {
        assertEquals(parse(text.slice(0, length % text.length)), { kind: "incomplete" });
      }),
    );
  },
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

Deno.test({
  name: "ConnectHeadParser judges any bytes without throwing, within its limit, whatever the cuts",
  permissions: "none",
  fn() {
    fc.assert(
      fc.property(noise, cuts, fc.integer({ min: 1, max: 100 }), (bytes, cuts, limit) => {
        const parser = new ConnectHeadParser({ maxHeadBytes: limit });
        const whole = parser.push(bytes);
        assertLessOrEqual(parser.byteLength, Math.min(limit, bytes.length));
        if (whole.kind === "incomplete") assertEquals(parser.byteLength, bytes.length);
        if (whole.kind === "connect") {
          assertEquals(whole.rest, bytesOf(textOf(bytes.subarray(parser.byteLength))));
        }
        assertEquals(parseInPieces(bytes, cuts, limit), whole);
      }),
      runs(5000),
    );
  },
});

Deno.test({
  name: "ConnectHeadParser never connects elsewhere than the bytes of an altered head say",
  permissions: "none",
  fn() {
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
  },
});

Deno.test({
  name: "CONNECT_OK is a bare 200",
  permissions: "none",
  fn() {
    assertEquals(textOf(CONNECT_OK), "HTTP/1.1 200 OK\r\n\r\n");
  },
});

Deno.test({
  name: "formatConnectResponse() closes what it refuses and puts no framing into a 2xx",
  permissions: "none",
  fn() {
    assertEquals(
      textOf(formatConnectResponse(502, "connection refused", [["Proxy-Status", "agent"]])),
      "HTTP/1.1 502 connection refused\r\nProxy-Status: agent\r\n" +
        "Content-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assertEquals(textOf(formatConnectResponse(200, "OK")), textOf(CONNECT_OK));
  },
});

Deno.test({
  name: "formatConnectResponse() names the allowed method in a 405 once",
  permissions: "none",
  fn() {
    const own = textOf(formatConnectResponse(405, "no"));
    assertStringIncludes(own, "\r\nAllow: CONNECT\r\n");
    assertEquals(textOf(formatConnectResponse(405, "no", [["allow", "X"]])).match(/allow/gi), [
      "allow",
    ]);
  },
});

Deno.test({
  name: "formatConnectResponse() cleans reasons and values, and cuts the reason to 256 characters",
  permissions: "none",
  fn() {
    assertEquals(
      textOf(formatConnectResponse(502, "a\r\nb\0c\td\x7fé", [["X", "1\r\n2"]])).split("\r\n"),
      ["HTTP/1.1 502 a  b c\td  ", "X: 1  2", "Content-Length: 0", "Connection: close", "", ""],
    );
    assertEquals(
      textOf(formatConnectResponse(502, "x".repeat(1000))).split("\r\n")[0],
      `HTTP/1.1 502 ${"x".repeat(256)}`,
    );
  },
});

const codeUnit = fc.oneof(
  fc.integer({ min: 0x20, max: 0x7e }),
  fc.integer({ min: 0, max: 0xffff }),
).map((code) => String.fromCharCode(code));

Deno.test({
  name: "formatConnectResponse() writes one well-formed head for any reason and value",
  permissions: "none",
  fn() {
    const any = fc.oneof(
      fc.string({ unit: codeUnit }),
      fc.string({ unit: fc.constantFrom("\r", "\n", "a", " ") }),
    );
    fc.assert(fc.property(any, any, (reason, value) => {
      const text = textOf(formatConnectResponse(502, reason, [["X", value]]));
      assertMatch(
        text,
        /^HTTP\/1\.1 502 [\t -~]*\r\nX: [\t -~]*\r\nContent-Length: 0\r\nConnection: close\r\n\r\n$/,
      );
    }));
  },
});

Deno.test({
  name: "formatConnectResponse() refuses statuses out of range and fields it cannot send",
  permissions: "none",
  fn() {
    for (const status of [0, 100, 199, 600, 200.5, NaN]) {
      assertThrows(() => formatConnectResponse(status, ""), RangeError, "status");
    }
    for (const name of ["", "a b", "a:", "a\r\n", "é", "Content-Length", "transfer-encoding"]) {
      assertThrows(() => formatConnectResponse(502, "", [[name, "1"]]), TypeError, "field name");
    }
  },
});

Deno.test({
  name: "formatProxyStatus() writes a structured field with escaped details",
  permissions: "none",
  fn() {
    assertEquals(formatProxyStatus({ proxy: "quic-tunnel-agent" }), "quic-tunnel-agent");
    assertEquals(
      formatProxyStatus({
        proxy: "quic-tunnel-agent",
        error: "connection_refused",
        details: 'a "b" c:\\d\r\né',
      }),
      'quic-tunnel-agent; error=connection_refused; details="a \\"b\\" c:\\\\d   "',
    );
    assertEquals(formatProxyStatus({ proxy: 'my "proxy"' }), '"my \\"proxy\\""');
    assertThrows(() => formatProxyStatus({ proxy: "a", error: "b; c" }), TypeError, "error");
  },
});

Deno.test({
  name: "formatProxyStatus() keeps any details within one string that reads back",
  permissions: "none",
  fn() {
    fc.assert(fc.property(fc.string({ unit: codeUnit, maxLength: 600, size: "max" }), (details) => {
      const value = formatProxyStatus({ proxy: "a", details });
      const quoted = /^a; details="((?:[ !#-\[\]-~]|\\["\\])*)"$/.exec(value)?.[1];
      assertEquals(
        quoted?.replace(/\\(.)/g, "$1"),
        details.slice(0, 256).replace(/[^ -~]/g, " "),
      );
    }));
  },
});
