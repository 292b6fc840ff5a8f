// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertRejects,
} from "@std/assert";
import { deadline } from "@std/async/deadline";
import fc from "fast-check";
import { QRHT_ALPN } from "../../lib/qrht/dialect.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { pipeDuplex } from "../../lib/tunnel/pipe.ts";
import { Replay } from "../../lib/server/replay.ts";
import { RetryingTunnel, type RetryOptions } from "../../lib/server/retrying_tunnel.ts";
import { type FailureCode, NotConnectedError } from "../../lib/qrht/failure.ts";
import { acceptTunnel, openTunnel, type OutgoingTunnel } from "../../lib/qrht/tunnel.ts";
import { pattern } from "../support/bytes.ts";
import { eventually } from "../support/eventually.ts";
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

  constructor(options?: MemoryPairOptions) {
    [this.carrier, this.far] = carrierPair(options);
    this.attempt = { carrier: this.carrier, result: this.#result.promise };
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
): { tunnel: RetryingTunnel; causes: (FailureCode | "gone")[] } {
  const causes: (FailureCode | "gone")[] = [];
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

test("Replay needs little more memory than it keeps bytes, however small the pieces are", () => {
  // The first test here, so that there is no garbage of others, of which less would be left at the end.
  const one = pattern(1);
  const before = memoryBytes();
  const replays = Array.from({ length: 20 }, () => {
    const replay = new Replay(64 << 10);
    for (let i = 0; i < 64 << 10; i++) replay.add(one);
    return replay;
  });
  assertLess((memoryBytes() - before) / replays.length, 4 << 20);
  return Promise.resolve();
});

function memoryBytes(): number {
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

test("RetryingTunnel carries bytes both ways with an agent that connects at once", async () => {
  const agent = new FakeAgent();
  const { tunnel, causes } = tunnelTo([agent, new FakeAgent()]);
  agent.connected();
  await writeAll(tunnel, utf8.encode("request"));
  await agent.hears(utf8.encode("request"));
  await writeAll(agent.far, utf8.encode("answer"));
  assertEquals(text.decode(await readExactly(tunnel, 6)), "answer");
  await writeAll(tunnel, utf8.encode("more"));
  await tunnel.closeWrite();
  assertEquals(await readText(agent.far), "more");
  await agent.says("last");
  assertEquals(await readText(tunnel), "last");
  assertEquals(causes, []);
  assert(agent.isUntouched);
  await tunnel[Symbol.asyncDispose]();
});

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

test("RetryingTunnel replays the client's end, too", async () => {
  const agents = [new FakeAgent(), new FakeAgent(), new FakeAgent()];
  const { tunnel, causes } = tunnelTo(agents);
  await writeAll(tunnel, utf8.encode("request"));
  const closed = tunnel.closeWrite();
  assertEquals(await readText(agents[0]!.far), "request");
  agents[0]!.gone();
  assertEquals(await readText(agents[1]!.far), "request");
  await agents[1]!.failed("refused", "502");
  assertEquals(await readText(agents[2]!.far), "request");
  agents[2]!.connected();
  await agents[2]!.says("200");
  assertEquals(await readText(tunnel), "200");
  await closed;
  assertEquals(causes, ["gone", "refused"]);
  assert(agents[0]!.wasReplaced && agents[1]!.wasReplaced && agents[2]!.isUntouched);
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

test("RetryingTunnel gives the last answer only when every attempt fails", async () => {
  const agents = [new FakeAgent(), new FakeAgent(), new FakeAgent()];
  const { tunnel, causes } = tunnelTo(agents);
  await writeAll(tunnel, utf8.encode("request"));
  for (const [i, agent] of agents.entries()) await agent.failed("refused", `answer ${i}`);
  assertEquals(await readText(tunnel), "answer 2");
  assertEquals(causes, ["refused", "refused", "refused"]);
  assertEquals(agents.map(({ wasReplaced }) => wasReplaced), [true, true, false]);
  assert(agents[2]!.isUntouched);
  await tunnel[Symbol.asyncDispose]();
});

for (
  const [what, story, expected] of [
    ["the answer of one before", ["refused", "gone"], 0],
    ["the answer of the last that gave one", ["refused", "draining", "gone", "gone"], 1],
    ["the last answer", ["gone", "refused", "gone"], 1],
    ["the last answer", ["gone", "gone", "draining"], 2],
  ] as const
) {
  test(`RetryingTunnel gives ${what} when attempts end with ${story.join(", ")}`, async () => {
    for (const isEarly of [true, false]) {
      const agents = story.map(() => new FakeAgent());
      const { tunnel, causes } = tunnelTo(agents);
      const read = isEarly ? readText(tunnel) : undefined;
      await writeAll(tunnel, utf8.encode("request"));
      for (const [i, end] of story.entries()) {
        await agents[i]!.hears(utf8.encode("request"));
        if (end === "gone") agents[i]!.gone();
        else await agents[i]!.failed(end, `answer ${i}`);
      }
      assertEquals(await (read ?? readText(tunnel)), `answer ${expected}`);
      assertEquals(causes, [...story]);
      for (const [i, agent] of agents.entries()) {
        assertEquals(agent.wasReplaced, i !== expected, `agent ${i}`);
        if (i === expected) assert(agent.isUntouched);
      }
      await tunnel[Symbol.asyncDispose]();
    }
  });
}

test("RetryingTunnel fails reads when every agent is gone", async () => {
  for (const count of [1, 3]) {
    const agents = Array.from({ length: count }, () => new FakeAgent());
    const { tunnel, causes } = tunnelTo(agents);
    const read = assertRejects(() => tunnel.read(new Uint8Array(1)));
    await settled();
    for (const agent of agents) {
      agent.gone();
      await settled();
    }
    await read;
    await assertRejects(() => tunnel.read(new Uint8Array(1)));
    await assertRejects(() => writeAll(tunnel, pattern(10)));
    assertEquals(causes, Array(count).fill("gone"));
    await tunnel[Symbol.asyncDispose]();
  }
});

test("RetryingTunnel.read() throws when nobody has connected it, and there is no answer", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent]);
  await agent.failed("refused", "");
  const error = await tunnel.read(new Uint8Array(1)).catch((error) => error);
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
  readonly readSize: number;
}

const someTurns = fc.oneof(fc.nat({ max: 12 }), fc.constantFrom(0, 30));

const story = (
  replayBytes: fc.Arbitrary<number>,
  ends: readonly AgentStory["end"][],
): fc.Arbitrary<Story> =>
  fc.record({
    agents: fc.array(
      fc.record({
        end: fc.constantFrom(...ends),
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
    readSize: fc.integer({ min: 1, max: 30 }),
  });

interface Told {
  readonly agents: readonly { readonly agent: FakeAgent; readonly heard: Uint8Array }[];
  /** What the client reads, or that it fails to. */
  readonly answer: string | Error;
  /** Whether one of the client's writes has failed. */
  readonly writeFailed: boolean;
}

/** Plays a story to its end. */
async function tell({ agents, writes, endsEarly, replayBytes, readSize }: Story): Promise<Told> {
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

  let next = 1, begun = 0, writeFailed = false;
  const tunnel = new RetryingTunnel(ask(0), {
    timeoutMs: LONG_MS,
    replayBytes,
    movedCode: MOVED,
    async retry() {
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
  return { agents: asked, answer, writeFailed };
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
    fc.asyncProperty(
      story(fc.constant(REPLAY_BYTES), ["connected", "refused", "draining", "gone"]),
      async (story) => {
        const told = await tell(story);
        const ends = story.agents.map(({ end }) => end);
        const connected = ends.indexOf("connected");
        const answered = ends.findLastIndex((end) => end !== "gone");
        const expected = connected >= 0 ? connected : answered >= 0 ? answered : undefined;
        assertEquals(told.agents.length, connected >= 0 ? connected + 1 : ends.length);
        assertEquals(checkStory(story, told), expected);
      },
    ),
    { numRuns: 400 },
  );
});

test("RetryingTunnel loses and doubles nothing when the client sends more than is kept", async () => {
  await fc.assert(
    fc.asyncProperty(
      story(fc.nat({ max: 150 }), ["connected", "refused", "draining", "gone"]),
      async (story) => void checkStory(story, await tell(story)),
    ),
    { numRuns: 600 },
  );
});

test("RetryingTunnel does not repeat what the client has sent beyond replayBytes", async () => {
  for (const writes of [[REPLAY_BYTES + 1], [REPLAY_BYTES, 1], [1, REPLAY_BYTES], [10, 5_000]]) {
    const agents = [new FakeAgent({ capacity: 100 }), new FakeAgent()];
    const { tunnel, causes } = tunnelTo(agents);
    const sent = pattern(writes.reduce((sum, size) => sum + size, 0));
    const send = async () => {
      for (const piece of cut(sent, writes)) await writeAll(tunnel, piece);
      await tunnel.closeWrite();
    };
    const [received] = await Promise.all([readToEnd(agents[0]!.far), send()]);
    assertEquals(received, sent);
    await agents[0]!.failed("draining", "503");
    assertEquals(await readText(tunnel), "503");
    assertEquals(causes, []);
    assert(agents[0]!.isUntouched);
    await tunnel[Symbol.asyncDispose]();
  }
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
    second.connected();
    await writeAll(tunnel, utf8.encode("more"));
    await second.hears(utf8.encode("more"));
    await tunnel.closeWrite();
    await second.says("200");
    assertEquals(await readText(tunnel), "200");
    assertEquals(causes, ["draining"]);
    await tunnel[Symbol.asyncDispose]();
  }
});

test("RetryingTunnel keeps 65536 bytes unless it is told otherwise", async () => {
  for (const [size, causesExpected] of [[65_536, ["gone"]], [65_537, []]] as const) {
    const agent = new FakeAgent({ capacity: 100_000 });
    const causes: string[] = [];
    const tunnel = new RetryingTunnel(agent.attempt, {
      timeoutMs: 0,
      retry(cause) {
        causes.push(cause);
        return Promise.resolve(undefined);
      },
    });
    await writeAll(tunnel, new Uint8Array(size));
    agent.gone();
    await assertRejects(() => tunnel.read(new Uint8Array(1)));
    assertEquals(causes, [...causesExpected]);
    tunnel.abort();
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
  const write = writeAll(tunnel, pattern(300, 2));
  assert(await isPending(write));
  assert(agent.carrier.isFull);
  await agent.hears(pattern(300));
  await settled();
  assert(await isPending(write));
  await agent.hears(pattern(300, 2));
  await write;
  const more = writeAll(tunnel, pattern(101));
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
    const write = tunnel.write(pattern(50, 2));
    assert(agent.carrier.isWriting);
    assertEquals(await write, 50);
    await agent.hears(pattern(50, 2));
    tunnel.abort();
  }
});

test("RetryingTunnel.write() waits for room when the client sends more than is kept", async () => {
  const agent = new FakeAgent({ capacity: 100 });
  const { tunnel } = tunnelTo([agent]);
  await writeAll(tunnel, pattern(REPLAY_BYTES));
  const write = writeAll(tunnel, pattern(1, 2));
  assert(await isPending(write));
  await agent.hears(pattern(REPLAY_BYTES));
  await agent.hears(pattern(1, 2));
  await write;
  tunnel.abort();
});

test("RetryingTunnel.closeWrite() waits for what was sent before", async () => {
  const agent = new FakeAgent({ capacity: 100 });
  const { tunnel } = tunnelTo([agent]);
  await writeAll(tunnel, pattern(300));
  agent.connected();
  await settled();
  const close = tunnel.closeWrite();
  assert(await isPending(close));
  assert(!agent.carrier.isFinished);
  assertEquals(await readToEnd(agent.far), pattern(300));
  await close;
  tunnel.abort();
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

  const gone = new FakeAgent();
  const other = tunnelTo([gone], { retry: () => Promise.reject(new Error("no agent")) });
  gone.gone();
  await assertRejects(() => other.tunnel.read(new Uint8Array(1)));
  other.tunnel.abort();
});

test("RetryingTunnel keeps what the client sends while another agent is looked for", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const found = Promise.withResolvers<OutgoingTunnel>();
  const { tunnel } = tunnelTo([first], { retry: () => found.promise });
  await writeAll(tunnel, utf8.encode("before "));
  first.gone();
  await settled();
  await writeAll(tunnel, utf8.encode("meanwhile "));
  const closed = tunnel.closeWrite();
  found.resolve(second.attempt);
  assertEquals(await readText(second.far), "before meanwhile ");
  second.connected();
  await second.says("200");
  assertEquals(await readText(tunnel), "200");
  await closed;
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel leaves an agent that is found when the client has sent too much meanwhile", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const found = Promise.withResolvers<OutgoingTunnel>();
  const { tunnel } = tunnelTo([first], { retry: () => found.promise });
  await first.failed("draining", "503");
  await settled();
  await writeAll(tunnel, pattern(REPLAY_BYTES + 1));
  found.resolve(second.attempt);
  assertEquals(await readText(tunnel), "503");
  assert(second.wasReplaced);
  assert(first.isUntouched);
  await first.hears(pattern(REPLAY_BYTES + 1));
  await tunnel[Symbol.asyncDispose]();
});

for (const end of ["abort", "asyncDispose"] as const) {
  test(`RetryingTunnel.${end}() while another agent is looked for leaves the one that is found`, async () => {
    const [first, second] = [new FakeAgent(), new FakeAgent()];
    const found = Promise.withResolvers<OutgoingTunnel>();
    const { tunnel } = tunnelTo([first], { retry: () => found.promise });
    const read = assertRejects(() => tunnel.read(new Uint8Array(1)), Error, "was aborted");
    await first.failed("draining", "503");
    await settled();
    if (end === "abort") tunnel.abort(7);
    else await tunnel[Symbol.asyncDispose]();
    await read;
    const code = end === "abort" ? 7 : 0;
    assertEquals(first.carrier.codes, [code, code]);
    found.resolve(second.attempt);
    await settled();
    assert(second.wasReplaced);
    await assertRejects(() => tunnel.read(new Uint8Array(1)));
    await assertRejects(() => writeAll(tunnel, pattern(1)));
  });
}

test("RetryingTunnel.abort() at any moment of a retry leaves no attempt open", async () => {
  for (const end of ["abort", "asyncDispose"] as const) {
    for (const how of ["failed", "gone"] as const) {
      for (let moment = 0; moment < 30; moment++) {
        const [first, second] = [new FakeAgent(), new FakeAgent()];
        const found = Promise.withResolvers<OutgoingTunnel>();
        const { tunnel } = tunnelTo([first], { retry: () => found.promise });
        await writeAll(tunnel, utf8.encode("request"));
        if (how === "gone") first.gone();
        else await first.failed("draining", "503");
        await settled();
        found.resolve(second.attempt);
        await turns(moment);
        if (end === "abort") tunnel.abort(7);
        else await tunnel[Symbol.asyncDispose]();
        await settled();
        for (const agent of [first, second]) {
          const when = `${end} ${moment} turns after the retry of one that has ${how}`;
          assert(agent.carrier.resetCode !== undefined, when);
          assert(agent.carrier.stopCode !== undefined, when);
        }
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
        write.catch(() => {});
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
          else await assertRejects(() => tunnel.read(new Uint8Array(1)));
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
      await settled();
      const read = assertRejects(() => tunnel.read(new Uint8Array(1)));
      await settled();
      tunnel.abort(given);
      tunnel.abort(99);
      await read;
      assertEquals(agent.carrier.codes, [code, code]);
      await assertRejects(() => tunnel.read(new Uint8Array(1)));
      await assertRejects(() => writeAll(tunnel, pattern(1)));
      // Nothing comes of it any more.
      agent.gone();
      await settled();
      assertEquals(causes, []);
      await tunnel[Symbol.asyncDispose]();
    }
  }
});

test("RetryingTunnel.abort() leaves an attempt that has answered with movedCode", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const { tunnel } = tunnelTo([first, second]);
  await first.failed("refused", "502");
  await settled();
  tunnel.abort(7);
  assert(first.wasReplaced);
  assertEquals(second.carrier.codes, [7, 7]);
  await settled();
});

test("RetryingTunnel.abort() fails a write that waits", async () => {
  const agent = new FakeAgent({ capacity: 10 });
  const { tunnel } = tunnelTo([agent]);
  const write = assertRejects(() => writeAll(tunnel, pattern(REPLAY_BYTES + 1)), MemoryDuplexError);
  await settled();
  tunnel.abort();
  await write;
});

test("RetryingTunnel leaves attempts with code 0 unless it is told another", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const tunnel = new RetryingTunnel(first.attempt, {
    timeoutMs: 0,
    retry: () => Promise.resolve(second.attempt),
  });
  await first.failed("refused", "502");
  second.connected();
  await settled();
  assertEquals(first.carrier.codes, [0, 0]);
  tunnel.abort();
});

test("RetryingTunnel gives up after timeoutMs", async () => {
  const agent = new FakeAgent();
  const { tunnel, causes } = tunnelTo([agent], { timeoutMs: 5 });
  await writeAll(tunnel, utf8.encode("request"));
  await assertRejects(
    () => tunnel.read(new Uint8Array(1)),
    Error,
    "no agent has connected the tunnel within 5 ms",
  );
  assertEquals(agent.carrier.codes, [0, 0]);
  // Too late.
  agent.connected();
  await settled();
  await assertRejects(() => tunnel.read(new Uint8Array(1)));
  await assertRejects(() => writeAll(tunnel, pattern(1)));
  assertEquals(causes, []);
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel counts timeoutMs over all attempts together", async () => {
  const agents = Array.from({ length: 1_000 }, () => new FakeAgent());
  const asked: FakeAgent[] = [agents[0]!];
  const began = performance.now();
  const { tunnel } = tunnelTo(agents, {
    timeoutMs: 30,
    async retry() {
      await new Promise((resolve) => setTimeout(resolve, 5));
      const agent = agents[asked.length]!;
      asked.push(agent);
      agent.gone();
      return agent.attempt;
    },
  });
  agents[0]!.gone();
  await assertRejects(() => tunnel.read(new Uint8Array(1)), Error, "within 30 ms");
  assertLessOrEqual(performance.now() - began, 2_000);
  assert(asked.length > 1);
  const count = asked.length;
  // The one that was looked for just then is left.
  await eventually("the last one is left", () => asked.at(-1)!.carrier.stopCode !== undefined);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assertLessOrEqual(asked.length, count + 1);
});

test("RetryingTunnel leaves an agent that is found after timeoutMs", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const found = Promise.withResolvers<OutgoingTunnel>();
  const { tunnel } = tunnelTo([first], { timeoutMs: 5, retry: () => found.promise });
  first.gone();
  await assertRejects(() => tunnel.read(new Uint8Array(1)), Error, "within 5 ms");
  found.resolve(second.attempt);
  await settled();
  assert(second.wasReplaced);
});

test("RetryingTunnel gives an answer that it has when another agent takes longer than timeoutMs", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const { tunnel } = tunnelTo([first, second], { timeoutMs: 10 });
  await first.failed("draining", "503");
  await eventually("the other is left", () => second.carrier.stopCode !== undefined);
  // Which shows there as it would if that agent had left by itself.
  second.gone();
  await settled();
  assertEquals(await readText(tunnel), "503");
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel ends an answer that does not come to its end within answerTimeoutMs", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent], { answerTimeoutMs: 20 });
  agent.fails("refused");
  await writeAll(agent.far, utf8.encode("502, and then nothing"));
  await assertRejects(() => readToEnd(tunnel));
  assert(agent.carrier.resetCode !== undefined);
  await tunnel[Symbol.asyncDispose]();
});

test("RetryingTunnel waits for ever when timeoutMs is 0", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent], { timeoutMs: 0 });
  const read = readText(tunnel);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert(await isPending(read));
  agent.connected();
  await agent.says("200");
  assertEquals(await read, "200");
  tunnel.abort();
});

