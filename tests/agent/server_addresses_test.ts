// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { type Authority, formatAuthority, parseAuthority } from "../../lib/net/authority.ts";
import { ipBytes } from "../../lib/net/ip_address.ts";
import { ServerAddresses, type ServerAddressesOptions } from "../../lib/agent/server_addresses.ts";
import { Resolver } from "../../lib/net/resolver.ts";
import { configureLog, logger, resetLog } from "../../lib/log.ts";

/** A task under way. */
interface FakeTask {
  readonly address: string;
  readonly signal: AbortSignal;
  /** Ends it, as when its last connection has ended. */
  end(): void;
}

/** What a name resolves to; undefined fails, "silence" never answers. */
type Answer = readonly string[] | "silence" | undefined;

interface Sleeper {
  readonly at: number;
  wake(): void;
}

/** ServerAddresses in a world in which time passes when a test says so. */
class World implements AsyncDisposable {
  readonly dns: Record<string, Answer> = {};
  readonly tasks: FakeTask[] = [];
  /** The address of every task ever. */
  readonly started: string[] = [];
  /** When each name was asked for. */
  readonly lookups: { readonly name: string; readonly at: number }[] = [];
  readonly lines: string[] = [];
  readonly #stop = new AbortController();
  readonly #sleepers = new Set<Sleeper>();
  readonly #addresses: ServerAddresses;
  readonly #done: Promise<void>;
  now = 0;

  constructor(
    servers: readonly string[],
    dns: Record<string, Answer> = {},
    options: Partial<ServerAddressesOptions> = {},
  ) {
    Object.assign(this.dns, dns);
    const resolver = new Resolver({ lookup: (name) => this.#lookup(name) });
    configureLog(2, (line) => this.lines.push(line.replace(/^\S+ /, "")));
    this.#addresses = new ServerAddresses({
      servers: servers.map((server) => parseAuthority(server)),
      resolve: (name, signal) => resolver.resolve(name, signal),
      keepConnected: (address, signal) => this.#keepConnected(formatAuthority(address), signal),
      log: logger("test"),
      signal: this.#stop.signal,
      random: () => 1,
      sleep: (ms, signal) => this.#sleep(ms, signal),
      ...options,
    });
    this.#done = this.#addresses.run();
  }

