// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch } from "@std/assert";
import { acceptEach } from "../../lib/net/accept.ts";
import { configureLog, logger, resetLog } from "../../lib/log.ts";

/** Accepts what a test has prepared: connections by their names, and errors. At the end it is closed. */
async function accepted(
  ...outcomes: (string | Error)[]
): Promise<{ took: string[]; said: string[] }> {
  const closed = new AbortController();
  const took: string[] = [], said: string[] = [];
  configureLog(2, (line) => said.push(line.replace(/^\S+ /, "")));
  const listener = {
    accept(): Promise<string> {
      const next = outcomes.shift();
      if (next === undefined) closed.abort();
      return typeof next === "string" ? Promise.resolve(next) : Promise.reject(next);
    },
  };
  try {
    await acceptEach(listener, logger("test"), closed.signal, (name) => took.push(name));
  } finally {
    resetLog();
  }
  return { took, said };
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("acceptEach() takes every connection until the listener is closed", async () => {
  assertEquals(await accepted("a", "b", "c"), { took: ["a", "b", "c"], said: [] });
});

test("acceptEach() goes on after errors, and says once that they began and that they are over", async () => {
  const full = new Error("Too many open files (os error 24)");
  const { took, said } = await accepted("a", full, full, full, "b", "c", full, "d");
  assertEquals(took, ["a", "b", "c", "d"]);
  assertEquals(said.length, 4, said.join("\n"));
  assertMatch(said[0]!, /^ERR test "cannot accept connections" error="Too many open files/);
  assertMatch(said[1]!, /^INF test "accepting connections again" failures=3$/);
  assertMatch(said[2]!, /^ERR/);
  assertMatch(said[3]!, / failures=1$/);
});

test("acceptEach() pauses for longer from failure to failure", async () => {
  const full = new Error("full");
  const since = performance.now();
  await accepted(full, full, full, full, full, full, "a");
  // At least a quarter of 10 ms each.
  assertEquals(performance.now() - since >= 12, true);
});

test("acceptEach() does not pause for clients that have left", async () => {
  const gone = Array.from({ length: 500 }, () => new Deno.errors.ConnectionAborted("gone"));
  const { took, said } = await accepted(...gone, "a");
  assertEquals(took, ["a"]);
  assertEquals(said.length, 500);
  assertMatch(said[0]!, /^DBG test "client disconnected before it was accepted" error=gone$/);
});
