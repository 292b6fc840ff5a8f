// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertGreaterOrEqual } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { reconnect, type ReconnectOptions } from "../../lib/agent/reconnect.ts";

/** What one attempt comes to: an error, or how long its session was healthy. */
type Outcome = Error | { readonly healthyMs: number };

interface Story {
  /** Pauses, in ms. */
  readonly delays: number[];
  readonly failures: { readonly error: unknown; readonly retryInMs: number }[];
}

/** Runs through the outcomes with no time passing, and stops in the pause after the last one. */
async function run(
  outcomes: readonly Outcome[],
  options: Partial<ReconnectOptions<Outcome>> = {},
): Promise<Story> {
  const stop = new AbortController();
  const story: Story = { delays: [], failures: [] };
  const left = [...outcomes];
  await reconnect<Outcome>({
    signal: stop.signal,
    connect() {
      const outcome = left.shift()!;
      return outcome instanceof Error ? Promise.reject(outcome) : Promise.resolve(outcome);
    },
    serve(session) {
      return session instanceof Error ? Promise.reject(session) : Promise.resolve(session);
    },
    failed: (error, retryInMs) => story.failures.push({ error, retryInMs }),
    sleep(ms) {
      story.delays.push(ms);
      if (left.length === 0) stop.abort();
      return Promise.resolve();
    },
    random: () => 1,
    ...options,
  });
  return story;
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

const refused = new Error("refused");
const healthy = { healthyMs: 5000 };
const brief = { healthyMs: 4999 };
const closedAtOnce = { healthyMs: 0 };

test("reconnect() pauses for longer with each failure, up to maxMs", async () => {
  const { delays } = await run(Array(8).fill(refused));
  assertEquals(delays, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  const bounded = await run(Array(5).fill(refused), { minMs: 10, maxMs: 70 });
  assertEquals(bounded.delays, [10, 20, 40, 70, 70]);
});

test("reconnect() pauses for no longer than the last error allows", async () => {
  const closedPort = new Error("port closed");
  const { delays } = await run([refused, refused, closedPort, closedPort, refused, closedPort], {
    maxPauseMs: (error) => error === closedPort ? 500 : undefined,
  });
  assertEquals(delays, [250, 500, 500, 500, 4_000, 500]);
});

test("reconnect() draws each pause between its bounds", async () => {
  const { delays } = await run(Array(4).fill(refused), { random: () => 0 });
  assertEquals(delays, [63, 63, 63, 63]);
  const drawn = [0, 1, 0.5];
  const mixed = await run(Array(3).fill(refused), {
    minMs: 100,
    random: () => drawn.shift()!,
  });
  assertEquals(mixed.delays, [25, 200, Math.ceil((25 + 400) / 2)]);
});

test("reconnect() starts from the shortest pause after a healthy session", async () => {
  const { delays } = await run([refused, refused, refused, healthy, refused, healthy, healthy]);
  assertEquals(delays, [250, 500, 1000, 250, 500, 250, 250]);
});

test("reconnect() goes on with longer pauses after sessions that are closed at once", async () => {
  const { delays, failures } = await run([refused, closedAtOnce, closedAtOnce, brief, refused]);
  assertEquals(delays, [250, 500, 1000, 2000, 4000]);
  // A session that ended has been told of by who served it.
  assertEquals(failures.map(({ retryInMs }) => retryInMs), [250, 4000]);
});

test("reconnect() takes healthyAfterMs as the measure of a healthy session", async () => {
  const session = { healthyMs: 30 };
  const options = { healthyAfterMs: 30 };
  assertEquals((await run([refused, session, session], options)).delays, [250, 250, 250]);
  options.healthyAfterMs = 31;
  assertEquals((await run([refused, session, session], options)).delays, [250, 500, 1000]);
});

test("reconnect() tells of each failed attempt and the pause that follows", async () => {
  const unreachable = new Error("unreachable");
  const { failures } = await run([refused, unreachable, healthy, refused]);
  assertEquals(failures, [
    { error: refused, retryInMs: 250 },
    { error: unreachable, retryInMs: 500 },
    { error: refused, retryInMs: 500 },
  ]);
});

test("reconnect() takes a session that failed for a failed attempt", async () => {
  const broken = new Error("broken");
  const { failures } = await run([healthy, healthy], { serve: () => Promise.reject(broken) });
  assertEquals(failures, [
    { error: broken, retryInMs: 250 },
    { error: broken, retryInMs: 500 },
  ]);
});

test("reconnect() serves a session that came as the signal aborted, so that it is closed", async () => {
  const stop = new AbortController();
  const served: Outcome[] = [];
  const story = await run([], {
    signal: stop.signal,
    connect() {
      stop.abort();
      return Promise.resolve(healthy);
    },
    serve(session) {
      served.push(session);
      return Promise.resolve(healthy);
    },
  });
  assertEquals(served, [healthy]);
  assertEquals(story, { delays: [], failures: [] });
});

/** Runs until the signal aborts, by its own clock, with pauses of an hour. Returns what it has called. */
async function callsUntil(abortsIn: "before" | "connect" | "serve" | "failed" | "sleep") {
  const stop = new AbortController();
  const calls: string[] = [];
  const call = (name: string) => {
    calls.push(name);
    if (name === abortsIn) stop.abort();
  };
  if (abortsIn === "before") stop.abort();
  const done = reconnect<Outcome>({
    signal: stop.signal,
    connect(signal) {
      assertEquals(signal, stop.signal);
      call("connect");
      return abortsIn === "serve" ? Promise.resolve(healthy) : Promise.reject(refused);
    },
    serve() {
      call("serve");
      return Promise.reject(refused);
    },
    failed() {
      call("failed");
      // In the pause that follows.
      if (abortsIn === "sleep") setTimeout(() => stop.abort(), 1);
    },
    minMs: 3_600_000,
    maxMs: 3_600_000,
  });
  await deadline(done, 10_000);
  return calls;
}

test("reconnect() ends without a further call when the signal aborts, at any point", async () => {
  assertEquals(await callsUntil("before"), []);
  assertEquals(await callsUntil("connect"), ["connect"]);
  assertEquals(await callsUntil("serve"), ["connect", "serve"]);
  assertEquals(await callsUntil("failed"), ["connect", "failed"]);
  assertEquals(await callsUntil("sleep"), ["connect", "failed"]);
});

test("reconnect() sleeps between attempts by its own clock", async () => {
  const stop = new AbortController();
  const since = performance.now();
  let attempts = 0;
  await reconnect<never>({
    signal: stop.signal,
    connect() {
      if (++attempts === 3) stop.abort();
      return Promise.reject(refused);
    },
    serve: () => Promise.reject(refused),
    failed: () => {},
    minMs: 5,
    random: () => 1,
  });
  // 5 and 10 ms, each counted in whole milliseconds.
  assertGreaterOrEqual(performance.now() - since, 13);
});
