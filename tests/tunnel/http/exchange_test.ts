// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import fc from "fast-check";
import { writeAll } from "../../../lib/tunnel/duplex.ts";
import { HttpExchange } from "../../../lib/tunnel/http/exchange.ts";
import type { Framing } from "../../../lib/tunnel/http/body.ts";
import { runs } from "../../support/fuzz.ts";
import { memoryPair, readToEnd } from "../../support/memory_duplex.ts";
import { pureTest } from "../../support/pure_test.ts";
import { bytesOf, textOf } from "../../support/push_parser.ts";

/** An exchange, and the connection's other end, which is the server's. */
function start({ method = "GET", minor = 1, framing = 0 as Framing } = {}) {
  const [upstream, server] = memoryPair({ stop: false });
  const target = { hostname: "a", port: 80 };
  const request = { method, minor, target, host: "a", path: "/", fields: [] };
  const exchange = new HttpExchange(upstream, request, { head: new Uint8Array(0), framing });
  return { exchange, server };
}

/** What the client gets of a response. */
async function answerTo(
  response: string,
  options?: Parameters<typeof start>[0],
  readBytes?: number,
) {
  const { exchange, server } = start(options);
  await writeAll(server, bytesOf(response));
  await server.closeWrite();
  return { text: textOf(await readToEnd(exchange, readBytes)), failure: exchange.failure };
}

const VIA = "Via: 1.1 quic-tunnel-agent\r\n";
const LAST = `${VIA}Connection: close\r\n\r\n`;

pureTest("HttpExchange gives one response up to its end, however it is framed", async () => {
  for (
    const [response, options, expected] of [
      [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n",
        {},
        `HTTP/1.1 200 OK\r\nContent-Length: 3\r\n${LAST}abc`,
      ],
      [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nmore",
        {},
        `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n${LAST}1\r\na\r\n0\r\n\r\n`,
      ],
      ["HTTP/1.1 200 OK\r\n\r\nto the end", {}, `HTTP/1.1 200 OK\r\n${LAST}to the end`],
      [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        { method: "HEAD" },
        `HTTP/1.1 200 OK\r\nContent-Length: 9\r\n${LAST}`,
      ],
      [
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 204 No\r\n\r\nx",
        {},
        `HTTP/1.1 100 Continue\r\n${VIA}\r\nHTTP/1.1 103 Early\r\nA: b\r\n${VIA}\r\n` +
        `HTTP/1.1 204 No\r\n${LAST}`,
      ],
      [
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        { minor: 0 },
        `HTTP/1.1 204 No\r\n${LAST}`,
      ],
    ] as const
  ) {
    for (const readBytes of [1, 7, 65_536]) {
      const answer = await answerTo(response, options, readBytes);
      assertEquals(answer, { text: expected, failure: undefined });
    }
  }
});

