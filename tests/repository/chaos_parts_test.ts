// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `deno task chaos` judges with: were it to miss something, the whole run would show nothing. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { lookAt } from "../../tools/process_look.ts";
import { type Disruption, Disruptions } from "../chaos/disruptions.ts";
import { Draws } from "../chaos/draws.ts";
import { Ledger } from "../chaos/ledger.ts";
import { LogLine } from "../chaos/log_line.ts";
import { memoryRow } from "../chaos/memory_table.ts";
import { ServerWatch } from "../chaos/server_watch.ts";
import { CutError, decodeRequest, encodeRequest, Wire, WrongBytesError } from "../chaos/wire.ts";

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

const request = {
  id: 7,
  sequence: 1,
  asks: 0,
  uploadBytes: 300,
  downloadBytes: 100_000,
  tailBytes: 0,
  pauseMs: 0,
};

/** The bytes that a wire sends. */
async function sentBy(send: (wire: Wire) => Promise<void>): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = [];
  const write = (bytes: Uint8Array) => {
    pieces.push(bytes.slice());
    return Promise.resolve(bytes.length);
  };
  await send(wireOf({ write }));
  return new Uint8Array(pieces.flatMap((piece) => [...piece]));
}

/** A wire that reads these bytes, up to 1000 at a time, and then the end. */
function reading(bytes: Uint8Array): Wire {
  let offset = 0;
  const read = (buffer: Uint8Array) => {
    const piece = bytes.subarray(offset, offset + Math.min(1000, buffer.length));
    buffer.set(piece);
    offset += piece.length;
    return Promise.resolve(piece.length || null);
  };
  return wireOf({ read });
}

function wireOf(duplex: Partial<Duplex>): Wire {
  return new Wire(duplex as Duplex, { progress: () => {}, pause: () => Promise.resolve() });
}

const reply = await sentBy((wire) => wire.sendReply(request, Promise.resolve()));

test("Wire takes a reply that is right, and its end", async () => {
  const wire = reading(reply);
  await wire.receiveReply(request);
  await wire.receiveEnd();
});

test("Wire refuses a reply with any one byte wrong, missing or twice", async () => {
  for (const at of [0, 5, 19, 20, 21, 50_000, 100_019, 100_020, reply.length - 1]) {
    const wrong = reply.slice();
    wrong[at]! ^= 1;
    await assertRejects(() => reading(wrong).receiveReply(request), WrongBytesError);
    const missing = new Uint8Array([...reply.subarray(0, at), ...reply.subarray(at + 1)]);
    // Its last bytes are not there, which is found out before or after the wrong ones.
    const error = await assertRejects(() => reading(missing).receiveReply(request), Error);
    assert(error instanceof (at < 100_020 ? WrongBytesError : CutError), `${at}: ${error}`);
    const twice = new Uint8Array([...reply.subarray(0, at + 1), ...reply.subarray(at)]);
    const wire = reading(twice);
    await assertRejects(async () => {
      await wire.receiveReply(request);
      await wire.receiveEnd();
    }, WrongBytesError);
  }
});

test("Wire refuses the reply to another request", async () => {
  for (const other of [{ id: 8 }, { sequence: 2 }, { downloadBytes: 99_999 }]) {
    const wire = reading(reply);
    await assertRejects(() => wire.receiveReply({ ...request, ...other }), WrongBytesError);
  }
});

test("Wire tells a reply that was cut off from one that is wrong", async () => {
  for (const length of [1, 20, 21, 60_000, reply.length - 1]) {
    await assertRejects(() => reading(reply.subarray(0, length)).receiveReply(request), CutError);
  }
});

test("Wire refuses an upload of another tunnel", async () => {
  const upload = await sentBy((wire) => wire.sendUpload(request));
  await reading(upload).receiveUpload(request);
  const other = { ...request, id: 8 };
  await assertRejects(() => reading(upload).receiveUpload(other), WrongBytesError);
});

test("decodeRequest() gives what encodeRequest() was given, and refuses anything else", () => {
  const bytes = encodeRequest(request);
  assertEquals(decodeRequest(bytes), request);
  for (let i = 0; i < bytes.length; i++) {
    const wrong = bytes.slice();
    wrong[i]! ^= 0x80;
    let refused = false;
    try {
      decodeRequest(wrong);
    } catch (error) {
      refused = error instanceof WrongBytesError;
    }
    assert(refused, `byte ${i}`);
  }
});

