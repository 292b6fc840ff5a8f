// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import fc from "fast-check";
import { firstToSucceed, interleaveFamilies } from "../../lib/net/happy_eyeballs.ts";
import { formatIp, ipBytes } from "../../lib/net/ip_address.ts";
import { eventually } from "../support/eventually.ts";

/** Far more than a test takes. */
const LONG_MS = 60_000;

const forever = new AbortController().signal;

function test(name: string, fn: () => Promise<void> | void): void {
  Deno.test({ name, permissions: "none", fn });
}

/** Attempts whose outcomes are told by hand. */
class Attempts {
  readonly begun: string[] = [];
  readonly aborted: string[] = [];
  readonly discarded: string[] = [];
  readonly #outcomes = new Map<string, PromiseWithResolvers<string>>();

  readonly attempt = (candidate: string, signal: AbortSignal): Promise<string> => {
    this.begun.push(candidate);
    signal.addEventListener("abort", () => this.aborted.push(candidate));
    const outcome = Promise.withResolvers<string>();
    this.#outcomes.set(candidate, outcome);
    return outcome.promise;
  };

  readonly discard = (value: string): void => {
    this.discarded.push(value);
  };

  succeed(candidate: string): void {
    this.#outcomes.get(candidate)!.resolve(`${candidate}!`);
  }

  fail(candidate: string): void {
    this.#outcomes.get(candidate)!.reject(new Error(`${candidate} failed`));
  }

  async until(...begun: string[]): Promise<void> {
    await eventually(`${begun} have begun`, () => this.begun.length >= begun.length);
    assertEquals(this.begun, begun);
  }
}

function race(attempts: Attempts, delayMs: number, candidates = ["a", "b", "c"]): Promise<string> {
  return firstToSucceed(candidates, { ...attempts, signal: forever, delayMs });
}

test("firstToSucceed() begins one attempt alone, and is content with its success", async () => {
  const attempts = new Attempts();
  const racing = race(attempts, LONG_MS);
  attempts.succeed("a");
  assertEquals(await racing, "a!");
  assertEquals([attempts.begun, attempts.discarded], [["a"], []]);
});

test("firstToSucceed() begins the next attempt after delayMs beside the first", async () => {
  const attempts = new Attempts();
  const racing = race(attempts, 1);
  await attempts.until("a", "b", "c");
  assertEquals(attempts.aborted, []);
  attempts.succeed("b");
  assertEquals(await racing, "b!");
  assertEquals(attempts.aborted, ["a", "b", "c"]);
});

test("firstToSucceed() begins the next attempt at once when one has failed, and waits for all", async () => {
  const attempts = new Attempts();
  const racing = race(attempts, LONG_MS, ["a", "b"]);
  attempts.fail("a");
  await attempts.until("a", "b");
  await new Promise((resolve) => setTimeout(resolve));
  attempts.succeed("b");
  assertEquals(await racing, "b!");
});

test("firstToSucceed() discards a success that comes second, in the same moment or later", async () => {
  const attempts = new Attempts();
  const racing = race(attempts, 1, ["a", "b", "c", "d"]);
  await attempts.until("a", "b", "c", "d");
  attempts.succeed("b");
  attempts.succeed("a");
  assertEquals(await racing, "b!");
  assertEquals(attempts.discarded, ["a!"]);
  attempts.succeed("d");
  // If nobody took it, this would end the test run.
  attempts.fail("c");
  await eventually("it is discarded", () => attempts.discarded.length === 2);
  assertEquals(attempts.discarded, ["a!", "d!"]);
});

test("firstToSucceed() throws the errors of all when all have failed", async () => {
  const attempts = new Attempts();
  const racing = race(attempts, 1);
  await attempts.until("a", "b", "c");
  for (const candidate of ["c", "a", "b"]) attempts.fail(candidate);
  const error = await assertRejects(() => racing, AggregateError);
  assertEquals(error.errors.map(String), ["a", "b", "c"].map((name) => `Error: ${name} failed`));
});

test("firstToSucceed() takes an attempt that throws at once for one that has failed", async () => {
  const attempt = (candidate: string) => {
    if (candidate !== "c") throw new Error(candidate);
    return Promise.resolve("c!");
  };
  const options = { attempt, discard: () => {}, signal: forever, delayMs: LONG_MS };
  assertEquals(await firstToSucceed(["a", "b", "c"], options), "c!");
  await assertRejects(() => firstToSucceed(["a", "b"], options), AggregateError);
});

test("firstToSucceed() gives all attempts up when the signal aborts, and begins no more", async () => {
  const attempts = new Attempts();
  const stop = new AbortController();
  const reason = new Error("enough");
  const racing = firstToSucceed(["a", "b", "c"], {
    ...attempts,
    signal: stop.signal,
    delayMs: LONG_MS,
  });
  attempts.fail("a");
  await attempts.until("a", "b");
  stop.abort(reason);
  // A success in the same moment comes too late.
  attempts.succeed("b");
  assertStrictEquals(await racing.catch((thrown) => thrown), reason);
  assert(attempts.aborted.includes("b"));
  await eventually("it is discarded", () => attempts.discarded.length > 0);
  assertEquals([attempts.begun, attempts.discarded], [["a", "b"], ["b!"]]);
});

test("firstToSucceed() begins nothing when the signal has aborted before", async () => {
  const attempts = new Attempts();
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => firstToSucceed(["a"], { ...attempts, signal }), Error, "enough");
  assertEquals(attempts.begun, []);
});

test("interleaveFamilies() alternates families and keeps the order within them", () => {
  const cases: [addresses: string[], order: string[]][] = [
    [[], []],
    [["::1"], ["::1"]],
    [["::1", "::2", "10.0.0.1"], ["::1", "10.0.0.1", "::2"]],
    [["10.0.0.1", "10.0.0.2", "::1", "10.0.0.3"], ["10.0.0.1", "::1", "10.0.0.2", "10.0.0.3"]],
  ];
  for (const [addresses, order] of cases) {
    const ips = addresses.map((text) => ipBytes(text)!);
    assertEquals(interleaveFamilies(ips).map(formatIp), order);
  }
  const ip = fc.oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
  );
  fc.assert(fc.property(fc.array(ip), (ips) => {
    const order = interleaveFamilies(ips);
    for (const length of [4, 16]) {
      const family = (list: readonly Uint8Array[]) => list.filter((ip) => ip.length === length);
      assertEquals(family(order), family(ips));
    }
    const scarce = Math.min(...[4, 16].map((n) => ips.filter((ip) => ip.length === n).length));
    for (let i = 1; i < 2 * scarce; i++) assert(order[i]!.length !== order[i - 1]!.length);
    assertEquals(order[0], ips[0]);
  }));
});