pureTest("HttpExchange answers 502 when there is no valid response", async () => {
  for (
    const [response, cause] of [
      ["", "the connection ends before the response"],
      ["HTTP/1.1 200 OK\r\n", "the connection ends before the response"],
      ["SSH-2.0-OpenSSH\r\n", "no valid response: no status line of HTTP/1"],
      ["HTTP/1.1 101 Switching\r\n\r\n", "no valid response: a change of protocol"],
      ["HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no valid response: invalid Content-Length"],
      ["HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "no valid response: whitespace"],
    ] as const
  ) {
    const { text, failure } = await answerTo(response);
    assertMatch(
      text,
      new RegExp(`^HTTP/1.1 502 ${cause}[^]*error=http_protocol_error[^]*\r\n\r\n$`),
    );
    assertEquals([failure?.by, failure?.reason], ["target", "protocol-error"]);
  }
  const { text } = await answerTo("HTTP/1.1 103 Early\r\n\r\nx");
  assertMatch(text, /^HTTP\/1.1 103 Early\r\n[^]*\r\n\r\nHTTP\/1.1 502 /);
});

pureTest(
  "HttpExchange fails the read when a response is cut off, or its chunks are malformed",
  async () => {
    for (
      const response of [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
      ]
    ) {
      await assertRejects(() => answerTo(response), Error, "the response is cut off");
    }
    const { exchange, server } = start();
    await writeAll(server, bytesOf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
    await exchange.read(new Uint8Array(1_000));
    await writeAll(server, bytesOf("1\r\nab"));
    await assertRejects(
      async () => await exchange.read(new Uint8Array(1_000)),
      Error,
      "after a chunk's data",
    );
    server.abort();
    await assertRejects(async () => await exchange.read(new Uint8Array(1_000)), Error, "reset");
  },
);

pureTest("HttpExchange sends the content of one request, and nothing behind it", async () => {
  for (
    const [framing, content] of [[3, "abc"], ["chunked", "1\r\na\r\n0\r\n\r\n"], [0, ""]] as const
  ) {
    const { exchange, server } = start({ method: "POST", framing });
    await writeAll(exchange, bytesOf(`${content}GET http://b/ HTTP/1.1\r\n\r\n`));
    await writeAll(exchange, bytesOf("GET http://c/ HTTP/1.1\r\n\r\n"));
    // Not told to the server, which might take the client for one that has left.
    await exchange.closeWrite();
    await exchange[Symbol.asyncDispose]();
    assertEquals(textOf(await readToEnd(server)), content);
  }
});

pureTest(
  "HttpExchange answers 400, and resets the server, for malformed or incomplete content",
  async () => {
    for (
      const [framing, content, cause] of [
        ["chunked", "1\r\nab", "byte 0x62 after a chunk's data"],
        ["chunked", "1\nGET / HTTP/1.1\r\n\r\n", "byte 0x0a in a chunk's size"],
        ["chunked", "1\r\na\r\n", "the connection ends within the content"],
        [3, "ab", "the connection ends within the content"],
      ] as const
    ) {
      const { exchange, server } = start({ method: "POST", framing });
      const answer = readToEnd(exchange);
      await writeAll(exchange, bytesOf(content));
      await exchange.closeWrite();
      await writeAll(exchange, bytesOf("ignored"));
      assertMatch(textOf(await answer), new RegExp(`^HTTP/1.1 400 ${cause}[^]*\r\n\r\n$`));
      assertEquals([exchange.failure?.by, exchange.failure?.reason], ["client", "protocol-error"]);
      await assertRejects(() => readToEnd(server), Error, "reset");
    }
  },
);

pureTest(
  "HttpExchange gives no second answer when content is malformed after the response",
  async () => {
    const { exchange, server } = start({ method: "POST", framing: "chunked" });
    await writeAll(server, bytesOf("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"));
    const buffer = new Uint8Array(1_000);
    await exchange.read(buffer);
    await writeAll(exchange, bytesOf("xyz"));
    await assertRejects(() => readToEnd(exchange), Error);
  },
);

pureTest("HttpExchange gives the same bytes however both sides cut them", async () => {
  const response =
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
    "5\r\nhello\r\n0\r\nA: b\r\n\r\nmore";
  const content = "3;x\r\nabc\r\n0\r\n\r\n";
  const whole = (await answerTo(response)).text;
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 90 }),
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 30 }),
      async (piece, readBytes, contentPiece) => {
        const { exchange, server } = start({ method: "POST", framing: "chunked" });
        const answer = readToEnd(exchange, readBytes);
        for (let i = 0; i < content.length; i += contentPiece) {
          await writeAll(exchange, bytesOf(content.slice(i, i + contentPiece)));
        }
        for (let i = 0; i < response.length; i += piece) {
          await writeAll(server, bytesOf(response.slice(i, i + piece)));
          await Promise.resolve();
        }
        assertEquals(textOf(await answer), whole);
        await exchange[Symbol.asyncDispose]();
        assertEquals(textOf(await readToEnd(server)), content);
      },
    ),
    runs(200),
  );
});
