// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { forwardRequest, forwardResponse } from "../../../lib/tunnel/http/forwarding.ts";
import { MalformedError } from "../../../lib/tunnel/http/malformed_error.ts";
import {
  RequestHeadParser,
  type RequestHeadResult,
} from "../../../lib/tunnel/http/request_head.ts";
import { ResponseHeadParser } from "../../../lib/tunnel/http/response_head.ts";
import { runs } from "../../support/fuzz.ts";
import { bytesOf, pushInPieces, someCuts, textOf } from "../../support/push_parser.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

function parse(text: string): RequestHeadResult {
  return new RequestHeadParser({ forms: "both" }).push(bytesOf(text));
}

/** What a request comes to: where it goes, and with what head; or its status and the cause. */
function forward(text: string) {
  const result = parse(text);
  if (result.kind === "reject") return `${result.status} ${result.reason}`;
  if (result.kind !== "request") return result.kind;
  try {
    const { head, framing } = forwardRequest(result.request);
    return { target: result.request.target, head: textOf(head).split("\r\n"), framing };
  } catch (error) {
    if (error instanceof MalformedError) return `${error.status} ${error.message}`;
    throw error;
  }
}

const lines = (...lines: string[]) => `${lines.join("\r\n")}\r\n\r\n`;
const get = (...fields: string[]) =>
  lines("GET http://a.example/ HTTP/1.1", "Host: a.example", ...fields);

test("forwardRequest() sends the path, the URL's host, and no field of the proxy's connection", () => {
  assertEquals(
    forward(lines(
      "POST HTTP://a.example:8080/p?q=http://b/ HTTP/1.1",
      "host: b.example",
      "Proxy-Connection: Keep-Alive",
      "Proxy-Authorization: Basic c2VjcmV0",
      "Connection: X-Hop , close",
      "x-hop: 1",
      "Keep-Alive: timeout=5",
      "TE: trailers",
      "Upgrade: websocket",
      "Accept: */*",
      "X-Raw: \xe4\xff",
      "Expect: 100-continue",
      "Content-Length: 12",
    )),
    {
      target: { hostname: "a.example", port: 8080 },
      framing: 12,
      head: [
        "POST /p?q=http://b/ HTTP/1.1",
        "Host: a.example:8080",
        "Accept: */*",
        "X-Raw: \xe4\xff",
        "Expect: 100-continue",
        "Content-Length: 12",
        "Via: 1.1 quic-tunnel-agent",
        "Connection: close",
        "",
        "",
      ],
    },
  );
});

test("forwardRequest() knows the forms of a URL and of a method's target", () => {
  const firstLines = (method: string, url: string) => {
    const forwarded = forward(lines(`${method} ${url} HTTP/1.0`));
    assert(typeof forwarded === "object", `${forwarded}`);
    return forwarded.head.slice(0, 2);
  };
  assertEquals(firstLines("GET", "http://a"), ["GET / HTTP/1.0", "Host: a"]);
  assertEquals(firstLines("GET", "http://a?b"), ["GET /?b HTTP/1.0", "Host: a"]);
  assertEquals(firstLines("HEAD", "http://[::1]/x"), ["HEAD /x HTTP/1.0", "Host: [::1]"]);
  assertEquals(firstLines("OPTIONS", "http://a:1"), ["OPTIONS * HTTP/1.0", "Host: a:1"]);
  assertEquals(firstLines("M-SEARCH", "http://a/"), ["M-SEARCH / HTTP/1.0", "Host: a"]);
});

test("forwardRequest() counts down Max-Forwards of OPTIONS", () => {
  const options = (value: string) =>
    forward(lines("OPTIONS http://a HTTP/1.1", "Host: a", `Max-Forwards: ${value}`));
  const forwarded = options("3");
  assert(typeof forwarded === "object" && forwarded.head.includes("Max-Forwards: 2"));
  assertEquals(options("0"), "400 Max-Forwards is 0");
  assertEquals(options("x"), "400 invalid Max-Forwards");
});