test("RetryingTunnel has no time limit once it is connected", async () => {
  const agent = new FakeAgent();
  const { tunnel } = tunnelTo([agent], { timeoutMs: 10 });
  agent.connected();
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert(agent.isUntouched);
  await agent.says("200");
  assertEquals(await readText(tunnel), "200");
  tunnel.abort();
});

test("RetryingTunnel.stop() stops the agent that it has got to", async () => {
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
});

test("RetryingTunnel.asyncDispose() gives back the attempt that it has got to", async () => {
  const [first, second] = [new FakeAgent(), new FakeAgent()];
  const { tunnel } = tunnelTo([first, second]);
  first.gone();
  second.connected();
  await settled();
  await tunnel[Symbol.asyncDispose]();
  assertEquals(second.carrier.codes, [undefined, 0]);
  assert(second.carrier.isFinished);
});

/** A client, a pipe and a tunnel to these agents. */
function piped(agents: readonly FakeAgent[], options: Partial<RetryOptions> = {}) {
  const [near, client] = memoryPair();
  const { tunnel, causes } = tunnelTo(agents, options);
  return { client, causes, result: pipeDuplex(near, tunnel) };
}

test("pipeDuplex() over a RetryingTunnel carries a tunnel that moves to another agent", async () => {
  const [first, second] = [new FakeAgent({ capacity: 9 }), new FakeAgent({ capacity: 500 })];
  const { client, causes, result } = piped([first, second]);
  await writeAll(client, pattern(300));
  await first.hears(pattern(30));
  await first.failed("draining", "503");
  await second.hears(pattern(300));
  second.connected();
  const serve = async () => {
    await second.hears(pattern(20_000, 2));
    await writeAll(second.far, pattern(20_000, 3));
    assertEquals(await second.far.read(new Uint8Array(1)), null);
    await second.says("last");
  };
  const use = async () => {
    await writeAll(client, pattern(20_000, 2));
    assertEquals(await readExactly(client, 20_000), pattern(20_000, 3));
    await client.closeWrite();
    assertEquals(await readText(client), "last");
  };
  await Promise.all([serve(), use()]);
  assertEquals(await result, { aToB: 20_300, bToA: 20_004, reason: "end", by: "a" });
  assertEquals(causes, ["draining"]);
  assert(first.wasReplaced);
});

