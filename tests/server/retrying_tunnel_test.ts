// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLessOrEqual,
  assertMatch,
  assertRejects,
} from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { QRHT_ALPN } from "../../lib/qrht/dialect.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { pipeDuplex } from "../../lib/tunnel/pipe.ts";
import { RetryingTunnel, type RetryOptions } from "../../lib/server/retrying_tunnel.ts";
import { NotConnectedError, type RetryCause } from "../../lib/tunnel/failure.ts";
import { acceptTunnel, openTunnel, type OutgoingTunnel } from "../../lib/qrht/tunnel.ts";
import { pattern } from "../support/bytes.ts";
import { FakeTime } from "../support/fake_time.ts";
import { carrierPair, cut, type MemoryCarrier } from "../support/memory_carrier.ts";
import {
  MemoryDuplexError,
  memoryPair,
  type MemoryPairOptions,
  readExactly,
  readToEnd,
} from "../support/memory_duplex.ts";

/** What has to be done within when nothing is left to wait for. */
const PROMPT_MS = 10_000;

/** Longer than any test takes. */
const LONG_MS = 60_000;

/** Application error code of an attempt that another one has replaced. */
const MOVED = 3;

const REPLAY_BYTES = 1_000;

type Cause = "refused" | "draining";

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, permissions: "none", fn: () => deadline(fn(), PROMPT_MS) });
}

/** By a clock of the test's own. */
function timed(name: string, fn: (time: FakeTime) => Promise<void>): void {
  test(name, async () => {
    using time = new FakeTime();
    await fn(time);
    assertEquals(time.pending, 0, "a timer is left");
  });
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

/** Lets so many microtasks pass. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await Promise.resolve();
}

/** Lets everything happen that needs no event of the system. */
const settled = () => turns(300);

/** Whether a promise is pending once all has happened that needs no event of the system. */
async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true;
  promise.then(() => pending = false, () => pending = false);
  await settled();
  return pending;
}

/** An agent and the attempt that is made with it. */
class FakeAgent {
  /** The server's end. */
  readonly carrier: MemoryCarrier;
  /** The agent's end. */
  readonly far: MemoryCarrier;
  readonly attempt: OutgoingTunnel;
  readonly #result = Promise.withResolvers<{ code: Cause | "connected"; text: string }>();

