// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What a connection and what bytes cost while there is more of something: open tunnels, agents, clients in a second,
 * clients at once. CPU time is that of the main threads, without what they take at rest meanwhile.
 */
import { delay } from "@std/async/delay";
import { alignColumns } from "../tools/columns.ts";
import { mainThreadMs } from "./cpu.ts";
import type { Figure } from "./figures.ts";
import { get } from "./http_client.ts";
import { inBatches, withinFiles } from "./many.ts";
import type { ManyAgents } from "./many_agents.ts";
import { benchProgram, type Program } from "./program.ts";
import type { Bench } from "./row.ts";
import { percentile, spreadOf } from "./statistics.ts";
import { transfer } from "./transfer.ts";
import { startServer, startTunnel, through } from "./tunnels.ts";
import { openWay, type Way } from "./way.ts";

/** Fewer than an agent has streams: some are left for what is measured. */
const OPEN_TUNNELS = { full: [100, 1_000, 9_900], short: [1_000] };
const AGENTS = { full: [20, 200], short: [20] };
const PER_SECOND = { full: [1, 8, 64], short: [8, 64] };
const AT_ONCE = { full: [1, 8, 64], short: [1, 64] };

/** Of each level that is measured in turns; the median counts. */
const ROUNDS = 2;
const GETS = { full: 300, short: 150 };
const BYTES = { full: 20e6, short: 10e6 };
const RATE_MS = { full: 4_000, short: 2_000 };
/** At any rate. */
const MIN_GETS = 10;
/** Few clients take little more than nothing at all does, which is therefore looked at for longer. */
const CLIENTS_REST_MS = 3_000;
const REST_MS = { full: 1_000, short: 1_000 };
/** What is shown, but is not a cost of a connection. */
const AT_REST = "CPU at rest";
/** What is shown, but not exact enough to be judged: a few clients take less than the rest does. */
const ABOUT = "CPU of a GET, about";
/** Ends the ids of what is measured without more. */
const ALONE = "/alone";
/** Until what was opened, or has ended, takes no more time. */
const SETTLE_MS = 200;
const WARM_UP = 300;

/** What costs more than this times what it does at first is not flat. */
const MAX_GROWTH = 1.25;

type End = "server" | "agent";
/** Something of the server, and of the agent if there is one process of that. */
type Ends<T> = Partial<Readonly<Record<End, T>>>;

/** What there is more and more of. */
interface Series {
  readonly id: string;
  readonly name: string;
  readonly way: Way;
  readonly ends: Ends<Program>;
}

/** A server and an agent that have nothing else to do. */
interface Alone extends Pick<Series, "way"> {
  readonly ends: Required<Ends<Program>>;
}

export async function measureGrowth(bench: Bench): Promise<void> {
  if (!await mainThreadMs([Deno.pid])) {
    return bench.note("growth: not measured without /proc/<pid>/schedstat");
  }
  const { certificates, origin, signal } = bench;
  await using tunnel = await startTunnel({ certificates, signal, flags: { mtu: "1500" } });
  const { server, agent } = tunnel;
  const alone = { way: through(tunnel, origin), ends: { server, agent } };
  await warmUp(alone, signal);
  await growClients(bench, alone);
  await growTunnels(bench, alone);
  await growAgents(bench, alone);
}

/** Clients one after the other, and at once, of one tunnel. */
async function growClients(bench: Bench, series: Alone): Promise<void> {
  const { isShort, signal } = bench;
  const length = isShort ? "short" : "full";
  const { way } = series;
  const rest = await restOf(series, CLIENTS_REST_MS);
  const perSecond = { ...series, id: "rate", name: "new connections a second" };
  for (const level of PER_SECOND[length]) {
    const ask = () => getAtRate(way, level, RATE_MS[length], signal);
    await measureGets(bench, perSecond, String(level), rest, ask);
  }
  const atOnce = { ...series, id: "at-once", name: "new connections at once" };
  for (const level of AT_ONCE[length]) {
    const ask = () => getAtOnce(way, level, GETS[length], signal);
    await measureGets(bench, atOnce, String(level), rest, ask);
  }
}

