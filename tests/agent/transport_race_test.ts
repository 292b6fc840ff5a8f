// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertRejects } from "@std/assert";
import type { Transport } from "../../lib/agent/transport_policy.ts";
import { RaceLostError, raceTransports } from "../../lib/agent/transport_race.ts";
import { TaskGroup } from "../../lib/task_group.ts";
import { FakeTime } from "../support/fake_time.ts";

/** What an attempt comes to, and after how long; never, without a time. */
interface Fate {
  readonly afterMs?: number;
  readonly error?: Error;
}

const verdict = new Error("not admitted");
const blocked = new Error("blocked");
const unknownHost = new Error("unknown host");

/** Races two attempts, with time passing as it must. */
async function race(
  fates: Readonly<Record<Transport, Fate>>,
  { order = ["udp", "tcp"] as readonly Transport[], stop = new AbortController() } = {},
) {
  using time = new FakeTime();
  const since = time.now;
  const tasks = new TaskGroup();
  const story: string[] = [];
  const tell = (what: string) => story.push(`${time.now - since} ${what}`);
  const running = raceTransports<Transport>({
    order,
    headStartMs: 1_500,
    open(transport, signal) {
      tell(`${transport} starts`);
      const { afterMs, error } = fates[transport];
      const { promise, resolve, reject } = Promise.withResolvers<Transport>();
      if (afterMs !== undefined) {
        setTimeout(() => {
          if (error) reject(error);
          else resolve(transport);
        }, afterMs);
      } else {
        signal.addEventListener("abort", () => {
          tell(`${transport} is aborted`);
          reject(signal.reason);
        });
      }
      return promise;
    },
    isVerdict: (error) => error === verdict,
    discard(transport) {
      tell(`${transport} is discarded`);
      return Promise.resolve();
    },
    tasks,
    signal: stop.signal,
  });
  const ended = running.then(({ transport, failures }) => {
    tell(`${transport} wins`);
    return failures;
  }, (error) => {
    tell(`error: ${error.message}`);
    return error instanceof RaceLostError ? error.failures : undefined;
  });
  await time.pass(10_000);
  const failures = await ended;
  await tasks.ended();
  assertEquals(time.pending, 0);
  return { story, failures };
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("raceTransports() makes no second attempt where the first succeeds in time", async () => {
  const { story, failures } = await race({ udp: { afterMs: 1_499 }, tcp: { afterMs: 0 } });
  assertEquals(story, ["0 udp starts", "1499 udp wins"]);
  assertEquals(failures, {});
});

test("raceTransports() starts the second beside a silent first, and aborts that in the end", async () => {
  const { story } = await race({ udp: {}, tcp: { afterMs: 40 } });
  assertEquals(story, ["0 udp starts", "1500 tcp starts", "1540 udp is aborted", "1540 tcp wins"]);
});

test("raceTransports() lets the first win after the second has started", async () => {
  const { story } = await race({ udp: { afterMs: 1_600 }, tcp: {} });
  assertEquals(story, ["0 udp starts", "1500 tcp starts", "1600 tcp is aborted", "1600 udp wins"]);
});

test("raceTransports() discards what comes after the end", async () => {
  const { story } = await race({ udp: { afterMs: 1_700 }, tcp: { afterMs: 100 } });
  assertEquals(story, [
    "0 udp starts",
    "1500 tcp starts",
    "1600 tcp wins",
    "1700 udp is discarded",
  ]);
});

test("raceTransports() starts the second at once when the first fails", async () => {
  const { story, failures } = await race({
    udp: { afterMs: 5, error: blocked },
    tcp: { afterMs: 40 },
  });
  assertEquals(story, ["0 udp starts", "5 tcp starts", "45 tcp wins"]);
  assertEquals(failures, { udp: blocked });
});

test("raceTransports() has the causes of both when both fail", async () => {
  const { story, failures } = await race({
    udp: { afterMs: 2_000, error: blocked },
    tcp: { afterMs: 40, error: unknownHost },
  });
  assertEquals(story.at(-1), "2000 error: no transport leads to the server");
  assertEquals(failures, { udp: blocked, tcp: unknownHost });
});

test("raceTransports() does not try the other transport after a verdict", async () => {
  const first = await race({ udp: { afterMs: 5, error: verdict }, tcp: { afterMs: 0 } });
  assertEquals(first.story, ["0 udp starts", "5 error: not admitted"]);
  const second = await race({ udp: {}, tcp: { afterMs: 5, error: verdict } });
  assertEquals(second.story.slice(-2), ["1505 udp is aborted", "1505 error: not admitted"]);
});

test("raceTransports() can prefer TCP", async () => {
  const order = ["tcp", "udp"] as const;
  const { story } = await race({ udp: { afterMs: 1 }, tcp: { afterMs: 300 } }, { order });
  assertEquals(story, ["0 tcp starts", "300 tcp wins"]);
});

test("raceTransports() ends when its signal aborts", async () => {
  const stop = new AbortController();
  const racing = race({ udp: {}, tcp: {} }, { stop });
  setTimeout(() => stop.abort(new Error("stopped")), 1_800);
  const { story } = await racing;
  assertEquals(story.slice(2), [
    "1800 udp is aborted",
    "1800 tcp is aborted",
    "1800 error: stopped",
  ]);
  stop.abort();
  await assertRejects(
    () =>
      raceTransports({
        order: ["udp"],
        headStartMs: 0,
        open: () => Promise.reject(new Error("called")),
        isVerdict: () => false,
        discard: () => Promise.resolve(),
        tasks: new TaskGroup(),
        signal: stop.signal,
      }),
    Error,
    "stopped",
  );
});