  constructor(options?: MemoryPairOptions, isRaw = false) {
    [this.carrier, this.far] = carrierPair(options);
    this.attempt = { carrier: this.carrier, result: this.#result.promise, isRaw };
    this.#result.promise.catch(() => {});
  }

  /** Whether the server has given it up, and told it that the tunnel has moved. */
  get wasReplaced(): boolean {
    const { resetCode, stopCode, isFinished } = this.carrier;
    return stopCode === MOVED && (resetCode === MOVED || isFinished);
  }

  /** Whether neither direction was ended by the server but in order. */
  get isUntouched(): boolean {
    return this.carrier.resetCode === undefined && this.carrier.stopCode === undefined;
  }

  connected(): void {
    this.#result.resolve({ code: "connected", text: "" });
  }

  fails(cause: Cause): void {
    this.#result.resolve({ code: cause, text: `${cause}, it says` });
  }

  /** Says why it is not connected, and answers the client in its stead. */
  async failed(cause: Cause, answer: string): Promise<void> {
    this.fails(cause);
    await this.says(answer);
  }

  /** Sends its last bytes. */
  async says(answer: string): Promise<void> {
    await writeAll(this.far, utf8.encode(answer));
    await this.far.closeWrite();
  }

  /** Is gone without having said anything. */
  gone(): void {
    this.far.abort();
    this.#result.reject(new Error("gone"));
  }

  async hears(bytes: Uint8Array): Promise<void> {
    assertEquals(await readExactly(this.far, bytes.length), bytes);
  }
}

/** A tunnel that has these agents one after the other, and what it has asked for. */
function tunnelTo(
  agents: readonly FakeAgent[],
  options: Partial<RetryOptions> = {},
): { tunnel: RetryingTunnel; causes: RetryCause[] } {
  const causes: RetryCause[] = [];
  const [first, ...others] = agents;
  const tunnel = new RetryingTunnel(first!.attempt, {
    timeoutMs: LONG_MS,
    replayBytes: REPLAY_BYTES,
    movedCode: MOVED,
    retry(cause) {
      causes.push(cause);
      return Promise.resolve(others.shift()?.attempt);
    },
    ...options,
  });
  return { tunnel, causes };
}

async function readText(from: Duplex): Promise<string> {
  return text.decode(await readToEnd(from));
}

test("RetryingTunnel hands the client's bytes on before there is a result", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent]);
  for (const piece of ["early", "", "earlier", "still early"]) {
    await writeAll(tunnel, utf8.encode(piece));
    await agent.hears(utf8.encode(piece));
  }
  const closed = tunnel.closeWrite();
  assertEquals(await agent.far.read(new Uint8Array(1)), null);
  const read = readText(tunnel);
  // What the agent sends before its result is not the client's to see yet.
  await agent.says("answer");
  assert(await isPending(read));
  agent.connected();
  assertEquals(await read, "answer");
  await closed;
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel gives the next agent all that the client has sent, and the client the next answer only", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const { tunnel, causes } = tunnelTo([first, second]);
  await writeAll(tunnel, utf8.encode("req"));
  await writeAll(tunnel, utf8.encode("uest"));
  await first.hears(utf8.encode("request"));
  const read = readText(tunnel);
  await first.failed("draining", "503");
  await second.hears(utf8.encode("request"));
  await writeAll(tunnel, utf8.encode(", continued"));
  await second.hears(utf8.encode(", continued"));
  assert(await isPending(read));
  second.connected();
  await second.says("200");
  assertEquals(await read, "200");
  assertEquals(causes, ["draining"]);
  assert(first.wasReplaced);
  await writeAll(tunnel, utf8.encode("late"));
  await tunnel.closeWrite();
  assertEquals(await readText(second.far), "late");
  assert(second.isUntouched);
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel tells an attempt that it has left only once another answer is certain", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const { tunnel } = tunnelTo([first, second]);
  await first.failed("refused", "502");
  await settled();
  assert(first.isUntouched);
  second.connected();
  await settled();
  assert(first.wasReplaced);
  tunnel.abort();
});

test("RetryingTunnel fails when the only agent is gone", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent]);
  const read = assertRejects(async () => await tunnel.read(new Uint8Array(1)), Error, "gone");
  agent.gone();
  await read;
  await assertRejects(async () => await writeAll(tunnel, pattern(10)));
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel.read() throws when nobody has connected it, and there is no answer", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent]);
  await agent.failed("refused", "");
  const error = await Promise.try(() => tunnel.read(new Uint8Array(1))).catch((error) => error);
  assertInstanceOf(error, NotConnectedError);
  assertEquals([error.code, error.message], ["refused", "refused, it says"]);
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel.read() comes to the end of a target that has not said anything", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent]);
  agent.connected();
  await agent.says("");
  assertEquals(await tunnel.read(new Uint8Array(1)), null);
  await tunnel[Symbol.asyncDispose]();
});

const answer = (error: unknown) => utf8.encode(`own: ${(error as Error).message}`);

test("RetryingTunnel reads as the server's own answer where no attempt has one", async () => {
  const stories: Record<string, (agent: FakeAgent) => Promise<void>> = {
    "own: gone": (agent) => Promise.resolve(agent.gone()),
    "own: refused, it says": (agent) => agent.failed("refused", ""),
    "own: the tunnel ended without an answer": (agent) => (agent.connected(), agent.says("")),
    "own: the carrier was aborted with code 9": (agent) => {
      agent.connected();
      agent.far.abort(9);
      return Promise.resolve();
    },
  };
  for (const [expected, tell] of Object.entries(stories)) {
    const agent = new FakeAgent();
    const { tunnel } = tunnelTo([agent], { answer });
    await writeAll(tunnel, utf8.encode("request"));
    await tell(agent);
    const read: string[] = [];
    const small = new Uint8Array(3);
    for (let n; (n = await tunnel.read(small)) !== null;) {
      read.push(text.decode(small.subarray(0, n)));
    }
    if (!expected.includes("code 9")) assertEquals(read.join(""), expected);
    else assert(read.join("").startsWith("own: "), read.join(""));
    await assertRejects(async () => await writeAll(tunnel, pattern(10)));
    await tunnel[Symbol.asyncDispose]();
  }
});

