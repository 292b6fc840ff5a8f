// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { answerTo, giveAnswer } from "../../lib/server/answer.ts";
import { NoAgentError } from "../../lib/server/registry.ts";
import { ConnectTimeoutError } from "../../lib/server/retrying_tunnel.ts";
import { ConnectionClosedError, StreamResetError } from "../../lib/quic/mod.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { NotConnectedError } from "../../lib/tunnel/failure.ts";
import { FakeTime } from "../support/fake_time.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { memoryPair, readToEnd } from "../support/memory_duplex.ts";

const text = new TextDecoder();
const ANSWER = new TextEncoder().encode("HTTP/1.1 503 no\r\n\r\n");

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: "none", fn: () => deadline(Promise.resolve(fn()), 10_000) });
}

test("answerTo() has the status of the cause, its words, and a proxy error of RFC 9209", () => {
  const lost = new ConnectionClosedError({
    by: "timeout",
    application: false,
    code: 0,
    reason: "no packet for 5 s",
  });
  const left = new ConnectionClosedError({ by: "peer", application: true, code: 100, reason: "" });
  const cases: [error: unknown, line: string, proxyStatus: string][] = [
    [
      new NoAgentError("no agent is connected"),
      "503 no agent is connected",
      "error=destination_unavailable; ",
    ],
    [
      new ConnectTimeoutError("none within 5 ms"),
      "504 none within 5 ms",
      "error=connection_timeout; ",
    ],
    [
      new NotConnectedError("refused", "h:1: connection refused"),
      "502 h:1: connection refused",
      "",
    ],
    [new NotConnectedError("timeout", "h:1: too late"), "504 h:1: too late", ""],
    [new NotConnectedError("overloaded", "too many"), "503 too many", ""],
    [
      lost,
      "503 the agent was lost: connection timed out: no packet for 5 s",
      "error=destination_unavailable; ",
    ],
    [
      left,
      "503 the agent has left: connection closed by the peer: code 100",
      "error=destination_unavailable; ",
    ],
    [
      new StreamResetError(4, 1),
      "502 the agent has not connected the target: .*",
      "error=connection_refused; ",
    ],
    [
      new StreamResetError(4, 9),
      "502 the agent has ended the tunnel: .*",
      "error=connection_terminated; ",
    ],
    [
      new Error("a\r\nb"),
      "502 the agent has ended the tunnel: a  b",
      "error=connection_terminated; ",
    ],
  ];
  for (const [error, line, proxyStatus] of cases) {
    assertMatch(
      text.decode(answerTo(error)),
      new RegExp(
        `^HTTP/1\\.1 ${line}\r\nProxy-Status: quic-tunnel-server; ${proxyStatus}details=".*"\r\n` +
          "Content-Length: 0\r\nConnection: close\r\n\r\n$",
      ),
    );
  }
});

test("giveAnswer() gives it to a client that has sent a request, and ends in order", async () => {
  const [near, far] = memoryPair();
  await writeAll(far, ANSWER);
  const given = giveAnswer(near, ANSWER, new AbortController().signal);
  assertEquals(await readToEnd(far), ANSWER);
  await far.closeWrite();
  await given;
  await assertRejects(async () => await near.read(new Uint8Array(1)));
});

test("giveAnswer() does not wait for a client that never closes, reads, or stops to send", async () => {
  const ways = {
    "never closes": async () => {},
    "never stops": async (far: Pick<Duplex, "write">) => {
      for (;;) await far.write(new Uint8Array(4096));
    },
  };
  for (const way of Object.values(ways)) {
    using time = new FakeTime();
    const [near, far] = memoryPair({ capacity: 4096 });
    way(far).catch(() => {});
    const given = giveAnswer(near, ANSWER, new AbortController().signal);
    await time.pass(2_000);
    await given;
  }
  using time = new FakeTime();
  const [near] = memoryPair({ capacity: 1 });
  const given = giveAnswer(near, ANSWER, new AbortController().signal);
  await time.pass(2_000);
  await given;
  assertEquals(time.pending, 0);
});

test("giveAnswer() ends with the server, and with a client that has gone", async () => {
  for (const end of ["signal", "client"] as const) {
    using time = new FakeTime();
    const stop = new AbortController();
    const [near, far] = memoryPair();
    const given = giveAnswer(near, ANSWER, stop.signal);
    if (end === "signal") stop.abort();
    else far.abort();
    await given;
    assertEquals(time.pending, 0);
  }
});
