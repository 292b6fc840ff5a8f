// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { bars, judge } from "../../bench/bars.ts";
import { Figures } from "../../bench/figures.ts";
import { parseOptions, rowNames } from "../../bench/options.ts";
import { barTable, crossTable, figureTable } from "../../bench/report.ts";
import { differenceOf, percentile, ratioOf, spreadOf } from "../../bench/statistics.ts";
import { curvesOf, growthTable } from "../../bench/growth.ts";
import { get } from "../../bench/http_client.ts";
import { Attempts, MAX_PEERS, parsePeers, startPeers } from "../../bench/peers.ts";
import { makeCerts } from "../../certs/make.ts";
import { parseCounts } from "../../bench/system_calls.ts";
import { transfer } from "../../bench/transfer.ts";
import { startOrigin, startRelays } from "../../bench/tunnels.ts";
import { UsageError } from "../../lib/errors.ts";
import { alignColumns } from "../../tools/columns.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, permissions: "none", fn });
}

const speed = { id: "bulk/a", name: "a", unit: "MB/s" };
const time = { id: "gets/b", name: "b", unit: "ms" };

test("spreadOf() tells the median of odd and even numbers of runs", () => {
  assertEquals(spreadOf([3, 1, 2]), { median: 2, min: 1, max: 3 });
  assertEquals(spreadOf([4, 1, 2, 3]), { median: 2.5, min: 1, max: 4 });
  assertEquals(spreadOf([7]), { median: 7, min: 7, max: 7 });
});

test("percentile() is the smallest number that as many do not exceed", () => {
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  assertEquals([1, 50, 99, 100].map((percent) => percentile(hundred, percent)), [1, 50, 99, 100]);
  assertEquals(percentile([5, 1], 50), 1);
  assertEquals(percentile([5], 99), 5);
  assertEquals(percentile([2, 1], 0), 1);
});

test("ratioOf() has the ratio of the medians, and the extremes of runs side by side", () => {
  assertEquals(ratioOf([10, 20, 30], [1, 2, 10]), { median: 10, min: 3, max: 10 });
  assertEquals(ratioOf([10], [5]), { median: 2, min: 2, max: 2 });
});

test("ratioOf() stays within its extremes, and bears subjects with fewer runs", () => {
  const { median, min, max } = ratioOf([1, 10, 100], [100, 10, 2]);
  assert(min <= median && median <= max);
  assertEquals(ratioOf([2, 4], [2]), { median: 1.5, min: 1, max: 2 });
});

test("differenceOf() does the same with differences", () => {
  assertEquals(differenceOf([40, 50, 60], [10]), { median: 40, min: 30, max: 50 });
});

test("Figures keeps runs in their order, and knows rows by the first part of an id", () => {
  const figures = new Figures();
  figures.add(speed, 1, { server: 2, agent: 3 });
  figures.add(time, 5);
  figures.add(speed, 4);
  assertEquals(figures.get("bulk/a"), {
    ...speed,
    values: [1, 4],
    cpu: [{ server: 2, agent: 3 }],
  });
  assertEquals(figures.list().map(({ id }) => id), ["bulk/a", "gets/b"]);
  assertEquals(figures.list("gets").map(({ id }) => id), ["gets/b"]);
  assertEquals(figures.get("gets/other"), undefined);
});

test("judge() tells by how much a bar is missed, in either sense", () => {
  const figures = new Figures();
  figures.add(time, 6);
  const of = () => spreadOf(figures.get("gets/b")!.values);
  const bar = { name: "x", unit: "", spread: of };
  const missed = (bar: number, isLeast: boolean) =>
    judge(figures, [{ name: "x", unit: "", spread: of, bar, isLeast }])[0]!.missedBy;
  assertEquals([missed(4, false), missed(8, false), missed(6, false)], [2, 0, 0]);
  assertEquals([missed(4, true), missed(8, true), missed(6, true)], [0, 2, 0]);
  const [unknown] = judge(figures, [{ ...bar, bar: 1, isLeast: true, spread: () => undefined }]);
  assertEquals([unknown!.spread, unknown!.missedBy], [undefined, 0]);
});