test("RetryingTunnel gives the answer of an attempt instead of its own, and never both", async () => {
  for (const end of ["end", "reset"] as const) {
    const agent = new FakeAgent();
    const { tunnel } = tunnelTo([agent], { answer });
    agent.fails("refused");
    await writeAll(agent.far, utf8.encode("502"));
    assertEquals(text.decode(await readExactly(tunnel, 3)), "502");
    if (end === "end") await agent.far.closeWrite();
    else agent.far.abort();
    const next = async () => await tunnel.read(new Uint8Array(1));
    if (end === "end") assertEquals(await next(), null);
    else await assertRejects(next);
    await tunnel[Symbol.asyncDispose]();
  }
});

test("RetryingTunnel has no answer for a client that has left", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent], { answer });
  const reading = assertRejects(async () => await tunnel.read(new Uint8Array(1)), Error, "aborted");
  tunnel.abort();
  await reading;
});

timed("RetryingTunnel has its own answer when the time for one is over", async (time) => {
  for (const says of ["nothing", "raw", "a failure"] as const) {
    const agent = new FakeAgent({}, says === "raw");
    const { tunnel } = tunnelTo([agent], { timeoutMs: 500, answerTimeoutMs: 500, answer });
    if (says === "raw") agent.connected();
    if (says === "a failure") agent.fails("refused");
    const read = readText(tunnel);
    await time.pass(499);
    assert(await isPending(read));
    await time.pass(1);
    assertEquals(
      await read,
      says === "a failure"
        ? "own: refused, it says"
        : "own: no agent connected the client to its target within 500 ms",
    );
    await tunnel[Symbol.asyncDispose]();
  }
});

timed(
  "RetryingTunnel waits for a target that is connected, and in the raw dialect for one that has answered",
  async (time) => {
    for (const isRaw of [false, true]) {
      const agent = new FakeAgent({}, isRaw);
      const { tunnel } = tunnelTo([agent], { timeoutMs: 500, answer });
      agent.connected();
      if (isRaw) {
        await writeAll(agent.far, utf8.encode("200"));
        assertEquals(text.decode(await readExactly(tunnel, 3)), "200");
      }
      const read = readText(tunnel);
      await settled();
      assertEquals(time.pending, 0);
      await time.pass(LONG_MS);
      await agent.says("more");
      assertEquals(await read, "more");
      await tunnel[Symbol.asyncDispose]();
    }
  },
);

/** What becomes of one agent in a story. */
interface AgentStory {
  readonly end: Cause | "connected" | "gone";
  /** The share of the client's bytes that it hears before, in percent. */
  readonly after: number;
  /** Microtasks that pass before it says so, and before it is asked at all. */
  readonly turns: number;
  readonly asked: number;
  /** Bytes under way to it and from it. */
  readonly capacity: number;
}

interface Story {
  readonly agents: readonly AgentStory[];
  /** Sizes of the client's writes, and microtasks before each of them. */
  readonly writes: readonly (readonly [size: number, turns: number])[];
  /** Whether the client ends before it has an answer. */
  readonly endsEarly: boolean;
  readonly replayBytes: number;
  /** Microtasks before the client reads, and how much at a time. */
  readonly readsAfter: number;
  readonly readSize: number;
}

const someTurns = fc.oneof(fc.nat({ max: 12 }), fc.constantFrom(0, 30));

const story = (replayBytes: fc.Arbitrary<number>): fc.Arbitrary<Story> =>
  fc.record({
    agents: fc.array(
      fc.record({
        end: fc.constantFrom("connected", "refused", "draining", "gone"),
        after: fc.nat({ max: 100 }),
        turns: someTurns,
        asked: someTurns,
        capacity: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constant(10_000)),
      }),
      { minLength: 1, maxLength: 4 },
    ),
    writes: fc.array(fc.tuple(fc.nat({ max: 60 }), someTurns), { maxLength: 8 }),
    endsEarly: fc.boolean(),
    replayBytes,
    readsAfter: someTurns,
    readSize: fc.integer({ min: 1, max: 30 }),
  });

interface Told {
  readonly agents: readonly { readonly agent: FakeAgent; readonly heard: Uint8Array }[];
  /** What further agents were asked for. */
  readonly causes: readonly RetryCause[];
  /** What the client reads, or that it fails to. */
  readonly answer: string | Error;
  /** Whether one of the client's writes has failed. */
  readonly writeFailed: boolean;
}

