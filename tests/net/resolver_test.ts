// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { formatIp } from "../../lib/net/ip_address.ts";
import { Resolver } from "../../lib/net/resolver.ts";

/** Lookups that are answered by hand. */
class Lookups {
  /** The names that were looked up, in their order. */
  readonly names: string[] = [];
  readonly #answers = new Map<string, PromiseWithResolvers<string[]>>();

  readonly lookup = (name: string): Promise<string[]> => {
    this.names.push(name);
    const answer = Promise.withResolvers<string[]>();
    this.#answers.set(name, answer);
    return answer.promise;
  };

  answer(name: string, ...addresses: string[]): void {
    this.#answers.get(name)!.resolve(addresses);
  }

  fail(name: string, error: unknown): void {
    this.#answers.get(name)!.reject(error);
  }
}

const forever = new AbortController().signal;

/** Lets everything happen that has nothing to wait for. */
const settled = () => new Promise((resolve) => setTimeout(resolve));

async function texts(resolving: Promise<readonly Uint8Array[]>): Promise<string[]> {
  return (await resolving).map(formatIp);
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

test("Resolver.resolve() gives each address once, in the order of the lookup", async () => {
  const found = ["fd00::2", "10.0.0.1", "FD00:0::2", "::ffff:10.0.0.1", "10.0.0.2", "fe80::1%lo"];
  const resolver = new Resolver({ lookup: () => Promise.resolve(found) });
  assertEquals(await texts(resolver.resolve("a", forever)), ["fd00::2", "10.0.0.1", "10.0.0.2"]);
  const none = new Resolver({ lookup: () => Promise.resolve([]) });
  assertEquals(await none.resolve("a", forever), []);
});

test("Resolver.resolve() looks a name up once for all that ask meanwhile, and anew afterwards", async () => {
  const lookups = new Lookups();
  const resolver = new Resolver(lookups);
  const asked = ["a", "A", "a"].map((name) => texts(resolver.resolve(name, forever)));
  lookups.answer("a", "10.0.0.1");
  assertEquals(await Promise.all(asked), [["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]]);
  assertEquals(lookups.names, ["a"]);
  const again = texts(resolver.resolve("a", forever));
  lookups.answer("a", "10.0.0.2");
  assertEquals(await again, ["10.0.0.2"]);
  assertEquals(lookups.names, ["a", "a"]);
});

test("Resolver.resolve() has no more than maxLookups under way, and others wait in their order", async () => {
  const lookups = new Lookups();
  const resolver = new Resolver({ ...lookups, maxLookups: 2 });
  const asked = ["a", "b", "c", "d", "e"].map((name) => texts(resolver.resolve(name, forever)));
  await settled();
  assertEquals(lookups.names, ["a", "b"]);
  lookups.answer("b", "10.0.0.2");
  assertEquals(await asked[1], ["10.0.0.2"]);
  assertEquals(lookups.names, ["a", "b", "c"]);
  for (const name of ["c", "a"]) lookups.answer(name, "10.0.0.1");
  await Promise.all([asked[0], asked[2]]);
  for (const name of ["d", "e"]) lookups.answer(name, "10.0.0.1");
  await Promise.all(asked);
  assertEquals(lookups.names, ["a", "b", "c", "d", "e"]);
});

test("Resolver.resolve() keeps lookups for names that have resolved before", async () => {
  const lookups = new Lookups();
  const resolver = new Resolver({ ...lookups, maxLookups: 4 });
  const good = resolver.resolve("Good", forever);
  lookups.answer("good", "10.0.0.1");
  await good;
  const empty = resolver.resolve("empty", forever);
  lookups.answer("empty");
  await empty;
  const hanging = ["a", "b", "c", "d"].map((name) => texts(resolver.resolve(name, forever)));
  const stillEmpty = resolver.resolve("empty", forever);
  const again = texts(resolver.resolve("good", forever));
  await settled();
  assertEquals(lookups.names, ["good", "empty", "a", "b", "c", "good"]);
  lookups.answer("good", "10.0.0.2");
  assertEquals(await again, ["10.0.0.2"]);
  // A name that fails is known no longer.
  const failing = resolver.resolve("good", forever);
  await settled();
  lookups.fail("good", new Error("gone"));
  await assertRejects(() => failing, Error, "gone");
  const unknown = texts(resolver.resolve("good", forever));
  await settled();
  assertEquals(lookups.names.slice(6), ["good"]);
  for (const name of ["a", "b", "c", "d", "empty", "good"]) {
    await settled();
    lookups.answer(name, "10.0.0.1");
  }
  assertEquals(await Promise.all([...hanging, unknown]), Array(5).fill(["10.0.0.1"]));
  assertEquals((await stillEmpty).length, 1);
});

test("Resolver.resolve() forgets names beyond 1000, those first that were asked for longest ago", async () => {
  const hang = new Promise<string[]>(() => {});
  let isHanging = false;
  const started: string[] = [];
  const resolver = new Resolver({
    lookup: (name) => {
      started.push(name);
      return isHanging ? hang : Promise.resolve(["10.0.0.1"]);
    },
    maxLookups: 4,
  });
  for (let i = 0; i < 1000; i++) await resolver.resolve(`n${i}`, forever);
  await resolver.resolve("n0", forever);
  await resolver.resolve("n1000", forever);
  isHanging = true;
  started.length = 0;
  for (const name of ["a", "b", "c", "n1", "n0"]) {
    resolver.resolve(name, forever).catch(() => {});
  }
  assertEquals(started, ["a", "b", "c", "n0"]);
});

test("Resolver.resolve() goes on with the next name after one that fails", async () => {
  const lookups = new Lookups();
  const resolver = new Resolver({ ...lookups, maxLookups: 1 });
  const failing = assertRejects(() => resolver.resolve("a", forever), Error, "no such name");
  const waiting = texts(resolver.resolve("b", forever));
  lookups.fail("a", new Error("no such name"));
  await failing;
  await settled();
  lookups.answer("b", "10.0.0.1");
  assertEquals(await waiting, ["10.0.0.1"]);
});

test("Resolver.resolve() survives a lookup that throws at once", async () => {
  const error = new Error("not today");
  const resolver = new Resolver({
    lookup: () => {
      throw error;
    },
    maxLookups: 1,
  });
  for (let i = 0; i < 3; i++) {
    assertStrictEquals(await resolver.resolve("a", forever).catch((thrown) => thrown), error);
  }
});

test("Resolver.resolve() does not look up what nobody waits for any more", async () => {
  const lookups = new Lookups();
  const resolver = new Resolver({ ...lookups, maxLookups: 1 });
  const first = texts(resolver.resolve("a", forever));
  const stop = new AbortController();
  const given = [resolver.resolve("b", stop.signal), resolver.resolve("b", stop.signal)];
  const last = texts(resolver.resolve("c", forever));
  stop.abort(new Error("enough"));
  await Promise.allSettled(given);
  lookups.answer("a", "10.0.0.1");
  await first;
  await settled();
  assertEquals(lookups.names, ["a", "c"]);
  lookups.answer("c", "10.0.0.3");
  assertEquals(await last, ["10.0.0.3"]);
});

test("Resolver.resolve() lets go of who gives up, not of the lookup, whose end another may see", async () => {
  const lookups = new Lookups();
  const resolver = new Resolver(lookups);
  const reason = new Error("enough");
  const stays = texts(resolver.resolve("a", forever));
  for (const name of ["a", "a", "b"]) {
    const stop = new AbortController();
    const givesUp = resolver.resolve(name, stop.signal);
    stop.abort(reason);
    assertStrictEquals(await givesUp.catch((thrown) => thrown), reason);
  }
  await assertRejects(() => resolver.resolve("c", AbortSignal.abort(reason)), Error, "enough");
  assertEquals(lookups.names, ["a", "b"]);
  lookups.answer("a", "10.0.0.1");
  assertEquals(await stays, ["10.0.0.1"]);
  const joined = texts(resolver.resolve("b", forever));
  lookups.answer("b", "10.0.0.2");
  assertEquals(await joined, ["10.0.0.2"]);
  assertEquals(lookups.names, ["a", "b"]);
});

test("Resolver.resolve() is not disturbed by a failure that nobody waits for", async () => {
  const lookups = new Lookups();
  const stop = new AbortController();
  const hanging = new Resolver(lookups).resolve("a", stop.signal);
  stop.abort(new Error("enough"));
  await assertRejects(() => hanging, Error, "enough");
  // If nobody took it, this would end the test run.
  lookups.fail("a", new Error("too late"));
  await settled();
});

Deno.test("Resolver.resolve() resolves as the system does", async () => {
  const resolver = new Resolver();
  const addresses = await texts(resolver.resolve("localhost", forever));
  assertEquals(addresses.filter((ip) => ip !== "::1"), ["127.0.0.1"]);
  const error = await assertRejects(() => resolver.resolve("no-such-host.invalid", forever), Error);
  assertEquals(typeof (error as { code?: string }).code, "string");
});