test("judge() holds a CPU time for a byte of both programs together against another", () => {
  const figures = new Figures();
  const run = (id: string, server: number, agent: number) =>
    figures.add({ id, name: id, unit: "MB/s" }, 100, { server, agent });
  run("bulk/1500/down/1", 1, 2);
  run("bulk/portable/down/1", 4, 8);
  const cpu = judge(figures).find(({ name }) => name.startsWith("its CPU a byte"))!;
  assertEquals([cpu.spread!.median, cpu.missedBy], [0.25, 0]);
  // One core that is busy all the time.
  figures.add({ id: "bulk/memory/1350", name: "in memory", unit: "MB/s" }, 250);
  const limit = judge(figures).find(({ name }) => name.startsWith("in memory: CPU"))!;
  assertEquals(limit.spread!.median, 4 / 12);
});

test("judge() takes the worst of figures that ought all to be even, and the extremes of all", () => {
  const figures = new Figures();
  const even = (id: string, ...values: number[]) => {
    for (const value of values) figures.add({ id: `fairness/${id}`, name: id, unit: "" }, value);
  };
  even("tunnels/auto/down/8", 1, 1.1, 1.3);
  even("tunnels/auto/up/8", 1.2, 1.6, 2.6);
  even("agents/down/2", 1.1);
  const judged = judge(figures).filter(({ spread }) => spread);
  assertEquals(judged.map(({ spread }) => spread), [
    { median: 1.6, min: 1, max: 2.6 },
    { median: 1.1, min: 1.1, max: 1.1 },
  ]);
  assert(judged[0]!.missedBy > 0 && judged[1]!.missedBy === 0);
});

test("barTable() shows what is there to compare with, without a verdict", () => {
  const figures = new Figures();
  figures.add({ id: "gets/relays/p50", name: "relays", unit: "ms" }, 8);
  figures.add({ id: "gets/direct/p50", name: "direct", unit: "ms" }, 2);
  const judged = judge(figures).filter(({ spread }) => spread);
  assertEquals(judged.map(({ bar, missedBy }) => [bar, missedBy]), [[undefined, 0]]);
  assert(/direct +4\.00 +\[4\.00 to 4\.00\] +to compare$/.test(barTable(judged)));
});

test("every bar is there once, and is not measured when nothing was", () => {
  const judged = judge(new Figures());
  assertEquals(judged.length, bars.length);
  assertEquals(new Set(judged.map(({ name }) => name)).size, bars.length);
  assert(judged.every(({ spread, missedBy }) => spread === undefined && missedBy === 0));
});

test("alignColumns() has the first column to the left, the others to the right", () => {
  assertEquals(
    alignColumns([["", "n"], ["long", "1"], ["x", "200"]]),
    "        n\nlong    1\nx     200",
  );
});

test("figureTable() has columns for the CPU time where there was any", () => {
  const figures = new Figures();
  figures.add(speed, 1000);
  figures.add(speed, 2000, { server: 1, agent: 2.5 });
  figures.add(time, 1);
  assertEquals(
    figureTable("all", figures.list()),
    [
      "all  unit  runs  median    [min to max]  CPU s/GB: server  agent",
      "a    MB/s     2    1500  [1000 to 2000]              1.00   2.50",
      "b      ms     1    1.00  [1.00 to 1.00]                 -      -",
    ].join("\n"),
  );
  assertEquals(
    figureTable("gets", figures.list("gets")),
    "gets  unit  runs  median    [min to max]\nb       ms     1    1.00  [1.00 to 1.00]",
  );
});

test("crossTable() has figures of one name in a row, in the columns that are there", () => {
  const figures = new Figures();
  const add = (id: string, unit: string, ...values: number[]) => {
    for (const value of values) {
      figures.add({ id: `counts/${id}`, name: id.split("/")[0]!, unit }, value);
    }
  };
  add("sent/agent", "", 3);
  add("sent/server", "", 4, 5, 9);
  add("time/other", "ms", 0.5);
  assertEquals(
    crossTable("each", figures.list(), ["server", "agent", "relay"]),
    [
      "each      server  agent  other",
      "sent        5.00   3.00      -",
      "time, ms       -      -   0.50",
    ]
      .join("\n"),
  );
});