/** Plays a story to its end. */
async function tell(story: Story, own?: RetryOptions["answer"]): Promise<Told> {
  const { agents, writes, endsEarly, replayBytes, readsAfter, readSize } = story;
  const total = writes.reduce((sum, [size]) => sum + size, 0);
  const sent = pattern(total);
  const asked: { agent: FakeAgent; heard: Uint8Array }[] = [];
  const playing: Promise<void>[] = [];

  const play = async (index: number, agent: FakeAgent) => {
    const { end, after, turns: pause } = agents[index]!;
    const entry = { agent, heard: new Uint8Array(0) };
    asked.push(entry);
    const heard: number[] = [];
    const buffer = new Uint8Array(16);
    const hear = async (until: number): Promise<void> => {
      while (heard.length < until) {
        const n = await agent.far.read(buffer);
        if (n === null) return;
        heard.push(...buffer.subarray(0, n));
        entry.heard = Uint8Array.from(heard);
      }
    };
    await hear(Math.floor(Math.min(total, replayBytes) * after / 100)).catch(() => {});
    await turns(pause);
    if (end === "gone") return agent.gone();
    const answer = async () => {
      if (end === "connected") agent.connected();
      await (end === "connected" ? agent.says(`from ${index}`) : agent.failed(end, `no ${index}`))
        // The tunnel has moved on.
        .catch(() => {});
    };
    await Promise.all([answer(), hear(Infinity).catch(() => {})]);
  };
  const ask = (index: number) => {
    const agent = new FakeAgent({ capacity: agents[index]!.capacity });
    playing.push(play(index, agent));
    return agent.attempt;
  };

  const causes: RetryCause[] = [];
  let next = 1, begun = 0, writeFailed = false;
  const tunnel = new RetryingTunnel(ask(0), {
    timeoutMs: LONG_MS,
    replayBytes,
    movedCode: MOVED,
    answer: own,
    async retry(cause) {
      causes.push(cause);
      // What was sent has to be here still.
      assertLessOrEqual(begun, replayBytes);
      const index = next++;
      if (index >= agents.length) return undefined;
      await turns(agents[index]!.asked);
      return ask(index);
    },
  });
  const answered = Promise.withResolvers<void>();
  const send = async () => {
    let at = 0;
    try {
      for (const [size, pause] of writes) {
        await turns(pause);
        begun = at + size;
        await writeAll(tunnel, sent.subarray(at, at += size));
      }
      if (!endsEarly) await answered.promise;
      await tunnel.closeWrite();
    } catch {
      writeFailed = true;
    }
  };
  const receive = async () => {
    try {
      await turns(readsAfter);
      return text.decode(await readToEnd(tunnel, readSize));
    } catch (error) {
      // As the pipe does.
      tunnel.abort();
      return error as Error;
    } finally {
      answered.resolve();
    }
  };
  const [answer] = await Promise.all([receive(), send()]);
  await tunnel[Symbol.asyncDispose]();
  await Promise.all(playing);
  return { agents: asked, causes, answer, writeFailed };
}

/** What holds for every story. Returns the agent that the client has got to. */
function checkStory(story: Story, { agents, answer, writeFailed }: Told): number | undefined {
  const sent = pattern(story.writes.reduce((sum, [size]) => sum + size, 0));
  const [, said, index] = typeof answer === "string" ? /^(from|no) (\d)$/.exec(answer)! : [];
  const chosen = index === undefined ? undefined : Number(index);
  for (const [i, { agent, heard }] of agents.entries()) {
    // To one that is come back to for its answer alone, the client's bytes do not matter any more.
    const isComeBackTo = i === chosen && i !== agents.length - 1;
    if (!isComeBackTo) assertEquals(heard, sent.subarray(0, heard.length));
    if (i !== chosen && chosen !== undefined) assert(agent.wasReplaced, `agent ${i} was not left`);
    if (i === chosen) assertEquals(story.agents[i]!.end === "connected", said === "from");
  }
  if (said === "from") {
    assert(!writeFailed);
    assertEquals(agents[chosen!]!.heard, sent);
    assert(agents[chosen!]!.agent.carrier.isFinished);
  }
  return chosen;
}