  #lookup(name: string): Promise<readonly string[]> {
    this.lookups.push({ name, at: this.now });
    const answer = this.dns[name];
    if (answer === "silence") return new Promise(() => {});
    return answer ? Promise.resolve(answer) : Promise.reject(new Error(`no ${name} here`));
  }

  #keepConnected(address: string, signal: AbortSignal): Promise<void> {
    this.started.push(address);
    return new Promise((resolve) => {
      const task: FakeTask = {
        address,
        signal,
        end: () => {
          this.tasks.splice(this.tasks.indexOf(task), 1);
          resolve();
        },
      };
      this.tasks.push(task);
    });
  }

  #sleep(ms: number, signal: AbortSignal): Promise<void> {
    assert(ms > 0 && ms <= 30_000, `a pause of ${ms} ms`);
    return new Promise((resolve) => {
      const sleeper: Sleeper = {
        at: this.now + ms,
        wake: () => {
          this.#sleepers.delete(sleeper);
          resolve();
        },
      };
      this.#sleepers.add(sleeper);
      signal.addEventListener("abort", sleeper.wake);
      if (signal.aborted) sleeper.wake();
    });
  }

  /** Addresses of tasks that are to be kept up. */
  get kept(): string[] {
    return this.tasks.filter(({ signal }) => !signal.aborted).map(({ address }) => address).sort();
  }

  /** Addresses of tasks that end with their connection. */
  get ending(): string[] {
    return this.tasks.filter(({ signal }) => signal.aborted).map(({ address }) => address).sort();
  }

  task(address: string): FakeTask {
    const found = this.tasks.find((task) => task.address === address);
    assert(found, `no task for ${address}`);
    return found;
  }

  refresh(address: string): Promise<void> {
    this.#addresses.refresh(parseAuthority(address));
    return this.settle();
  }

  /** Lets everything happen that needs no time. */
  async settle(): Promise<void> {
    for (let i = 0; i < 60; i++) await Promise.resolve();
  }

  async advance(ms: number): Promise<void> {
    const until = this.now + ms;
    for (;;) {
      await this.settle();
      const next = [...this.#sleepers].sort((a, b) => a.at - b.at)[0];
      if (!next || next.at > until) break;
      this.now = next.at;
      next.wake();
    }
    this.now = until;
  }

  stop(): void {
    this.#stop.abort(new Error("stopped"));
  }

  /** Resolves when all has ended. */
  get done(): Promise<void> {
    return deadline(this.#done, 5_000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    for (const task of [...this.tasks]) task.end();
    await this.done;
    resetLog();
  }
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

const [A, B, C] = ["192.0.2.1", "192.0.2.2", "2001:db8::3"];
const [a9, b9, c9] = [`${A}:9`, `${B}:9`, `[${C}]:9`];

test("ServerAddresses has one task for each IP address, however often and however it is written", async () => {
  await using world = new World([
    "192.0.2.1:9",
    "[2001:db8::3]:9",
    "192.0.2.1:9",
    "[2001:DB8:0:0::3]:9",
    "[::ffff:192.0.2.1]:9",
    "192.0.2.1:10",
  ]);
  await world.settle();
  assertEquals(world.kept, ["192.0.2.1:10", a9, c9]);
  await world.advance(3_600_000);
  assertEquals(world.lookups, []);
  assertEquals(world.started.length, 3);
  assertEquals(world.lines, []);
});

test("ServerAddresses has one task for each address of each name, and one for what two names share", async () => {
  await using world = new World(["x:9", "y:9", a9], {
    x: [B, A, B],
    y: [C, A, "::ffff:192.0.2.2"],
  });
  await world.settle();
  assertEquals(world.kept, [a9, b9, c9]);
  assertEquals(world.lines, [
    `INF test "server resolved" server=x:9 addresses=${a9},${b9}`,
    `INF test "server resolved" server=y:9 addresses=${a9},${b9},${c9}`,
  ]);
});

test("ServerAddresses resolves names every 30 s, and says only what is new", async () => {
  await using world = new World(["x:9"], { x: [A, B] });
  await world.advance(29_999);
  assertEquals(world.lookups.length, 1);
  world.dns.x = [B, A];
  await world.advance(90_001);
  assertEquals(world.lookups.map(({ at }) => at), [0, 30_000, 60_000, 90_000, 120_000]);
  assertEquals(world.lines.length, 1);
  assertEquals(world.started, [a9, b9]);
});

test("ServerAddresses follows what a name resolves to", async () => {
  await using world = new World(["x:9"], { x: [A] }, { refreshMs: 5_000 });
  await world.settle();
  assertEquals(world.kept, [a9]);
  world.dns.x = [B, C];
  await world.advance(5_000);
  assertEquals([world.kept, world.ending], [[b9, c9], [a9]]);
  // It has no connection, or its connection has ended: that was it.
  world.task(a9).end();
  await world.advance(60_000);
  assertEquals([world.kept, world.ending], [[b9, c9], []]);
  assertEquals(world.started, [a9, b9, c9]);
});

test("ServerAddresses tries a name again that it cannot resolve, with growing pauses and few lines", async () => {
  await using world = new World(["x:9"]);
  await world.advance(60_000);
  const pauses = world.lookups.map(({ at }, i, all) => at - (all[i - 1]?.at ?? 0)).slice(1);
  assertEquals(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000, 10_000]);
  const warnings = world.lines.filter((line) => line.startsWith("WRN"));
  assertEquals(
    warnings,
    [
      [1, 250],
      [2, 500],
      [4, 2_000],
      [8, 10_000],
    ].map(([failures, pause]) =>
      `WRN test "cannot resolve the server" server=x:9 error="no x here" failures=${failures} known=0 retryInMs=${pause}`
    ),
  );
  world.dns.x = [A];
  await world.advance(10_000);
  assertEquals(world.kept, [a9]);
  // From the start again.
  world.dns.x = undefined;
  const before = world.lookups.length;
  while (world.lookups.length === before) await world.advance(100);
  await world.settle();
  assertStringIncludes(world.lines.at(-1)!, "failures=1 known=1 retryInMs=250");
});

test("ServerAddresses gives up a lookup that takes too long", async () => {
  let answers = false;
  const resolve = (name: string) =>
    answers || name === "y"
      ? Promise.resolve([ipBytes(name === "x" ? B : A)!])
      : new Promise<never>(() => {});
  await using world = new World(["x:9", "y:9"], {}, { resolve, resolveTimeoutMs: 1 });
  await world.settle();
  // Another name is not held up.
  assertEquals(world.kept, [a9]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  answers = true;
  await world.advance(250);
  assertEquals(world.kept, [a9, b9]);
  assertStringIncludes(world.lines.join("\n"), `error="no answer within 1 ms"`);
});

test("ServerAddresses.refresh() resolves the names of an address soon, not more than once a second, and no others", async () => {
  await using world = new World(["x:9", "y:9"], { x: [A], y: [B] });
  await world.advance(10_000);
  await world.refresh(a9);
  const [x] = world.lookups.slice(2);
  assertEquals([x, world.lookups.length], [{ name: "x", at: 10_000 }, 3]);
  // What fails all the time.
  for (let i = 0; i < 100; i++) {
    await world.refresh(a9);
    await world.advance(100);
  }
  assertEquals(world.lookups.filter(({ name }) => name === "x").length, 12);
  assertEquals(world.lookups.filter(({ name }) => name === "y").length, 1);
  // Of no name.
  const before = world.lookups.length;
  await world.refresh(c9);
  await world.advance(1_000);
  assertEquals(world.lookups.length, before);
});

test("ServerAddresses has no more tasks than it may, and says so once", async () => {
  const many = Array.from({ length: 100 }, (_, i) => `198.51.100.${i}`);
  await using world = new World(["x:9"], { x: many });
  await world.settle();
  assertEquals(world.tasks.length, 64);
  const warnings = () => world.lines.filter((line) => line.startsWith("WRN"));
  assertEquals(warnings(), [
    'WRN test "too many server addresses" links=64 without=36',
  ]);
  // Those that have one keep it, in whatever order the addresses come.
  world.dns.x = many.toReversed();
  await world.advance(60_000);
  assertEquals([world.tasks.length, world.started.length, warnings().length], [64, 64, 1]);
  // One that ends with its connection counts until then.
  const [gone] = world.kept;
  world.dns.x = many.filter((ip) => !gone!.startsWith(`${ip}:`));
  await world.advance(30_000);
  assertEquals([world.kept.length, world.ending], [63, [gone!]]);
  world.task(gone!).end();
  await world.settle();
  assertEquals([world.kept.length, world.ending], [64, []]);
});

test("ServerAddresses has one task for a name that needs no lookup, and one for a name that does not resolve", async () => {
  const byName = ({ hostname }: Authority) =>
    hostname === "a.example" ? "always" : hostname === "b.example" ? "unresolved" : "never";
  await using world = new World(["a.example:443", "b.example:443", "c.example:443"], {}, {
    byName,
  });
  await world.advance(1_000);
  assertEquals(world.kept, ["a.example:443", "b.example:443"]);
  assertEquals(new Set(world.lookups.map(({ name }) => name)), new Set(["b.example", "c.example"]));
  const said = world.lines.filter((line) => line.includes("the HTTP proxy is asked"));
  assert(said.length > 0 && said.every((line) => line.includes("server=b.example:443")));

  world.dns["b.example"] = ["192.0.2.1", "192.0.2.2"];
  await world.advance(10_000);
  assertEquals(world.kept, ["192.0.2.1:443", "192.0.2.2:443", "a.example:443"]);
  assertEquals(world.ending, ["b.example:443"]);
  // An address that was known stays.
  delete world.dns["b.example"];
  await world.advance(60_000);
  assertEquals(world.kept, ["192.0.2.1:443", "192.0.2.2:443", "a.example:443"]);
});

test("ServerAddresses ends when it is told so: it stops its tasks, and waits for them", async () => {
  const world = new World(["x:9", "y:9", c9], { x: [A], y: "silence" });
  await world.settle();
  assertEquals(world.kept, [a9, c9]);
  let done = false;
  const ended = world.done.then(() => done = true);
  world.stop();
  await world.settle();
  assertEquals([world.kept, world.ending], [[], [a9, c9]]);
  world.task(a9).end();
  await world.settle();
  assertEquals(done, false);
  world.task(c9).end();
  await ended;
  assertEquals(world.started.length, 2);
  await world[Symbol.asyncDispose]();
});

test("ServerAddresses has no task when it was told to end before", async () => {
  const signal = AbortSignal.abort(new Error("stopped"));
  const world = new World(["x:9", a9], { x: [B] }, { signal });
  await world.done;
  assertEquals(world.started, []);
  await world[Symbol.asyncDispose]();
});

const ips = Array.from({ length: 6 }, (_, i) => `198.51.100.${i}`);
const names = ["x", "y"];
const answer = fc.option(fc.uniqueArray(fc.constantFrom(...ips)), { nil: undefined });
const step = fc.oneof(
  fc.record({ dns: fc.constantFrom(...names), answer }),
  fc.record({ advance: fc.integer({ min: 1, max: 40_000 }) }),
  fc.record({ refresh: fc.constantFrom(...ips) }),
  // The last connection of a task ends.
  fc.record({ end: fc.constantFrom(...ips) }),
);

test("ServerAddresses has, after any story, exactly the tasks that it is to have", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.nat(6), async (story, maxAddresses) => {
      /** What each name resolved to last. */
      const known = new Map<string, readonly string[]>();
      const lookup = (name: string) => {
        const answer = world.dns[name] as readonly string[] | undefined;
        if (!answer) return Promise.reject(new Error("none"));
        if (answer.length > 0) known.set(name, answer.map((ip) => `${ip}:9`));
        return Promise.resolve(answer);
      };
      const resolver = new Resolver({ lookup });
      await using world: World = new World(["x:9", "y:9"], {}, {
        resolve: (name, signal) => resolver.resolve(name, signal),
        maxAddresses,
      });
      const check = () => {
        const wanted = new Set([...known.values()].flat());
        const addresses = world.tasks.map(({ address }) => address);
        assertEquals(new Set(addresses).size, addresses.length, "two tasks for one address");
        assert(addresses.length <= maxAddresses, "too many tasks");
        assert(world.kept.every((address) => wanted.has(address)), "a task for nothing");
        if (addresses.length < maxAddresses) {
          assert([...wanted].every((address) => addresses.includes(address)), "a task is missing");
        }
        return wanted;
      };
      for (const step of story) {
        if ("dns" in step) world.dns[step.dns] = step.answer;
        else if ("advance" in step) await world.advance(step.advance);
        else if ("refresh" in step) await world.refresh(`${step.refresh}:9`);
        else {world.tasks.find(({ address, signal }) =>
            address === `${step.end}:9` && signal.aborted
          )?.end();}
        await world.settle();
        check();
      }
      for (const name of names) world.dns[name] ??= [ips[0]!];
      await world.advance(40_000);
      for (const task of [...world.tasks]) if (task.signal.aborted) task.end();
      await world.settle();
      const wanted = check();
      assertEquals(world.ending, []);
      assertEquals(world.kept.length, Math.min(wanted.size, maxAddresses));
    }),
    { numRuns: 300 },
  );
});