test("growthTable() compares costs with the first one, or with one measured at the same time", () => {
  const figures = new Figures();
  const add = (series: string, what: string, level: string, value: number) => {
    const id = `growth/${series}/${what}/${level}`;
    figures.add({ id, name: `${series}: ${what}`, unit: "ms" }, value);
  };
  add("rate", "cost", "1", 2);
  add("rate", "cost", "64", 1);
  for (const [level, alone, value] of [["9", 1, 1.2], ["90", 2, 3]] as const) {
    add("agents", "server, CPU at rest", `${level}/alone`, alone);
    add("agents", "server, CPU at rest", level, value * 10);
    add("agents", "cost", `${level}/alone`, alone);
    add("agents", "cost", level, value);
  }
  assertEquals(
    growthTable("growth", figures.list()).replace(/ +/g, " "),
    `growth

rate 1 64
cost, ms 2.00 (1.00) 1.00 (0.50)

agents alone 9 90
server, CPU at rest, ms 1.50 12.00 (12.00) 30.00 (15.00)
cost, ms 1.50 1.20 (1.20) 3.00 (1.50)

not flat: agents: cost, 1.50 times at 90`,
  );
  assertEquals(curvesOf(figures.list()).map(({ grows }) => grows), [false, false, true]);
  const bar = judge(figures).find(({ name }) => name.startsWith("costs"))!;
  assertEquals([bar.spread!.median, bar.missedBy], [1, 1]);
});

test("parseCounts() reads the table of strace, with the calls that failed and without the sum", () => {
  const table = `strace: Process 7 attached with 3 threads
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.50    0.001234          12       949       325 recvfrom
  0.00    0.000000           0       200           sendmsg
------ ----------- ----------- --------- --------- ----------------
100.00    0.002006           1      1149       325 total`;
  assertEquals(parseCounts(table.split("\n")), [
    { name: "recvfrom", calls: 949, errors: 325 },
    { name: "sendmsg", calls: 200, errors: 0 },
  ]);
  assertEquals(
    parseCounts(["strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted"]),
    [],
  );
});

test("barTable() shows each bar beside what was measured", () => {
  const spread = { median: 2, min: 1, max: 3 };
  const judged = [
    { name: "good", unit: "", bar: 1, isLeast: true, spread, missedBy: 0 },
    { name: "bad", unit: " MiB", bar: 1.5, isLeast: false, spread, missedBy: 0.5 },
    { name: "none", unit: "", bar: 1, isLeast: true, spread: undefined, missedBy: 0 },
  ];
  assertEquals(
    barTable(judged),
    [
      "      figure    [min to max]         bar                    ",
      "good    2.00  [1.00 to 3.00]        >= 1                 met",
      "bad     2.00  [1.00 to 3.00]  <= 1.5 MiB  missed by 0.50 MiB",
      "none       -                        >= 1        not measured",
    ].join("\n"),
  );
});

test("parseOptions() takes some rows, in the order in which they are measured", () => {
  assertEquals(parseOptions([]), {
    isShort: false,
    rows: rowNames,
    peers: [],
    json: undefined,
    fails: false,
    help: false,
  });
  assertEquals(parseOptions(["--only", "lossy,bulk"]).rows, ["bulk", "lossy"]);
  const { isShort, json, fails } = parseOptions(["--short", "--json=x.json", "--fail"]);
  assertEquals([isShort, json, fails], [true, "x.json", true]);
});

test("parseOptions() refuses what it does not know", () => {
  for (const args of [["--only", "bulk,other"], ["--only="], ["--unknown"], ["more"]]) {
    assertThrows(() => parseOptions(args), UsageError);
  }
});

const at = (port: number) => ({ hostname: "127.0.0.1", port });

test("parsePeers() reads where a peer is, where it connects clients, and its processes", () => {
  const go = "go=127.0.0.1:9201,127.0.0.1:9100,connect,12,34";
  assertEquals(parsePeers([go, "frp=127.0.0.1:9202,127.0.0.1:9101,pass"]), [
    { name: "go", entry: at(9201), origin: at(9100), mode: "connect", pids: [12, 34] },
    { name: "frp", entry: at(9202), origin: at(9101), mode: "pass", pids: [] },
  ]);
});