test("RetryingTunnel repeats everything for any writes, agents and moments of failure", async () => {
  await fc.assert(
    fc.asyncProperty(story(fc.constant(REPLAY_BYTES)), async (story) => {
      const told = await tell(story);
      const ends = story.agents.map(({ end }) => end);
      const connected = ends.indexOf("connected");
      const answered = ends.findLastIndex((end) => end !== "gone");
      const expected = connected >= 0 ? connected : answered >= 0 ? answered : undefined;
      assertEquals(told.agents.length, connected >= 0 ? connected + 1 : ends.length);
      assertEquals<unknown>(told.causes, connected >= 0 ? ends.slice(0, connected) : ends);
      assertEquals(checkStory(story, told), expected);
    }),
    { numRuns: 400 },
  );
});

test("RetryingTunnel loses and doubles nothing when the client sends more than is kept", async () => {
  await fc.assert(
    fc.asyncProperty(
      story(fc.nat({ max: 150 })),
      async (story) => void checkStory(story, await tell(story)),
    ),
    { numRuns: 600 },
  );
});

test("RetryingTunnel gives every client one answer, of an attempt or of its own", async () => {
  await fc.assert(
    fc.asyncProperty(story(fc.nat({ max: 150 })), async (story) => {
      const { answer: read, agents } = await tell(story, answer);
      assertMatch(read as string, /^(?:from \d|no \d|own: gone)$/);
      if (read === "own: gone") assert(agents.some((_, i) => story.agents[i]!.end === "gone"));
    }),
    { numRuns: 600 },
  );
});

test("RetryingTunnel repeats what the client has sent up to replayBytes exactly", async () => {
  for (const writes of [[REPLAY_BYTES], [REPLAY_BYTES - 1, 1], [0, 500, 0, 500, 0]]) {
    const [first, second] = [new FakeAgent({ capacity: 100 }), new FakeAgent({ capacity: 7 })];
    const { tunnel, causes } = tunnelTo([first, second]);
    const sent = pattern(REPLAY_BYTES);
    // Nothing is read by the first: what is kept needs no room there.
    for (const piece of cut(sent, writes)) await writeAll(tunnel, piece);
    await first.failed("draining", "503");
    await second.hears(sent);
    assertEquals(causes, ["draining"]);
    tunnel.abort();
  }
});

test("RetryingTunnel keeps 65536 bytes unless it is told otherwise", async () => {
  for (const [size, isKept] of [[65_536, true], [65_537, false]] as const) {
    const agent = new FakeAgent({ capacity: 100_000 });
    let isAsked = false;
    const tunnel = new RetryingTunnel(agent.attempt, {
      timeoutMs: 0,
      retry() {
        isAsked = true;
        return Promise.resolve(undefined);
      },
    });
    await writeAll(tunnel, new Uint8Array(size));
    agent.gone();
    await assertRejects(async () => await tunnel.read(new Uint8Array(1)));
    assertEquals(isAsked, isKept);
  }
});

test("RetryingTunnel.write() takes a copy: the client's buffer is free at once", async () => {
  const [first, second] = [new FakeAgent({ capacity: 3 }), new FakeAgent()];
  const { tunnel } = tunnelTo([first, second]);
  const buffer = pattern(100);
  await writeAll(tunnel, buffer);
  buffer.fill(0);
  first.gone();
  await second.hears(pattern(100));
  tunnel.abort();
});

test("RetryingTunnel.write() waits while an agent that has connected takes no more", async () => {
  const agent = new FakeAgent({ capacity: 100 });
  const { tunnel } = tunnelTo([agent]);
  // Before the result, what is kept does not wait.
  await writeAll(tunnel, pattern(300));
  agent.connected();
  await settled();
  const write = Promise.try(() => writeAll(tunnel, pattern(300, 2)));
  assert(await isPending(write));
  assert(agent.carrier.isFull);
  await agent.hears(pattern(300));
  await settled();
  assert(await isPending(write));
  await agent.hears(pattern(300, 2));
  await write;
  const more = Promise.try(() => writeAll(tunnel, pattern(101)));
  assert(await isPending(more));
  await agent.hears(pattern(101));
  await more;
  await tunnel.closeWrite();
  assertEquals(await readText(agent.far), "");
  tunnel.abort();
});