async function growTunnels(bench: Bench, alone: Alone): Promise<void> {
  const { certificates, origin, isShort, signal, note } = bench;
  await using tunnel = await startTunnel({ certificates, signal, flags: { mtu: "1500" } });
  const { server, agent } = tunnel;
  const way = through(tunnel, origin);
  const series = { id: "tunnels", name: "open tunnels", way, ends: { server, agent } };
  await warmUp(series, signal);
  using opened = new DisposableStack();
  let count = 0;
  for (const wanted of isShort ? OPEN_TUNNELS.short : OPEN_TUNNELS.full) {
    const { count: level, files } = await withinFiles(wanted);
    await inBatches(level - count, signal, async () => {
      opened.use(await openWay(way));
    });
    count = level;
    await measureLevel(bench, series, { ...series, ...alone }, level);
    if (level < wanted) {
      return note(`growth: the limit of ${files} open files allows ${level} open tunnels`);
    }
  }
}

async function growAgents(bench: Bench, alone: Alone): Promise<void> {
  const { certificates, origin, isShort, signal } = bench;
  await using started = new AsyncDisposableStack();
  const { program: server, ...ports } = await startServer({
    certificates,
    signal,
    flags: { mtu: "1500" },
  });
  started.use(server);
  const way = through({ ports }, origin);
  const series = { id: "agents", name: "agents", way, ends: { server } };
  let count = 0;
  for (const level of isShort ? AGENTS.short : AGENTS.full) {
    const more: ManyAgents = { certificates, quic: ports.quic, count: level - count };
    started.use(benchProgram("many_agents.ts", [JSON.stringify(more)]));
    await server.said(new RegExp(`agent connected.* agents=${level}\\b`), signal);
    count = level;
    await warmUp(series, signal);
    const other = { ...series, way: alone.way, ends: { server: alone.ends.server } };
    await measureLevel(bench, series, other, level);
  }
}

async function warmUp({ way }: Pick<Series, "way">, signal: AbortSignal): Promise<void> {
  await getAtOnce(way, 1, WARM_UP, signal);
  await transfer({ way, bytes: BYTES.full, signal });
}

/** Measures new connections one after the other, and a transfer: in turns with another server that has no more than one. */
async function measureLevel(
  bench: Bench,
  series: Series,
  alone: Series,
  level: number,
): Promise<void> {
  const { isShort, signal } = bench;
  const length = isShort ? "short" : "full";
  const bytes = BYTES[length];
  await delay(SETTLE_MS);
  const subjects = [];
  for (const [subject, id] of [[alone, level + ALONE], [series, `${level}`]] as const) {
    const rest = await restOf(subject, REST_MS[length]);
    subjects.push({ subject, id, rest });
    for (const [end, share] of Object.entries(rest)) {
      record(bench, subject, `${end}, ${AT_REST}`, "%", id, share * 100);
    }
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const { subject, id, rest } of subjects) {
      const { way } = subject;
      const ask = () => getAtOnce(way, 1, GETS[length], signal);
      await measureGets(bench, subject, id, rest, ask);
      const { spent } = await spend(subject, rest, () => transfer({ way, bytes, signal }));
      for (const [end, ms] of Object.entries(spent)) {
        record(bench, subject, `${end}, CPU of 1 MB at 1500`, "ms", id, ms / (bytes / 1e6));
      }
    }
  }
}

async function measureGets(
  bench: Bench,
  series: Series,
  level: string,
  rest: Ends<number>,
  ask: () => Promise<readonly number[]>,
): Promise<void> {
  const { result: times, spent } = await spend(series, rest, ask);
  // Those that come at once wait for each other.
  if (series.id !== "at-once") {
    record(bench, series, "GET p50", "ms", level, percentile(times, 50));
  }
  const what = series.id === "rate" ? ABOUT : "CPU of a GET";
  for (const [end, ms] of Object.entries(spent)) {
    record(bench, series, `${end}, ${what}`, "ms", level, ms / times.length);
  }
}

/** CPU time so far, in milliseconds. */
async function look({ ends }: Pick<Series, "ends">): Promise<Ends<number>> {
  const ms = (await mainThreadMs(Object.values(ends).map(({ pid }) => pid)))!;
  return mapEnds(ends, (_, i) => ms[i]!);
}

/** The part of a CPU that both ends take with nothing to do. */
async function restOf(series: Pick<Series, "ends">, ms: number): Promise<Ends<number>> {
  const since = performance.now();
  const before = await look(series);
  await delay(ms);
  const after = await look(series);
  const took = performance.now() - since;
  return mapEnds(series.ends, (end) => (after[end]! - before[end]!) / took);
}

