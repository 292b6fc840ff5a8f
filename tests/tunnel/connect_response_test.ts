// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import {
  CONNECT_OK,
  formatConnectResponse,
  formatProxyStatus,
} from "../../lib/tunnel/connect_response.ts";
import { textOf } from "../support/push_parser.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

test("formatConnectResponse() closes what it refuses, and puts no framing into a 2xx", () => {
  assertEquals(textOf(CONNECT_OK), "HTTP/1.1 200 OK\r\n\r\n");
  assertEquals(formatConnectResponse(200, "OK"), CONNECT_OK);
  assertEquals(
    textOf(formatConnectResponse(502, "connection refused", [["Proxy-Status", "agent"]])),
    "HTTP/1.1 502 connection refused\r\nProxy-Status: agent\r\n" +
      "Content-Length: 0\r\nConnection: close\r\n\r\n",
  );
  assertEquals(
    textOf(formatConnectResponse(405, "no")),
    "HTTP/1.1 405 no\r\nAllow: CONNECT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
  );
});

test("formatConnectResponse() cleans reasons and values, and cuts the reason to 256 characters", () => {
  assertEquals(
    textOf(formatConnectResponse(502, "a\r\nb\0c\td\x7fé", [["X", "1\r\n2"]])).split("\r\n"),
    ["HTTP/1.1 502 a  b c\td  ", "X: 1  2", "Content-Length: 0", "Connection: close", "", ""],
  );
  assertEquals(
    textOf(formatConnectResponse(502, "x".repeat(1000))).split("\r\n")[0],
    `HTTP/1.1 502 ${"x".repeat(256)}`,
  );
});

const codeUnit = fc.oneof(
  fc.integer({ min: 0x20, max: 0x7e }),
  fc.integer({ min: 0, max: 0xffff }),
).map((code) => String.fromCharCode(code));

test("formatConnectResponse() writes one well-formed head for any reason and value", () => {
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
});

test("formatProxyStatus() writes a structured field with escaped details", () => {
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
});

test("formatProxyStatus() keeps any details within one string that reads back", () => {
  fc.assert(fc.property(fc.string({ unit: codeUnit, maxLength: 600, size: "max" }), (details) => {
    const value = formatProxyStatus({ proxy: "a", details });
    const quoted = /^a; details="((?:[ !#-\[\]-~]|\\["\\])*)"$/.exec(value)?.[1];
    assertEquals(
      quoted?.replace(/\\(.)/g, "$1"),
      details.slice(0, 256).replace(/[^ -~]/g, " "),
    );
  }));
});