test("RetryingTunnel.write() hands bytes to the agent in the same turn once what was kept is handed on", async () => {
  for (const early of [pattern(0), pattern(300)]) {
    const agent = new FakeAgent({ capacity: 100 });
    const { tunnel } = tunnelTo([agent]);
    await writeAll(tunnel, early);
    agent.connected();
    await agent.hears(early);
    await settled();
    assertEquals(tunnel.write(pattern(50, 2)), 50);
    await agent.hears(pattern(50, 2));
    tunnel.abort();
  }
});

test("RetryingTunnel.write() throws when the agent that has connected takes no more", async () => {
  for (const isEarly of [true, false]) {
    const agent = new FakeAgent();
    const { tunnel } = tunnelTo([agent]);
    await writeAll(tunnel, utf8.encode("x"));
    if (isEarly) agent.far.stop(5);
    agent.connected();
    await settled();
    agent.far.stop(5);
    // The first may have been taken before.
    await assertRejects(
      async () => {
        for (;;) await writeAll(tunnel, utf8.encode("y"));
      },
      MemoryDuplexError,
      "code 5",
    );
    // The answer comes through all the same.
    await agent.says("too large");
    assertEquals(await readText(tunnel), "too large");
    await tunnel[Symbol.asyncDispose]();
  }
});

test("RetryingTunnel.retry() that rejects counts as that there is no other agent", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent], { retry: () => Promise.reject(new Error("no agent")) });
  await agent.failed("draining", "503");
  assertEquals(await readText(tunnel), "503");
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel.abort() at any moment of a retry leaves no attempt open", async () => {
  for (const end of ["abort", "asyncDispose"] as const) {
    for (const how of ["failed", "gone"] as const) {
      // At -1 another agent is looked for.
      for (let moment = -1; moment < 30; moment++) {
        const [first, second] = [new FakeAgent(), new FakeAgent()];
        const found = Promise.withResolvers<OutgoingTunnel>();
        const { tunnel } = tunnelTo([first], { retry: () => found.promise });
        await writeAll(tunnel, utf8.encode("request"));
        if (how === "gone") first.gone();
        else await first.failed("draining", "503");
        await settled();
        if (moment >= 0) found.resolve(second.attempt);
        const read = assertRejects(
          async () => await tunnel.read(new Uint8Array(1)),
          Error,
          "was aborted",
        );
        await turns(moment);
        if (end === "abort") tunnel.abort(7);
        else await tunnel[Symbol.asyncDispose]();
        found.resolve(second.attempt);
        await settled();
        for (const agent of [first, second]) {
          const when = `${end} ${moment} turns after the retry of one that has ${how}`;
          assert(agent.carrier.resetCode !== undefined, when);
          assert(agent.carrier.stopCode !== undefined, when);
        }
        await read;
      }
    }
  }
});

test("RetryingTunnel keeps the order when the client sends too much at any moment of a retry", async () => {
  const sizes = Array<number>(10).fill(REPLAY_BYTES / 10);
  const sent = pattern(REPLAY_BYTES + 500);
  for (const how of ["failed", "gone"] as const) {
    for (const capacity of [50, 10_000]) {
      for (let moment = 0; moment < 40; moment++) {
        const when = `${moment} turns after the retry of one that has ${how}, capacity ${capacity}`;
        const [first, second] = [new FakeAgent(), new FakeAgent({ capacity })];
        const found = Promise.withResolvers<OutgoingTunnel>();
        const { tunnel } = tunnelTo([first], { retry: () => found.promise });
        for (const piece of cut(sent.subarray(0, REPLAY_BYTES), sizes)) {
          await writeAll(tunnel, piece);
        }
        if (how === "gone") first.gone();
        else await first.failed("draining", "503");
        await settled();
        found.resolve(second.attempt);
        await turns(moment);
        const write = writeAll(tunnel, sent.subarray(REPLAY_BYTES));
        if (write) write.catch(() => {});
        await settled();
        if (second.carrier.stopCode === undefined) {
          // It goes on there: with everything, from the first byte.
          const heard = readExactly(second.far, sent.length);
          second.connected();
          await settled();
          assert(!await isPending(heard), when);
          assertEquals(await heard, sent, when);
          await write;
          assertEquals(first.carrier.stopCode, MOVED, when);
        } else {
          assert(second.wasReplaced, when);
          if (how === "failed") assertEquals(await readText(tunnel), "503", when);
          else await assertRejects(async () => await tunnel.read(new Uint8Array(1)));
        }
        tunnel.abort();
      }
    }
  }
});

