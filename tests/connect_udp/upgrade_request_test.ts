// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The server's judgement of requests, and where CONNECT-UDP is served (RFC 9298 §3). */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { acceptUpgrade } from "../../lib/connect_udp/accept_upgrade.ts";
import { CarrierEndedError } from "../../lib/connect_udp/carrier_socket.ts";
import { UpgradeRequestParser, type UpgradeResult } from "../../lib/connect_udp/upgrade_request.ts";
import {
  DEFAULT_TEMPLATE,
  expandTemplate,
  targetOfPath,
} from "../../lib/connect_udp/uri_template.ts";
import { NotParsedError } from "../../lib/errors.ts";
import { runs } from "../support/fuzz.ts";
import { memoryPair } from "../support/memory_duplex.ts";
import { pureTest } from "../support/pure_test.ts";
import { bytesOf, textOf } from "../support/push_parser.ts";

const PATH = "/.well-known/masque/udp/192.0.2.6/443/";
const UPGRADE = "Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: connect-udp\r\n" +
  "Capsule-Protocol: ?1\r\n\r\n";

const parse = (text: string) => new UpgradeRequestParser().push(bytesOf(text));

/** The result of bytes that come in pieces of a size, and how many were taken by then. */
function parseInPieces(bytes: Uint8Array, pieceBytes: number): [UpgradeResult, number] {
  const parser = new UpgradeRequestParser();
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    const end = Math.min(at + pieceBytes, bytes.length);
    const result = parser.push(bytes.slice(at, end));
    if (result.kind !== "incomplete") return [result, end];
  }
  return [{ kind: "incomplete" }, bytes.length];
}

pureTest("UpgradeRequestParser accepts an upgrade, and leaves the capsules behind it", () => {
  const result = parse(`GET ${PATH} HTTP/1.1\r\n${UPGRADE}\0\x02\0x`);
  assert(result.kind === "upgrade");
  assertEquals(result.target, { hostname: "192.0.2.6", port: 443 });
  assertEquals(result.rest, bytesOf("\0\x02\0x"));
  assertEquals(
    textOf(result.answer),
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n" +
      "Capsule-Protocol: ?1\r\nMax-Datagram-Size: 16376\r\n\r\n",
  );
  for (
    const head of [
      `\r\n\nGET https://a:8443${PATH} HTTP/1.1\n${UPGRADE.replaceAll("\r", "")}`,
      `GET ${PATH} HTTP/1.1\r\nHOST:a\r\nconnection:UPGRADE\r\nupgrade: websocket, Connect-UDP\r\n\r\n`,
    ]
  ) {
    assertEquals(parse(head).kind, "upgrade", head);
  }
});

pureTest("UpgradeRequestParser takes any target that is well formed", () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain()),
      fc.integer({ min: 1, max: 65_535 }),
      (hostname, port) => {
        const path = expandTemplate(DEFAULT_TEMPLATE, { hostname, port });
        assertEquals(targetOfPath(path), { hostname, port });
        assertEquals(/[^/]:/.test(path), false);
        assertEquals(parse(`GET ${path} HTTP/1.1\r\n${UPGRADE}`).kind, "upgrade");
      },
    ),
    runs(200),
  );
});