/** CPU time that both ends take for some work, in milliseconds. */
async function spend<Result>(
  series: Series,
  rest: Ends<number>,
  work: () => Promise<Result>,
): Promise<{ readonly result: Result; readonly spent: Ends<number> }> {
  const since = performance.now();
  const before = await look(series);
  const result = await work();
  await delay(SETTLE_MS);
  const after = await look(series);
  const took = performance.now() - since;
  const spent = mapEnds(series.ends, (end) => after[end]! - before[end]! - rest[end]! * took);
  return { result, spent };
}

function mapEnds<T>(ends: Ends<unknown>, map: (end: End, i: number) => T): Ends<T> {
  const names = Object.keys(ends) as End[];
  return Object.fromEntries(names.map((end, i) => [end, map(end, i)]));
}

/** Requests on so many new connections a second, whether or not those before have been answered. */
async function getAtRate(
  way: Way,
  perSecond: number,
  ms: number,
  signal: AbortSignal,
): Promise<number[]> {
  const since = performance.now();
  const count = Math.max(MIN_GETS, Math.ceil(perSecond * ms / 1_000));
  return await Promise.all(Array.from({ length: count }, async (_, i) => {
    await delay(since + i * 1_000 / perSecond - performance.now(), { signal });
    return await get(way);
  }));
}

/** Requests on new connections, so many at a time. */
async function getAtOnce(
  way: Way,
  atOnce: number,
  count: number,
  signal: AbortSignal,
): Promise<number[]> {
  const times: number[] = [];
  for (let left = count; left > 0; left -= atOnce) {
    signal.throwIfAborted();
    times.push(...await Promise.all(Array.from({ length: atOnce }, () => get(way))));
  }
  return times;
}

function record(
  { figures }: Bench,
  { id, name }: Series,
  what: string,
  unit: string,
  level: string,
  value: number,
): void {
  figures.add({ id: `growth/${id}/${what}/${level}`, name: `${name}: ${what}`, unit }, value);
}

/** A cost, at each number of what there is more and more of. */
interface Curve {
  readonly name: string;
  readonly unit: string;
  /** Without more of it, at the same time; undefined where the first number is that. */
  readonly alone: number | undefined;
  readonly levels: readonly {
    readonly level: string;
    readonly value: number;
    /** What it is a multiple of is the cost without more of it. */
    readonly ratio: number;
  }[];
  /** Whether it ought not to grow, and does. */
  readonly grows: boolean;
}

/** The costs, in the order in which they were measured. */
export function curvesOf(figures: readonly Figure[]): Curve[] {
  return Array.from(Map.groupBy(figures, ({ name }) => name), ([name, figures]) => {
    const values = new Map(figures.map(({ id, values }) => [
      id.split("/").slice(3).join("/"),
      spreadOf(values).median,
    ]));
    const alone = [...values].filter(([level]) => level.endsWith(ALONE)).map(([, value]) => value);
    const shown = [...values].filter(([level]) => !level.endsWith(ALONE));
    const levels = shown.map(([level, value]) => ({
      level,
      value,
      ratio: value / (values.get(level + ALONE) ?? shown[0]![1]),
    }));
    return {
      name,
      unit: figures[0]!.unit,
      alone: alone.length > 0 ? spreadOf(alone).median : undefined,
      levels,
      grows: ![AT_REST, ABOUT].some((what) => name.endsWith(what)) &&
        levels.some(({ ratio }) => ratio > MAX_GROWTH),
    };
  });
}

/** The costs side by side, with their ratios to what they are without more of it, and which of them grow. */
export function growthTable(title: string, figures: readonly Figure[]): string {
  const curves = curvesOf(figures);
  const lines = [title];
  for (const [series, group] of Map.groupBy(curves, ({ name }) => name.split(": ")[0]!)) {
    const rows = group.map(({ name, unit, alone, levels }) => [
      `${name.slice(series.length + 2)}, ${unit}`,
      ...(alone === undefined ? [] : [alone.toFixed(2)]),
      ...levels.map(({ value, ratio }) => `${value.toFixed(2)} (${ratio.toFixed(2)})`),
    ]);
    const [{ alone, levels }] = group as [Curve];
    const heads = [...(alone === undefined ? [] : ["alone"]), ...levels.map(({ level }) => level)];
    lines.push("", alignColumns([[series, ...heads], ...rows]));
  }
  const growing = curves.filter(({ grows }) => grows);
  if (growing.length > 0) lines.push("");
  for (const { name, levels } of growing) {
    const most = levels.reduce((most, level) => level.ratio > most.ratio ? level : most);
    lines.push(`not flat: ${name}, ${most.ratio.toFixed(2)} times at ${most.level}`);
  }
  return lines.join("\n");
}