test("Ledger tells requests that nobody has made, that are missing and that come twice", () => {
  const violations: string[] = [];
  const ledger = new Ledger((what) => violations.push(what));
  const id = ledger.begin();
  ledger.arrived({ ...request, id, sequence: 0 });
  ledger.arrived({ ...request, id, sequence: 1 });
  assertEquals(violations, []);
  ledger.arrived({ ...request, id, sequence: 3 });
  assertEquals(violations, ["target: request 3 of tunnel 1 where 2 was to come"]);
  ledger.arrived({ ...request, id: 2 });
  assertEquals(violations[1], "target: a request of tunnel 2, which nobody has begun");
  assertEquals(ledger.violations, violations);
  assertEquals(ledger.end(id), false);
  const other = ledger.begin();
  ledger.arrived({ ...request, id: other, sequence: 0 });
  ledger.arrived({ ...request, id: other, sequence: 0 });
  assertEquals(ledger.end(other), true);
  assertEquals(violations.length, 2);
});

test("Disruptions excuse what they can have caused, and nothing else", () => {
  const SECOND = 1000;
  const excuses = (
    disruption: Partial<Disruption>,
    { site = "a", started = 0, ended = 0, agents }: {
      site?: string;
      started?: number;
      ended?: number;
      agents?: string[];
    },
  ) => {
    const disruptions = new Disruptions();
    disruptions.add({
      site: "a",
      kind: "kill",
      agents: undefined,
      from: 100 * SECOND,
      until: 110 * SECOND,
      ...disruption,
    });
    const served = agents && { client: "c", acceptedAt: 0, agents: new Set(agents) };
    const [startedAt, endedAt] = [started * SECOND, ended * SECOND];
    return disruptions.excuseFor({ site, client: "c", startedAt, endedAt }, served) !== undefined;
  };
  const all = {};
  assert(excuses(all, { started: 99, ended: 105 }), "cut off");
  assert(excuses(all, { started: 105, ended: 120 }), "begun meanwhile");
  assert(excuses(all, { started: 90, ended: 120 }), "all the time");
  assert(!excuses(all, { started: 90, ended: 98 }), "over before");
  assert(!excuses(all, { started: 112, ended: 120 }), "begun after");
  assert(!excuses(all, { site: "b", started: 99, ended: 105 }), "elsewhere");

  const agent = { agents: ["x"] };
  assert(excuses(agent, { started: 99, ended: 105, agents: ["x"] }), "of the agent");
  assert(excuses(agent, { started: 99, ended: 105, agents: ["y", "x"] }), "tried with the agent");
  assert(excuses(agent, { started: 99, ended: 105, agents: [] }), "of no agent");
  assert(!excuses(agent, { started: 99, ended: 105, agents: ["y"] }), "of another agent");
  assert(!excuses(agent, { started: 99, ended: 105 }), "which the server has not taken");

  const drain = { cutAt: 104 * SECOND };
  assert(!excuses(drain, { started: 90, ended: 102 }), "ended before the drain was over");
  assert(excuses(drain, { started: 90, ended: 104 }), "cut off at the end of the drain");
  assert(excuses(drain, { started: 101, ended: 102 }), "begun meanwhile");
  const others = { ...drain, newMayFail: false };
  assert(!excuses(others, { started: 102, ended: 103 }), "begun meanwhile, and others take it");
  assert(excuses(others, { started: 90, ended: 104 }), "cut off at the end of the drain");
});

const parsed = (text: string, time = "00:00:00") =>
  LogLine.parse(`2026-01-01T${time}.000Z ${text}`)!;
const timeOf = (time: string) => Date.parse(`2026-01-01T${time}Z`);

test("LogLine.parse() takes lines of the log apart, and nothing else", () => {
  const line = parsed(
    'DBG server "tunnel \\"ended\\"" tunnel=ab client=[::1]:5 error="a b" agent=x',
  );
  assertEquals(line.time, timeOf("00:00:00"));
  assertEquals(line.level, "DBG");
  assertEquals(line.message, 'tunnel \\"ended\\"');
  assertEquals(line.field("client"), "[::1]:5");
  assertEquals(line.field("agent"), "x");
  assertEquals(line.field("none"), undefined);
  assertEquals(LogLine.parse("error: Uncaught (in promise) Error: boom"), undefined);
});

