// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Clients and servers that abuse plain requests, over tunnels between real connections. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { canResetTcp } from "../support/can_reset_tcp.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { bytesOf } from "../support/push_parser.ts";
import {
  ask,
  assertReads,
  type Network,
  readText,
  sendText,
  type Server,
  type Target,
  test,
  text,
} from "../support/network.ts";

/** One combination is enough: the dialect does not know what it carries. */
const ONE = ["qrht/1"];

/** A server of HTTP that notes all it gets, and answers the first request of each connection alone. */
function origin(net: Network): Target & { readonly connections: string[] } {
  const connections: string[] = [];
  const target = net.servingTarget(async (connection) => {
    const index = connections.push("") - 1;
    const buffer = new Uint8Array(4_096);
    for (let n, isAnswered = false; (n = await connection.read(buffer)) !== null;) {
      connections[index] += text.decode(buffer.subarray(0, n));
      if (isAnswered || !isWhole(connections[index]!)) continue;
      isAnswered = true;
      await sendText(connection, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
  });
  return Object.assign(target, { connections });
}

/** Whether a request, as the agent writes it, is there with its content. */
function isWhole(request: string): boolean {
  const [head, ...rest] = request.split("\r\n\r\n");
  if (rest.length === 0) return false;
  const content = rest.join("\r\n\r\n");
  if (/^transfer-encoding: chunked$/im.test(head!)) {
    return /(?:^|\r\n)0+\r\n(?:.+\r\n)*\r\n/.test(content);
  }
  return content.length >= Number(/^content-length: (\d+)$/im.exec(head!)?.[1] ?? 0);
}

/**
 * What comes of bytes from a client:
 *
 * - a status: the answer; nobody else gets a byte
 * - `one`: the first server gets one request, and the client its response
 * - `cut`: the first server gets a part, and is reset; the client is answered 400
 */
type Outcome = number | "one" | "cut";

const CHUNKED = "Transfer-Encoding: chunked";
const HELLO = "5\r\nhello\r\n0\r\n\r\n";

/** Requests whose server is A, each followed by one whose server is B. */
const attacks: readonly (readonly [outcome: Outcome, request: string])[] = [
  // Two readings of where the content ends.
  [400, post("Content-Length: 5", CHUNKED) + HELLO],
  [400, post(CHUNKED, "Content-Length: 15") + HELLO],
  [400, post("Content-Length: 5", "Content-Length: 0") + "hello"],
  [400, post("Content-Length: 5", "content-length: 5") + "hello"],
  [400, post("Content-Length: 5, 5") + "hello"],
  [400, post("Content-Length: +5") + "hello"],
  [400, post("Content-Length: -5") + "hello"],
  [400, post("Content-Length: 0x5") + "hello"],
  [400, post("Content-Length: 5 5") + "hello"],
  [400, post("Content-Length: 5e0") + "hello"],
  [400, post("Content-Length: ") + "hello"],
  [400, post("Content-Length: 18446744073709551621") + "hello"],
  [400, post("Content-Length : 5") + "hello"],
  [400, post("Connection: content-length", "Content-Length: 5") + "hello"],
  [501, post("Transfer-Encoding: chunked, identity") + HELLO],
  [501, post("Transfer-Encoding: identity, chunked") + HELLO],
  [501, post('Transfer-Encoding: "chunked"') + HELLO],
  [501, post("Transfer-Encoding: chunked;q=1") + HELLO],
  [501, post("Transfer-Encoding: chunke\xe4") + HELLO],
  [400, post(CHUNKED, "Transfer-Encoding: cow") + HELLO],
  [400, post("Transfer-Encoding : chunked") + HELLO],
  [400, post("Transfer-Encoding:\r\n chunked") + HELLO],
  [400, post("X: y\r\n\tTransfer-Encoding: chunked") + HELLO],
  [400, post("X: y\rTransfer-Encoding: chunked") + HELLO],
  [400, post("Transfer-Encoding: \0chunked") + HELLO],
  [400, post("Transfer-Encoding: chunked\x0b") + HELLO],
  [400, post("Transfer-Encoding: chunked").replace("1.1", "1.0") + HELLO],
  [400, post("Connection: close, transfer-encoding", CHUNKED) + HELLO],
  // Two readings of which server is asked.
  [400, post("Host: B")],
  [400, post("Host: A")],
  [400, post("Connection: host")],
  [400, "GET http://A/ HTTP/1.1\r\n\r\n"],
  [400, "GET http://A/ HTTP/1.1\r\nHost: B/\r\n\r\n"],
  [400, "GET http://A/ HTTP/1.1\r\n Host: B\r\n\r\n"],
  [400, "GET http://A/ http://B/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [400, "GET http://B@A/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [400, "GET http://A\\@B/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [400, "GET http://A/\xe4 HTTP/1.1\r\nHost: A\r\n\r\n"],
  [400, "GET\thttp://A/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [400, " GET http://A/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [400, "GET http://A/\r\nHost: A\r\n\r\n"],
  [405, "GET http://A/#http://B/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [405, "GET //A/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [405, "GET / HTTP/1.1\r\nHost: A\r\n\r\n"],
  [405, "TRACE http://A/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  [417, post("Expect: 100-continue, x")],
  [505, "GET http://A/ HTTP/2.0\r\nHost: A\r\n\r\n"],
  [431, post(`X: ${"y".repeat(16_384)}`)],
  // One request, and bytes behind it that look like another one.
  ["one", "GET http://A/ HTTP/1.1\r\nHost: A\r\n\r\n"],
  ["one", "\r\n\nGET http://A/ HTTP/1.1\nHost: A\n\n"],
  ["one", "GET http://A/ HTTP/1.1\r\nHost: B\r\n\r\n"],
  ["one", "GET http://A/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"],
  ["one", "HEAD http://A/ HTTP/1.1\r\nHost: A\r\nProxy-Connection: keep-alive\r\n\r\n"],
  ["one", "OPTIONS http://A HTTP/1.1\r\nHost: A\r\nMax-Forwards: 1\r\n\r\n"],
  ["one", `${post("Upgrade: websocket", "Connection: Upgrade")}\x81\x05hello`],
  ["one", `${post()}CONNECT B HTTP/1.1\r\n\r\n`],
  ["one", `${post()}\x05\x01\x00`],
  ["one", `${post("Content-Length: 5")}hello`],
  ["one", `${post("Content-Length: 5", "Expect: 100-Continue")}hello`],
  ["one", `${post("transfer-encoding: Chunked")}${HELLO}`],
  ["one", `${post(CHUNKED)}05;a="\xe4";b\r\nhello\r\n000\r\nHost: a\r\nContent-Length: 9\r\n\r\n`],
  // Content that begins well.
  ["cut", `${post(CHUNKED)}5\nhello\n0\n\n`],
  ["cut", `${post(CHUNKED)}5\r\nhelloo\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}5\r\nhello\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}5\r\nhello\r0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}5 \r\nhello\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}+5\r\nhello\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}0x5\r\nhello\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}5;a\nhello\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}5;a\rb\r\nhello\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}5;${"a".repeat(5_000)}\r\nhello\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}ffffffffffffffff5\r\nhello\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}\r\n0\r\n\r\n`],
  ["cut", `${post(CHUNKED)}0\r\nX: y\r\n z\r\n\r\n`],
  ["cut", `${post(CHUNKED)}0\r\nX : y\r\n\r\n`],
  ["cut", `${post(CHUNKED)}0\r\nX: y\n\r\n`],
  ["cut", `${post(CHUNKED)}0\r\n\n`],
  ["cut", `${post(CHUNKED)}0\r\nX: ${"y".repeat(17_000)}\r\n\r\n`],
];

function post(...fields: string[]): string {
  return ["POST http://A/for-a HTTP/1.1", "Host: A", ...fields, "", ""].join("\r\n");
}

/** What a client reads that sends bytes and waits for the end, of any sort. */
async function answerTo(net: Network, server: Server, bytes: string): Promise<string> {
  const client = await net.client(server);
  await writeAll(client, bytesOf(bytes));
  const answer = text.decode(await readToEnd(client));
  client.abort();
  return answer;
}

test("runAgent() lets no byte of a request reach another one's server", async (net) => {
  const server = await net.serverWithAgent();
  const [a, b] = [origin(net), origin(net)];
  const next = `GET http://${b.authority}/for-b HTTP/1.1\r\nHost: ${b.authority}\r\n\r\n`;
  for (const [outcome, request] of attacks) {
    const shown = JSON.stringify(request.slice(0, 120));
    const bytes = request.replaceAll(/\bA\b/g, a.authority).replaceAll(/\bB\b/g, b.authority);
    const answer = await answerTo(net, server, `${bytes}${next}`);
    const status = outcome === "one" ? 200 : outcome === "cut" ? 400 : outcome;
    assertEquals(answer.slice(0, 13), `HTTP/1.1 ${status} `, `${shown}: ${answer}`);
    // Of two answers, the client would take the second one for that to its next request.
    assertEquals(answer.match(/^HTTP\/1/gm)?.length, 1, `${shown}: ${answer}`);
    const seen = a.connections.splice(0);
    if (typeof outcome === "number") assertEquals(seen, [], shown);
    else {
      assertEquals(seen.length, 1, shown);
      const [requestLine, ...lines] = seen[0]!.split("\r\n");
      assertMatch(requestLine!, /^[A-Z]+ (?:\/|\/for-a|\*) HTTP\/1\.[01]$/, shown);
      const hosts = lines.slice(0, lines.indexOf("")).filter((line) => /^host:/i.test(line));
      assertEquals(hosts, [`Host: ${a.authority}`], shown);
      assert(!seen[0]!.includes("for-b") && !seen[0]!.includes(b.authority), seen[0]);
      assertEquals(isWhole(seen[0]!) && outcome === "cut", false, seen[0]);
    }
    assertEquals(b.connections, [], shown);
  }
  // It was there all the time.
  assertMatch(await answerTo(net, server, next), /^HTTP\/1.1 200 OK\r\n/);
  assertEquals(b.connections.length, 1);
}, ONE);

/** A client whose request, without content, has reached its server, and the server's end. */
async function exchange(net: Network, config: Parameters<Network["serverWithAgent"]>[0] = {}) {
  const server = await net.serverWithAgent(config);
  const target = net.target();
  const client = await net.client(server);
  await sendText(client, `GET http://${target.authority}/ HTTP/1.1\r\nHost: a\r\n\r\n`);
  return { server, client, atTarget: await received(target) };
}

/** A connection whose request's head has been read. */
async function received(target: Target): Promise<Duplex> {
  const connection = await target.accept();
  const buffer = new Uint8Array(1);
  for (let head = ""; !head.endsWith("\r\n\r\n");) {
    await connection.read(buffer);
    head += text.decode(buffer);
  }
  return connection;
}

test("runAgent() gives a client that half-closes behind its request the whole response", async (net) => {
  const { client, atTarget } = await exchange(net);
  await client.closeWrite();
  const bytes = pattern(1_000_000);
  await sendText(atTarget, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
  const sending = writeAll(atTarget, bytes);
  const answer = await readToEnd(client);
  assertSameBytes(answer.subarray(answer.length - bytes.length), bytes);
  await sending;
});

test("runAgent() gives a client that is still sending an early response", async (net) => {
  const server = await net.serverWithAgent();
  const target = net.target();
  const client = await net.client(server);
  const { authority } = target;
  const head =
    `POST http://${authority}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n`;
  await sendText(client, head);
  net.flood(client);
  const atTarget = await received(target);
  await sendText(
    atTarget,
    "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
  );
  // What it has not read makes its end a reset.
  await atTarget[Symbol.asyncDispose]();
  assertMatch(await readText(client), /^HTTP\/1.1 413 [^]*\r\n\r\ntoo large$/);
});

test(
  "runAgent() takes a response that comes before the content, and then the content",
  async (net) => {
    const server = await net.serverWithAgent();
    const target = net.target();
    const client = await net.client(server);
    await sendText(
      client,
      `POST http://${target.authority}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab`,
    );
    const atTarget = await received(target);
    await sendText(atTarget, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok");
    await assertReads(atTarget, "ab");
    await sendText(client, "cd");
    await assertReads(atTarget, "cd");
    await sendText(atTarget, "ok");
    assertMatch(await readText(client), /\r\n\r\nokok$/);
  },
  ONE,
);

for (
  const [framing, fields, content] of [
    ["a length", "Content-Length: 9\r\n", "part"],
    ["chunks", "Transfer-Encoding: chunked\r\n", "4\r\npart\r\n"],
    ["the connection's end", "", "part"],
  ] as const
) {
  test(`runAgent() resets a client whose response, ended by ${framing}, is cut off`, async (net) => {
    const { client, atTarget } = await exchange(net);
    await sendText(atTarget, `HTTP/1.1 200 OK\r\n${fields}\r\n${content}`);
    const buffer = new Uint8Array(4_096);
    for (let read = ""; !read.endsWith(content);) {
      read += text.decode(buffer.subarray(0, (await client.read(buffer))!));
    }
    atTarget.abort();
    if (canResetTcp) await assertRejects(() => readToEnd(client), Error, "reset");
  });
}

test(
  "runAgent() answers 502 where one response could be two, and passes no second one on",
  async (net) => {
    const server = await net.serverWithAgent();
    const head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
    for (
      const [response, expected] of [
        [`${head}X: a\rY: b\r\n\r\n`, /^HTTP\/1.1 502 no valid response: a CR without LF\r\n/],
        [`${head}X: a\r\n HTTP/1.1 200 OK\r\n\r\n`, /^HTTP\/1.1 502 .*begins with whitespace\r\n/],
        [`${head}Content-Length: 40\r\n\r\n`, /^HTTP\/1.1 502 .*more than one Content-Length\r\n/],
        [`${head}Transfer-Encoding: chunked\r\n\r\n`, /^HTTP\/1.1 502 .*both Transfer-Encoding/],
        [`${head}X: ${"y".repeat(66_000)}\r\n\r\n`, /^HTTP\/1.1 502 .*longer than 65536 bytes\r\n/],
        [`${head}\r\nHTTP/1.1 200 OK\r\n\r\nevil`, /^HTTP\/1.1 200 OK\r\n(?:.+\r\n)+\r\n$/],
        ["HTTP/1.1 204 OK\r\nContent-Length: 4\r\n\r\nevil", /^HTTP\/1.1 204 (?:.+\r\n)+\r\n$/],
        ["HTTP/1.1 304 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil", /\r\n\r\n$/],
      ] as const
    ) {
      const target = net.servingTarget(async (connection) => {
        await connection.read(new Uint8Array(4_096));
        await sendText(connection, response);
        await connection.read(new Uint8Array(1));
      });
      const request = `GET http://${target.authority}/ HTTP/1.1\r\nHost: a\r\n\r\n`;
      const answer = await ask(net, server, request);
      assertMatch(answer, expected);
      assertEquals(answer.match(/HTTP\/1/g)?.length, 1, answer);
    }
  },
  ONE,
);

test("runAgent() passes on any number of interim responses, in linear time", async (net) => {
  const count = 20_000;
  const interim = "HTTP/1.1 102 x\n\n";
  const { client, atTarget } = await exchange(net);
  const sending = sendText(atTarget, `${interim.repeat(count)}HTTP/1.1 204 x\n\n`);
  const answer = await readText(client);
  await sending;
  assertEquals(answer.match(/^HTTP\/1.1 102 x\r\nVia: .*\r\n\r\n/gm)?.length, count);
  assertMatch(answer.slice(-100), /HTTP\/1.1 204 x\r\nVia: .*\r\nConnection: close\r\n\r\n$/);
}, ONE);

test("runAgent() gives up a client that does not go on with its content", async (net) => {
  const timeouts = { idleTimeoutMs: 100 };
  const server = await net.serverWithAgent(timeouts);
  const target = net.target();
  const client = await net.client(server);
  await sendText(
    client,
    `POST http://${target.authority}/ HTTP/1.1\r\nHost: a\r\n${CHUNKED}\r\n\r\n5\r\nhe`,
  );
  const atTarget = await received(target);
  await assertReads(atTarget, "5\r\nhe");
  if (canResetTcp) {
    await assertRejects(() => readToEnd(client), Error, "reset");
    await assertRejects(() => readToEnd(atTarget), Error, "reset");
  }
});

test("runAgent() lets go of a server that would keep its connection", async (net) => {
  const { client, atTarget } = await exchange(net);
  await sendText(atTarget, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  assertMatch(await readText(client), /\r\n\r\nok$/);
  await client[Symbol.asyncDispose]();
  let isOver = false;
  readToEnd(atTarget).catch(() => {}).finally(() => isOver = true);
  await eventually("its connection has ended", () => isOver);
}, ONE);