/** Requests that one server reads in another way than the next, or that are none. */
const smuggled: readonly (readonly [request: string, answer: string])[] = [
  [get("Content-Length: 1", "Transfer-Encoding: chunked"), "400 both"],
  [get("Transfer-Encoding: chunked", "content-length: 0"), "400 both"],
  [get("Content-Length: 1", "Content-Length: 1"), "400 more than one Content-Length"],
  [get("Content-Length: 1", "Content-Length: 2"), "400 more than one Content-Length"],
  [get("Content-Length: 1, 1"), "400 invalid Content-Length"],
  [get("Content-Length: +1"), "400 invalid Content-Length"],
  [get("Content-Length: -1"), "400 invalid Content-Length"],
  [get("Content-Length: 0x1"), "400 invalid Content-Length"],
  [get("Content-Length: 1 1"), "400 invalid Content-Length"],
  [get("Content-Length:"), "400 invalid Content-Length"],
  [get("Content-Length: 9007199254740993"), "400 invalid Content-Length"],
  [get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "400 more than one Transfer"],
  [get("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), "400 more than one Transfer"],
  [get("Transfer-Encoding: chunked, chunked"), "501 unknown Transfer-Encoding"],
  [get("Transfer-Encoding: gzip, chunked"), "501 unknown Transfer-Encoding"],
  [get("Transfer-Encoding: xchunked"), "501 unknown Transfer-Encoding"],
  [get("Transfer-Encoding: identity"), "501 unknown Transfer-Encoding"],
  [get("Transfer-Encoding: \x0bchunked"), "400 byte 0x0b in a field value"],
  [get("Transfer-Encoding: \xa0chunked"), "501 unknown Transfer-Encoding"],
  [get("Transfer-Encoding:"), "501 unknown Transfer-Encoding"],
  [get("Transfer-Encoding : chunked"), "400 whitespace in or after a field name"],
  [get("Transfer-Encoding\t: chunked"), "400 whitespace in or after a field name"],
  [get("Content-Length\x00: 1"), "400 byte 0x00 in a field name"],
  [get("X: 1\r\n Transfer-Encoding: chunked"), "400 a field line begins with whitespace"],
  [get("X: 1\rContent-Length: 5"), "400 a CR without LF"],
  [get("X: 1\0"), "400 byte 0x00 in a field value"],
  [get("Connection: content-length", "Content-Length: 1"), "400 Connection names content-length"],
  [get("Connection: close, Transfer-Encoding"), "400 Connection names transfer-encoding"],
  [get("Connection: host"), "400 Connection names host"],
  [get("Host: a.example"), "400 more than one Host"],
  [get("Host: b.example"), "400 more than one Host"],
  [get("Expect: 200-ok"), "417 unknown expectation"],
  [lines("GET http://a.example/ HTTP/1.1"), "400 no Host"],
  [lines("GET http://a.example/ HTTP/1.1", "Host: a b"), "400 invalid Host"],
  [lines("GET http://a.example/ HTTP/1.1", "Host: a/b"), "400 invalid Host"],
  [lines("GET http://a.example/ HTTP/1.1", "Host: u@a"), "400 invalid Host"],
  [
    lines("POST http://a/ HTTP/1.0", "Transfer-Encoding: chunked"),
    "400 Transfer-Encoding in HTTP/1.0",
  ],
  [
    lines("GET http://u:p@a/ HTTP/1.1", "Host: a"),
    '400 invalid address "***@a:80": user information',
  ],
  [lines("GET http:// HTTP/1.1", "Host: a"), "400 invalid address"],
  [lines("GET http:///x HTTP/1.1", "Host: a"), "400 invalid address"],
  [lines("GET http://a:/ HTTP/1.1", "Host: a"), "400 invalid address"],
  [lines("GET http://a:0/ HTTP/1.1", "Host: a"), "400 invalid address"],
  [lines("GET http://127.1/ HTTP/1.1", "Host: a"), "400 invalid address"],
  [lines("GET http://a%00b/ HTTP/1.1", "Host: a"), "400 invalid address"],
  [lines("GET http://a\\@b/ HTTP/1.1", "Host: a"), "400 invalid address"],
  [lines("GET http://a/#x HTTP/1.1", "Host: a"), "405 GET needs an http URL"],
  [lines("GET https://a/ HTTP/1.1", "Host: a"), "405 GET needs an http URL"],
  [lines("GET //a/ HTTP/1.1", "Host: a"), "405 GET needs an http URL"],
  [lines("GET / HTTP/1.1", "Host: a"), "405 GET needs an http URL"],
  [lines("GET a:80 HTTP/1.1", "Host: a"), "405 GET needs an http URL"],
  [lines("TRACE http://a/ HTTP/1.1", "Host: a"), "405 the method TRACE is not allowed"],
  [lines("GET http://a/ HTTP/1.1 ", "Host: a"), "400 text after the HTTP version"],
  [lines("GET  http://a/ HTTP/1.1", "Host: a"), "400 the request target is empty"],
  [lines("GET http://a/\tHTTP/1.1", "Host: a"), "400 byte 0x09 in the request target"],
  [lines("GET http://a/ HTTP/2.0", "Host: a"), "505 HTTP/2.0"],
];

test("forwardRequest() and the parser refuse requests that could be read in two ways", () => {
  for (const [request, answer] of smuggled) {
    const forwarded = forward(request);
    assert(typeof forwarded === "string", `forwarded: ${JSON.stringify(request)}`);
    assertEquals(forwarded.slice(0, answer.length), answer, JSON.stringify(request));
  }
});

test("forwardRequest() sends one head, to one host, whatever the fields", () => {
  const name = fc.constantFrom(
    "Host",
    "host",
    "Content-Length",
    "Transfer-Encoding",
    "Connection",
    "Expect",
    "Upgrade",
    "TE",
    "X",
    "Via",
    "Max-Forwards",
  );
  const value = fc.oneof(
    fc.constantFrom(
      "a.example",
      "0",
      "7",
      "chunked",
      "close",
      "x",
      "host",
      "100-continue",
      "a, te",
    ),
    fc.string({ unit: fc.integer({ min: 0, max: 0xff }).map((code) => String.fromCharCode(code)) }),
  );
  const fields = fc.array(fc.tuple(name, value), { maxLength: 5 });
  let sent = 0;
  fc.assert(
    fc.property(fields, fc.constantFrom("1.0", "1.1"), (fields, version) => {
      const text = lines(
        `GET http://a.example/ HTTP/${version}`,
        ...fields.map(([name, value]) => `${name}: ${value}`),
      );
      const forwarded = forward(text);
      if (typeof forwarded === "string") return;
      sent++;
      // An independent reading of what is sent.
      const head = forwarded.head.slice(1, -2).map((line) => /^([^:]+): ([^\r\n\0]*)$/.exec(line)!);
      const all = (name: string) =>
        head.filter((line) => line[1]!.toLowerCase() === name).map((line) => line[2]);
      assertEquals(all("host"), ["a.example"]);
      assertEquals(all("connection"), ["close"]);
      assertEquals([...all("te"), ...all("upgrade")], []);
      const framing = [...all("content-length"), ...all("transfer-encoding")];
      assertEquals(
        framing,
        forwarded.framing === 0 && framing.length === 0 ? [] : [
          framing[0]!,
        ],
      );
      if (framing.length > 0) {
        const said = framing[0]!.toLowerCase();
        assertEquals(forwarded.framing, said === "chunked" ? said : Number(said));
      }
    }),
    runs(2000),
  );
  assert(sent > 100, `only ${sent} requests were sent`);
});

/** What the client gets of a response's head, and how its content is framed. */
function answer(text: string, method = "GET", minor = 1) {
  const { head } = new ResponseHeadParser().push(bytesOf(text))!;
  const forwarded = forwardResponse(head, { method, minor });
  return [textOf(forwarded.head), forwarded.framing];
}

const VIA = "Via: 1.1 quic-tunnel-agent";

test("forwardResponse() passes a response on as the last one of its connection", () => {
  assertEquals(
    answer(
      lines("HTTP/1.1 200 OK \xe4", "Content-Length: 3", "Keep-Alive: 5", "Connection: X", "x: y"),
    ),
    [lines("HTTP/1.1 200 OK \xe4", "Content-Length: 3", VIA, "Connection: close"), 3],
  );
  assertEquals(
    answer("HTTP/1.0 404\nA:b\n\n"),
    [lines("HTTP/1.1 404 ", "A: b", "Via: 1.0 quic-tunnel-agent", "Connection: close"), "close"],
  );
  assertEquals(answer(lines("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked"))[1], "chunked");
  for (
    const [status, method] of [[204, "GET"], [304, "GET"], [200, "HEAD"], [100, "GET"]] as const
  ) {
    assertEquals(answer(lines(`HTTP/1.1 ${status} x`, "Content-Length: 3"), method)[1], 0);
  }
  assertEquals(answer(lines("HTTP/1.1 103 Early", "Link: x")), [
    lines("HTTP/1.1 103 Early", "Link: x", VIA),
    0,
  ]);
});

test("forwardResponse() refuses responses whose end is not clear", () => {
  for (
    const [fields, problem] of [
      [["Content-Length: 1", "Transfer-Encoding: chunked"], "both"],
      [["Content-Length: 1", "Content-Length: 2"], "more than one"],
      [["Transfer-Encoding: gzip"], "only chunked is supported"],
    ] as const
  ) {
    assertThrows(() => answer(lines("HTTP/1.1 200 OK", ...fields)), MalformedError, problem);
  }
  const chunked = lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked");
  assertThrows(() => answer(chunked, "GET", 0), MalformedError, "HTTP/1.0 cannot read chunks");
});

test("ResponseHeadParser refuses what is no response, at the first byte that gives it away", () => {
  for (
    const text of [
      "S",
      "HTTX",
      "HTTP/2",
      "HTTP/1.1\r\n",
      "HTTP/1.1 20\n",
      "HTTP/1.1 2000\n",
      "HTTP/1.1 600 x\n",
      "HTTP/1.1 200\0",
      "HTTP/1.1 200\rx",
    ]
  ) {
    const parser = new ResponseHeadParser();
    assertEquals(parser.push(bytesOf(text.slice(0, -1))), undefined, text);
    assertThrows(() => parser.push(bytesOf(text.slice(-1))), MalformedError, "no status line");
  }
  const endless = bytesOf(`HTTP/1.1 200 OK\r\n${"A: b\r\n".repeat(12_000)}`);
  assertThrows(() => new ResponseHeadParser().push(endless), MalformedError, "longer than 65536");
});

test("RequestHeadParser reads a request whatever the cuts, and leaves its rest unaltered", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), someCuts, (rest, cuts) => {
      const bytes = bytesOf(`${get("A:  b c\t", "D:")}${textOf(rest)}`);
      const result = pushInPieces(new RequestHeadParser({ forms: "http" }), bytes, cuts);
      assert(result.kind === "request");
      assertEquals(result.rest, bytesOf(textOf(rest)));
      assertEquals(result.request, {
        method: "GET",
        target: { hostname: "a.example", port: 80 },
        host: "a.example",
        path: "/",
        minor: 1,
        fields: [["Host", "a.example"], ["A", "b c"], ["D", ""]],
      });
    }),
    runs(300),
  );
});

test("RequestHeadParser takes the forms that it is told to", () => {
  const connect = lines("CONNECT a:1 HTTP/1.1");
  const kinds = (forms: "connect" | "http" | "both") =>
    [connect, get()].map((text) => new RequestHeadParser({ forms }).push(bytesOf(text)).kind);
  assertEquals(kinds("connect"), ["connect", "reject"]);
  assertEquals(kinds("http"), ["reject", "request"]);
  assertEquals(kinds("both"), ["connect", "request"]);
});