test("pipeDuplex() over a RetryingTunnel delivers all of a client that ends before a target that has ended", async () => {
  const agent = new FakeAgent({ capacity: 9 });
  const { client, result } = piped([agent]);
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

test("pipeDuplex() over a RetryingTunnel gives the client the answer when nobody connects", async () => {
  const agents = [new FakeAgent(), new FakeAgent()];
  const { client, result } = piped(agents);
  await writeAll(client, utf8.encode("CONNECT"));
  await agents[0]!.failed("refused", "502");
  await agents[1]!.hears(utf8.encode("CONNECT"));
  agents[1]!.gone();
  assertEquals(await readText(client), "502");
  await client.closeWrite();
  const { bToA } = await result;
  assertEquals(bToA, 3);
});

test("pipeDuplex() over a RetryingTunnel ends when the client leaves before there is a result", async () => {
  const agent = new FakeAgent();
  const { client, causes, result } = piped([agent]);
  await writeAll(client, utf8.encode("CONNECT"));
  await agent.hears(utf8.encode("CONNECT"));
  client.abort();
  const { reason, by } = await result;
  assertEquals([reason, by], ["error", "a"]);
  assertEquals(agent.carrier.codes, [0, 0]);
  agent.gone();
  await settled();
  assertEquals(causes, []);
});

test("pipeDuplex() over a RetryingTunnel ends when no agent connects in time", async () => {
  const agent = new FakeAgent();
  const { client, result } = piped([agent], { timeoutMs: 10 });
  await assertRejects(() => client.read(new Uint8Array(1)), MemoryDuplexError);
  const { reason, by, error } = await result;
  assertEquals([reason, by], ["error", "b"]);
  assertEquals((error as Error).message, "no agent has connected the tunnel within 10 ms");
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

test("Replay.add() takes copies up to maxBytes together", () => {
  const replay = new Replay(10);
  assert(replay.add(pattern(4)));
  assert(!replay.add(pattern(7)));
  assert(replay.add(pattern(6)));
  assert(replay.add(new Uint8Array(0)));
  assert(!replay.add(pattern(1)));
  assert(!replay.isFixed);
  return Promise.resolve();
});

test("Replay.add() takes nothing behind the end, or once it is fixed", () => {
  const ended = new Replay(10);
  ended.end();
  assert(!ended.add(pattern(1)));
  const fixed = new Replay(10);
  fixed.fix();
  fixed.fix();
  assert(fixed.isFixed);
  assert(!fixed.add(pattern(1)));
  return Promise.resolve();
});

test("Replay.feed() hands everything on, to several and whenever they begin", async () => {
  const replay = new Replay(1_000);
  const carriers = Array.from({ length: 3 }, () => carrierPair({ capacity: 7 }));
  const feeds: Promise<void>[] = [];
  const reads: Promise<Uint8Array>[] = [];
  for (const [i, [near, far]] of carriers.entries()) {
    replay.add(pattern(20, i));
    feeds.push(replay.feed(near));
    reads.push(readToEnd(far));
    await settled();
  }
  replay.add(pattern(20, 9));
  replay.end();
  await Promise.all(feeds);
  const expected = Uint8Array.of(...[0, 1, 2, 9].flatMap((seed) => [...pattern(20, seed)]));
  for (const read of reads) assertEquals(await read, expected);
});

test("Replay.feed() ends once it is fixed and all is handed on, and leaves the direction open", async () => {
  const replay = new Replay(1_000);
  const [near, far] = carrierPair({ capacity: 7 });
  const feed = replay.feed(near);
  replay.add(pattern(20));
  replay.fix();
  assert(await isPending(feed));
  assertEquals(await readExactly(far, 20), pattern(20));
  await feed;
  assert(!near.isFinished);
  // Also when there is nothing to hand on.
  await replay.feed(carrierPair()[0]);
});

test("Replay.feed() hands on an end that has come before it was fixed", async () => {
  const replay = new Replay(1_000);
  replay.add(pattern(5));
  replay.end();
  replay.fix();
  const [near, far] = carrierPair();
  await replay.feed(near);
  assertEquals(await readToEnd(far), pattern(5));
});

test("Replay.feed() throws what the carrier throws", async () => {
  const replay = new Replay(1_000);
  const [near, far] = carrierPair({ capacity: 7 });
  const feed = assertRejects(() => replay.feed(near), MemoryDuplexError, "code 4");
  replay.add(pattern(20));
  await settled();
  far.stop(4);
  await feed;
  // The others go on.
  const [next, nextFar] = carrierPair();
  replay.end();
  await replay.feed(next);
  assertEquals(await readToEnd(nextFar), pattern(20));
});