test("ServerWatch knows agents, tunnels under way and the agents of those that have ended", () => {
  const watch = new ServerWatch();
  const say = (text: string) => watch.line(parsed(text));
  say('INF server "agent connected" agent=x connection=1');
  say('INF server "agent connected" agent=y connection=2');
  say('INF server "agent connected" agent=x connection=3');
  assertEquals(watch.agents, ["x", "x", "y"]);
  say('INF server "agent disconnected" agent=x connection=1');
  assertEquals(watch.agents, ["x", "y"]);
  say('DBG server "accepted tcp connection" tunnel=aa client=127.0.0.1:1');
  say('DBG server "accepted tcp connection" tunnel=bb client=127.0.0.1:2');
  say('DBG server "no result from the agent" tunnel=aa agent=x');
  say('DBG server "tunnel ended" tunnel=aa client=127.0.0.1:1 agent=y');
  assertEquals([...watch.openTunnels.keys()], ["bb"]);
  assertEquals(watch.tunnelOf("127.0.0.1:1", 0)!.agents, new Set(["x", "y"]));
  assertEquals(watch.tunnelOf("127.0.0.1:2", 0)!.agents, new Set());
  assertEquals(watch.tunnelOf("127.0.0.1:3", 0), undefined);
  watch.ended();
  assertEquals(watch.openTunnels.size, 0);
  assertEquals(watch.agents, []);
  assert(watch.tunnelOf("127.0.0.1:2", 0), "cut off with the server");
});

test("ServerWatch.tunnelOf() tells tunnels from one and the same address apart", () => {
  const watch = new ServerWatch();
  const tunnel = (id: string, agent: string, time: string) => {
    watch.line(parsed(`DBG server "accepted tcp connection" tunnel=${id} client=[::1]:1`, time));
    watch.line(
      parsed(`DBG server "tunnel ended" tunnel=${id} client=[::1]:1 agent=${agent}`, time),
    );
  };
  tunnel("aa", "x", "00:00:01");
  tunnel("bb", "y", "00:00:05");
  const agentsAt = (time: string) => watch.tunnelOf("[::1]:1", timeOf(time))?.agents;
  assertEquals(agentsAt("00:00:00"), new Set("x"));
  assertEquals(agentsAt("00:00:01.004"), new Set("x"));
  assertEquals(agentsAt("00:00:03"), new Set("y"));
  assertEquals(agentsAt("00:00:06"), undefined);
});

test("Draws are the same ones for the same seed, and others for each part", () => {
  const draw = (draws: Draws) => Array.from({ length: 20 }, () => draws.integer(1, 1000));
  assertEquals(draw(new Draws(5)), draw(new Draws(5)));
  assert(draw(new Draws(5)).join() !== draw(new Draws(6)).join());
  assert(draw(new Draws(5).part("a")).join() !== draw(new Draws(5).part("b")).join());
  const next = new Draws(5).bag(["a", "b", "c"]);
  assertEquals([next(), next(), next()].sort(), ["a", "b", "c"]);
  assertEquals([next(), next(), next()].sort(), ["a", "b", "c"]);
});

test("memoryRow() tells memory that grows from memory that is flat", () => {
  const mib = (...values: number[]) => values.map((value) => value * 1024);
  assert(memoryRow(mib(100, 101, 100, 200, 100, 102, 101, 100, 102)).isFlat, "one peak");
  assert(memoryRow(mib(100, 105, 110, 115, 120, 125, 130, 135, 138)).isFlat, "within what is told");
  assert(!memoryRow(mib(100, 100, 100, 120, 130, 140, 150, 150, 150)).isFlat, "half as much more");
  assert(!memoryRow([]).isFlat, "nothing known");
});

Deno.test("lookAt() counts memory, files and TCP sockets of a process", async () => {
  const look = async () => (await lookAt([Deno.pid])).get(Deno.pid)!;
  const before = await look();
  assert(before.rssKib > 10_000 && before.files > 3, JSON.stringify(before));
  {
    using _listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const udp = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    const { tcpSockets } = await look();
    udp.close();
    assertEquals(tcpSockets, before.tcpSockets + 1);
  }
  assertEquals((await look()).tcpSockets, before.tcpSockets);
  assertEquals((await lookAt([2 ** 22 + 1])).size, 0);
});
