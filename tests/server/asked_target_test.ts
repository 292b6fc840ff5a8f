// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import fc from "fast-check";
import { formatAuthority } from "../../lib/net/authority.ts";
import { answerTo } from "../../lib/server/answer.ts";
import { askedTarget } from "../../lib/server/asked_target.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { NotConnectedError } from "../../lib/tunnel/failure.ts";
import { FakeTime } from "../support/fake_time.ts";
import { cut } from "../support/memory_carrier.ts";
import { memoryPair, readToEnd } from "../support/memory_duplex.ts";
import { isPending, pureTest as test } from "../support/pure_test.ts";
import { bytesOf, textOf } from "../support/push_parser.ts";

/** What is known of a client that sends this, in pieces of these sizes, and then the end. */
async function asked(text: string, sizes: readonly number[] = []) {
  const [client, server] = memoryPair();
  const send = async () => {
    for (const piece of cut(bytesOf(text), sizes)) await writeAll(client, piece);
    await client.closeWrite();
  };
  const [asking] = await Promise.all([askedTarget(server), send()]);
  return asking && {
    target: formatAuthority(asking.target),
    replayed: textOf(await readToEnd(asking.carrier)),
  };
}

const requests: Record<string, string> = {
  "CONNECT A.example.:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n": "A.example.:443",
  "\r\n\nCONNECT [fd00::1]:80 HTTP/1.0\n\n": "[fd00::1]:80",
  "GET http://b.example/x?y HTTP/1.1\r\nHost: other.example\r\n\r\n": "b.example:80",
  "PUT HTTP://10.0.0.1:8080 HTTP/1.1\r\nContent-Length: 2\r\n\r\n": "10.0.0.1:8080",
};

test("askedTarget() gives back every byte that it has read, however they come", async () => {
  const any = fc.record({
    head: fc.constantFrom(...Object.keys(requests)),
    body: fc.uint8Array({ maxLength: 20_000 }).map(textOf),
    sizes: fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 20 }),
  });
  await fc.assert(
    fc.asyncProperty(any, async ({ head, body, sizes }) => {
      const replayed = head + body;
      assertEquals(await asked(replayed, sizes), { target: requests[head]!, replayed });
    }),
    { numRuns: 60 },
  );
});

const refused: Record<string, RegExp> = {
  "\x16\x03\x01\x02\x00": /^HTTP\/1\.1 400 TLS bytes where an HTTP request was expected\r\n/,
  "GET / HTTP/1.1\r\n\r\n": /^HTTP\/1\.1 405 GET needs an http URL/,
  "CONNECT a HTTP/1.1\r\n\r\n": /^HTTP\/1\.1 400 invalid address "a": no port/,
  "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n": /^HTTP\/1\.1 400 the connection ends within/,
  [`CONNECT a:1 HTTP/1.1\r\nx: ${"y".repeat(17_000)}`]: /^HTTP\/1\.1 431 the head is longer/,
};

test("askedTarget() refuses all that is no request, with an answer", async () => {
  for (const [text, answer] of Object.entries(refused)) {
    const error = await assertRejects(() => asked(text), NotConnectedError);
    assertEquals(error.code, "bad-request");
    assertMatch(textOf(answerTo(error)), answer);
  }
});

test("askedTarget() has no acceptable method for SOCKS", async () => {
  const error = await assertRejects(() => asked("\x05\x01\x00"), NotConnectedError);
  assertEquals(answerTo(error), Uint8Array.of(5, 0xff));
});

test("askedTarget() knows of no client that leaves without a byte", async () => {
  assertEquals(await asked(""), undefined);
});

test("askedTarget() does not wait for longer than its time", async () => {
  const [client, server] = memoryPair();
  using time = new FakeTime();
  const late = assertRejects(() => askedTarget(server, 1_000), NotConnectedError, "1000 ms");
  await writeAll(client, bytesOf("CONNECT a:1"));
  await time.pass(999);
  assert(await isPending(late));
  await time.pass(1);
  assertEquals((await late).status, 408);
  assertEquals(time.pending, 0);
  client.abort();
});