test("parsePeers() names what is wrong with a peer", () => {
  const origin = "127.0.0.1:9100";
  const wrong = {
    "go": "is not of the form NAME=host:port,origin,mode",
    [`go=127.0.0.1:1,${origin}`]: "is not of the form NAME=host:port,origin,mode",
    [`=127.0.0.1:1,${origin},pass`]: "the name is not 1 to 20 letters",
    [`a/b=127.0.0.1:1,${origin},pass`]: "the name is not 1 to 20 letters",
    [`tunnel=127.0.0.1:1,${origin},pass`]: 'the name "tunnel" is taken',
    [`go=127.0.0.1:1,${origin},socks`]: 'the mode "socks" is neither "connect" nor "pass"',
    [`go=127.0.0.1,${origin},pass`]: 'invalid address "127.0.0.1": no port',
    [`go=127.0.0.1:1,127.0.0.1:0,pass`]: "the port is not in 1 to 65535",
    [`go=example.com:1,${origin},pass`]: '"example.com:1" is not at 127.0.0.1',
    [`go=127.0.0.1:1,${origin},pass,x`]: '"x" is not a process ID',
    [`go=127.0.0.1:1,${origin},pass,1,2,3`]: "it has 3 process IDs, at most 2",
  };
  for (const [spec, message] of Object.entries(wrong)) {
    const error = assertThrows(() => parsePeers([spec]), UsageError, message);
    assertEquals(error.message.startsWith(`invalid --peer "${spec}": `), true, error.message);
  }
});

test("parsePeers() refuses too many peers, and two of a name", () => {
  const spec = (name: string) => `${name}=127.0.0.1:1,127.0.0.1:2,pass`;
  const many = Array.from({ length: MAX_PEERS + 1 }, (_, i) => spec(`p${i}`));
  assertEquals(parsePeers(many.slice(1)).length, MAX_PEERS);
  assertThrows(() => parsePeers(many), UsageError, "9 times --peer, at most 8");
  assertThrows(() => parsePeers([spec("a"), spec("a")]), UsageError, 'are called "a"');
});

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

Deno.test("startPeers() sends requests and transfers through the relays and a peer, here relays with TLS between them", async () => {
  const { signal } = new AbortController();
  await using origin = await startOrigin(signal);
  await using folder = await temporaryFolder();
  await makeCerts(folder.path);
  await using other = await startRelays(signal, undefined, folder.path);
  const spec = `other=127.0.0.1:${other.ports.tcp},127.0.0.1:${freePort()},connect`;
  const started = await startPeers(
    parsePeers([`${spec},${other.programs.map(({ pid }) => pid)}`]),
    origin.port,
    signal,
  );
  await using _started = started;
  assertEquals(started.peers.map(({ id, pids }) => [id, pids.length]), [["relays", 2], [
    "other",
    2,
  ]]);
  for (const { way } of started.peers) {
    assert(await get(way) > 0);
    for (const direction of ["down", "up"] as const) {
      const { bytes } = await transfer({ way, bytes: 1_000_000, direction, signal });
      assertEquals(bytes, 1_000_000);
    }
  }
});

Deno.test("startPeers() names a peer that does not answer, and an origin whose port is taken", async () => {
  const { signal } = new AbortController();
  await using origin = await startOrigin(signal);
  const entry = `127.0.0.1:${freePort()}`;
  const fails = (spec: string, message: string) =>
    assertRejects(() => startPeers(parsePeers([spec]), origin.port, signal), UsageError, message);
  const refused = `peer "gone" at ${entry} does not connect a client: Connection refused`;
  await fails(`gone=${entry},127.0.0.1:${freePort()},connect`, refused);
  const taken = `127.0.0.1:${origin.port}`;
  await fails(`gone=${entry},${taken},pass`, `the origin of --peer cannot listen on ${taken}`);
});

test("Attempts notes what a foreign peer fails, and leaves it out if that goes on", async () => {
  const notes: string[] = [];
  const { signal } = new AbortController();
  const attempts = new Attempts({ signal, note: (text) => void notes.push(text) });
  const fail = () => Promise.reject(new Error("broken"));
  const foreign = { id: "go", name: "Go", isForeign: true };
  for (let i = 0; i < 4; i++) await attempts.by(foreign, fail);
  assertEquals(notes, ["Go: broken", "Go: broken"]);
  await assertRejects(
    () => attempts.by({ ...foreign, id: "x", isForeign: false }, fail),
    Error,
    "broken",
  );
});