test("RetryingTunnel.abort() ends the present attempt with its code", async () => {
  for (const isConnected of [true, false]) {
    for (const [given, code] of [[undefined, 0], [7, 7]] as const) {
      const agent = new FakeAgent();
      const { tunnel, causes } = tunnelTo([agent, new FakeAgent()]);
      if (isConnected) agent.connected();
      const read = assertRejects(async () => await tunnel.read(new Uint8Array(1)));
      await settled();
      tunnel.abort(given);
      tunnel.abort(99);
      await read;
      assertEquals(agent.carrier.codes, [code, code]);
      await assertRejects(async () => await writeAll(tunnel, pattern(1)));
      // Nothing comes of it any more.
      agent.gone();
      await settled();
      assertEquals(causes, []);
    }
  }
});

test("RetryingTunnel.abort() leaves an attempt that has answered with movedCode, which is 0 by default", async () => {
  for (const movedCode of [MOVED, undefined]) {
    const [first, second] = [new FakeAgent(), new FakeAgent()];
    const tunnel = new RetryingTunnel(first.attempt, {
      timeoutMs: 0,
      retry: () => Promise.resolve(second.attempt),
      ...(movedCode !== undefined && { movedCode }),
    });
    await first.failed("refused", "502");
    await settled();
    tunnel.abort(7);
    assertEquals(first.carrier.codes, [movedCode ?? 0, movedCode ?? 0]);
    assertEquals(second.carrier.codes, [7, 7]);
    await settled();
  }
});

test("RetryingTunnel.abort() fails a write that waits", async () => {
  const agent = new FakeAgent({ capacity: 10 });
  const { tunnel } = tunnelTo([agent]);
  const write = assertRejects(
    async () => await writeAll(tunnel, pattern(REPLAY_BYTES + 1)),
    MemoryDuplexError,
  );
  await settled();
  tunnel.abort();
  await write;
});

timed("RetryingTunnel gives up after timeoutMs", async (time) => {
  const agent = new FakeAgent();
  const { tunnel, causes } = tunnelTo([agent], { timeoutMs: 5 });
  await writeAll(tunnel, utf8.encode("request"));
  const late = "no agent connected the client to its target within 5 ms";
  const read = assertRejects(async () => await tunnel.read(new Uint8Array(1)), Error, late);
  await time.pass(4);
  assert(agent.isUntouched);
  await time.pass(1);
  await read;
  assertEquals(agent.carrier.codes, [0, 0]);
  // Too late.
  agent.connected();
  await settled();
  await assertRejects(async () => await tunnel.read(new Uint8Array(1)));
  await assertRejects(async () => await writeAll(tunnel, pattern(1)));
  assertEquals(causes, []);
  await tunnel[Symbol.asyncDispose]();
});

timed("RetryingTunnel counts timeoutMs over all attempts together", async (time) => {
  const asked: FakeAgent[] = [];
  const ask = () => {
    const agent = new FakeAgent();
    asked.push(agent);
    agent.gone();
    return agent.attempt;
  };
  const tunnel = new RetryingTunnel(ask(), {
    timeoutMs: 30,
    movedCode: MOVED,
    async retry() {
      await new Promise((resolve) => setTimeout(resolve, 7));
      return ask();
    },
  });
  const read = assertRejects(
    async () => await tunnel.read(new Uint8Array(1)),
    Error,
    "within 30 ms",
  );
  await time.pass(30);
  await read;
  await time.pass(100);
  // At 7, 14, 21 and 28 ms; the one that was looked for just then is left.
  assertEquals(asked.length, 6);
  assert(asked.at(-1)!.wasReplaced);
});

timed("RetryingTunnel gives the answer that it has after timeoutMs", async (time) => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const { tunnel } = tunnelTo([first, second], { timeoutMs: 10 });
  await first.failed("draining", "503");
  await time.pass(10);
  assert(second.carrier.stopCode !== undefined);
  // Which shows there as it would if that agent had left by itself.
  second.gone();
  await settled();
  assertEquals(await readText(tunnel), "503");
  await tunnel[Symbol.asyncDispose]();
});