pureTest("UpgradeRequestParser answers everything else", () => {
  const upgrade = (path: string) => `GET ${path} HTTP/1.1\r\n${UPGRADE}`;
  const cases: [head: string, status: number, text: RegExp][] = [
    ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200, /^CONNECT-UDP is served$/],
    ["GET /livez HTTP/1.0\r\n\r\n", 200, /./],
    ["HEAD /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 200, /./],
    [`POST / HTTP/1.1\r\nHost: a\r\n\r\n`, 405, /the method is POST, only GET and HEAD/],
    [`GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n`, 404, /not the path of CONNECT-UDP/],
    [upgrade(PATH.slice(0, -1)), 404, /not the path/],
    [upgrade(`${PATH}?x`), 404, /not the path/],
    [`CONNECT a:1 HTTP/1.1\r\n${UPGRADE}`, 404, /not the path/],
    [`POST ${PATH} HTTP/1.1\r\n${UPGRADE}`, 405, /the method is POST, only GET is allowed/],
    [`GET ${PATH} HTTP/1.1\r\nHost: a\r\n\r\n`, 426, /an upgrade to connect-udp is required/],
    [`GET ${PATH} HTTP/1.1\r\nHost: a\r\nUpgrade: connect-udp\r\n\r\n`, 426, /./],
    [
      `GET ${PATH} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
      426,
      /./,
    ],
    [`GET ${PATH} HTTP/1.0\r\n${UPGRADE}`, 426, /./],
    [upgrade(PATH.replace("443", "0")), 400, /target_port is not in 1 to 65535/],
    [upgrade(PATH.replace("443", "+1")), 400, /target_port/],
    [upgrade(PATH.replace("443", "99999")), 400, /target_port/],
    [upgrade(PATH.replace("192.0.2.6", "")), 400, /target_host: no host/],
    [upgrade(PATH.replace("192.0.2.6", "127.1")), 400, /target_host: not an IPv4 address/],
    [upgrade(PATH.replace("192.0.2.6", "a%2Fb")), 400, /target_host: a character/],
    [upgrade(PATH.replace("192.0.2.6", "%ff")), 400, /not percent-encoded UTF-8/],
    [`GET ${PATH} HTTP/1.1\r\n${UPGRADE.replace("Host", "X")}`, 400, /no Host/],
    [`GET ${PATH} HTTP/1.1\r\nHost: b\r\n${UPGRADE}`, 400, /more than one Host/],
    [`GET ${PATH} HTTP/1.1\r\nContent-Length: 1\r\n${UPGRADE}`, 400, /a request with content/],
    [`GET ${PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n${UPGRADE}`, 400, /with content/],
    [`GET ${PATH} HTTP/1.1\r\n folded\r\n\r\n`, 400, /begins with whitespace/],
    ["GET  / HTTP/1.1\r\n\r\n", 400, /no valid request line/],
    ["GET /\r\n\r\n", 400, /no valid request line/],
    ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, /HTTP\/2\.0 is not supported/],
    ["\x16\x03\x01", 400, /not an HTTP request: byte 0x16/],
    ["GET \0", 400, /not an HTTP request: byte 0x00/],
    [`GET /${"x".repeat(16_384)}`, 431, /the head is longer than 16384 bytes/],
    [`GET ${PATH} HTTP/1.1\r\n${"A: b\r\n".repeat(3_000)}`, 431, /longer than 16384 bytes/],
  ];
  for (const [head, status, text] of cases) {
    const result = parse(head);
    assert(result.kind === "answer", head);
    assertEquals(result.status, status, head);
    assertMatch(result.text, text);
    const [fields = "", content] = textOf(result.answer).split("\r\n\r\n");
    assertMatch(fields, new RegExp(`^HTTP/1\\.1 ${status} [A-Z]`));
    assertMatch(fields, /\r\nConnection: close/);
    assertEquals(content, head.startsWith("HEAD") ? "" : `${result.text}\n`);
    assertEquals(/\r\nUpgrade: connect-udp/.test(fields), status === 426);
    assertEquals(/\r\nAllow: GET/.test(fields), status === 405);
  }
});

pureTest("UpgradeRequestParser has one result, however the bytes are cut", () => {
  const head = fc.oneof(
    fc.constantFrom(
      `GET ${PATH} HTTP/1.1\r\n${UPGRADE}`,
      `\r\nGET ${PATH} HTTP/1.1\nHost: a\nConnection: Upgrade\n\n`,
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET / HTTP/1.1\r\nHost a\r\n\r\n",
      `GET / HTTP/1.1\r\nX: ${"y".repeat(17_000)}`,
    ),
    fc.string({ unit: fc.constantFrom(..."GET /.:a1\r\n\0\x80HOST"), maxLength: 60 }),
  );
  fc.assert(
    fc.property(head, fc.integer({ min: 1, max: 100 }), (head, pieceBytes) => {
      const bytes = bytesOf(head);
      const [whole] = parseInPieces(bytes, bytes.length + 1);
      const [pieces] = parseInPieces(bytes, pieceBytes);
      assertEquals(pieces, whole);
    }),
    runs(300),
  );
});

pureTest("expandTemplate() takes the templates of RFC 9298, and refuses others", () => {
  const target = { hostname: "192.0.2.6", port: 443 };
  assertEquals(expandTemplate(DEFAULT_TEMPLATE, target), PATH);
  assertEquals(
    expandTemplate("/masque?h={target_host}&p={target_port}", target),
    "/masque?h=192.0.2.6&p=443",
  );
  assertEquals(
    expandTemplate("/a%20b?x=1{&target_port,target_host}", target),
    "/a%20b?x=1&target_port=443&target_host=192.0.2.6",
  );
  const wrong: [template: string, problem: string][] = [
    ["https://a/{target_host}/{target_port}", "it does not begin with /"],
    ["/{target_host}/", "not exactly one {target_port}"],
    ["/{target_host}/{target_host}/{target_port}/", "not exactly one {target_host}"],
    ["/{target_host,target_port}/", "several variables without ? or &"],
    ["/{+target_host}/{target_port}/", "unknown variable {+target_host}"],
    ["/{target_host}/{target_port}/{x}", "unknown variable {x}"],
    ["/{target_host/{target_port}/", "an expression is not complete"],
    ["/{target_host}/{target_port}/\r\n", "a character that is not allowed in paths"],
    ["/%2/{target_host}/{target_port}/", "a character that is not allowed in paths"],
  ];
  for (const [template, problem] of wrong) {
    assertThrows(() => expandTemplate(template, target), NotParsedError, problem);
  }
});

pureTest("acceptUpgrade() says in its own words that a client has cut the connection", async () => {
  const [connection] = memoryPair();
  const said = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls";
  connection.read = () => Promise.reject(new Deno.errors.UnexpectedEof(said));
  await assertRejects(
    () => acceptUpgrade(connection),
    CarrierEndedError,
    "the peer has ended the carrier without close_notify",
  );
});