timed("RetryingTunnel ends an answer without an end after answerTimeoutMs", async (time) => {
  for (const answerTimeoutMs of [20, undefined]) {
    const agent = new FakeAgent();
    const { tunnel } = tunnelTo(
      [agent],
      answerTimeoutMs === undefined ? {} : { answerTimeoutMs },
    );
    agent.fails("refused");
    await writeAll(agent.far, utf8.encode("502, and then nothing"));
    const read = assertRejects(() => readToEnd(tunnel));
    await time.pass((answerTimeoutMs ?? 10_000) - 1);
    assert(agent.isUntouched);
    await time.pass(1);
    await read;
    assert(agent.carrier.resetCode !== undefined);
    await tunnel[Symbol.asyncDispose]();
  }
});

timed("RetryingTunnel has no limit when connected, or when timeoutMs is 0", async (time) => {
  for (const timeoutMs of [0, 10]) {
    const agent = new FakeAgent();
    const { tunnel } = tunnelTo([agent], { timeoutMs });
    if (timeoutMs > 0) agent.connected();
    await time.pass(LONG_MS);
    assert(agent.isUntouched);
    agent.connected();
    await agent.says("200");
    assertEquals(await readText(tunnel), "200");
    await tunnel[Symbol.asyncDispose]();
  }
});

test("RetryingTunnel.stop() and asyncDispose() end the attempt that it has got to", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const { tunnel } = tunnelTo([first, second]);
  first.gone();
  second.connected();
  await settled();
  tunnel.stop(4);
  assertEquals(second.carrier.codes, [undefined, 4]);
  await writeAll(tunnel, utf8.encode("x"));
  await second.hears(utf8.encode("x"));
  await tunnel[Symbol.asyncDispose]();
  assert(second.carrier.isFinished);
});

test("RetryingTunnel.closeWrite() in a pipe waits for the agent to take all, although it has ended", async () => {
  const agent = new FakeAgent({ capacity: 9 });
  const { tunnel } = tunnelTo([agent]);
  const [near, client] = memoryPair();
  const result = pipeDuplex(near, tunnel);
  await writeAll(client, pattern(300));
  await client.closeWrite();
  await settled();
  agent.connected();
  await agent.says("200");
  assertEquals(await readText(client), "200");
  // The pipe has nothing left to read.
  await settled();
  assertEquals(await readToEnd(agent.far), pattern(300));
  assertEquals(await result, { aToB: 300, bToA: 3, reason: "end", by: "a" });
});

test("RetryingTunnel moves with the frames of openTunnel() and acceptTunnel(), in any room", async () => {
  for (const capacity of [1, 10, 64 << 10]) {
    const ends = [carrierPair({ capacity }), carrierPair({ capacity })];
    const left = [...ends];
    const ask = () => openTunnel(left.shift()![0], QRHT_ALPN, { tunnelId: new Uint8Array(16) });
    const [near, client] = memoryPair();
    const tunnel = new RetryingTunnel(ask(), {
      timeoutMs: LONG_MS,
      movedCode: MOVED,
      retry: () => Promise.resolve(ask()),
    });
    const result = pipeDuplex(near, tunnel);
    await writeAll(client, pattern(300));
    await client.closeWrite();

    const refuse = async () => {
      const served = await acceptTunnel(ends[0]![1], QRHT_ALPN);
      await readExactly(served!.carrier, 10);
      await served!.failed({ code: "draining", text: "" }, utf8.encode("503"));
    };
    const serve = async () => {
      const served = await acceptTunnel(ends[1]![1], QRHT_ALPN);
      await served!.connected();
      await sendBack(served!.carrier);
    };
    // The refusing one may be left before it has said everything.
    await Promise.all([refuse(), serve()]);
    assertEquals(await readToEnd(client), pattern(300));
    assertEquals(await result, { aToB: 300, bToA: 300, reason: "end", by: "a" });
    assertEquals(ends[0]![0].stopCode, MOVED);
    assertEquals(ends[1]![0].resetCode, undefined);
  }
});

/** Returns all that comes, and then the end. */
async function sendBack(carrier: Duplex): Promise<void> {
  await writeAll(carrier, await readToEnd(carrier));
  await carrier.closeWrite();
}
