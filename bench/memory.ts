// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How much memory the programs take: at rest, with many idle tunnels, and after much work. */
import { delay } from "@std/async/delay";
import { lookAt } from "../tools/process_look.ts";
import { get } from "./http_client.ts";
import { inBatches, withinFiles } from "./many.ts";
import { Attempts } from "./peers.ts";
import { benchProgram, type Program } from "./program.ts";
import type { Bench } from "./row.ts";
import { transferMany } from "./transfer.ts";
import { startTunnel, through, type Tunnel } from "./tunnels.ts";
import { openWay, type Way } from "./way.ts";

/** As many as an agent takes, or fewer. */
const TUNNELS = { full: 10_000, short: 1_000 };

/** Until a program has settled. */
const SETTLE_MS = 1_500;

/** Until the garbage collector, which waits for idle programs, has done its work. */
const REST_MS = { full: 30_000, short: 15_000 };

/** What the loaded tunnel carries, within a time. */
const LOAD_BYTES = { full: 10e9, short: 0.5e9 };
const LOAD_MS = 30_000;
const ROUND_BYTES = 250e6;
const SIMULTANEOUS = 8;

const ends = ["server", "agent"] as const;

export async function measureMemory(bench: Bench): Promise<void> {
  if (Deno.build.os !== "linux") return bench.note("memory: not measured without /proc");
  const { certificates, origin, isShort, peers, signal } = bench;
  await using tunnel = await startTunnel({ certificates, signal });
  const attempts = new Attempts(bench);
  const loaded: { readonly name: string; readonly pids: readonly number[] }[] = [];
  for (const peer of peers.filter(({ isForeign, pids }) => isForeign && pids.length > 0)) {
    await attempts.by(peer, async () => {
      await carryMuch(bench, peer.way);
      loaded.push(peer);
    });
  }
  const load = await carryMuch(bench, through(tunnel, origin));
  const loadedAt = performance.now();
  await delay(SETTLE_MS);
  await record(bench, tunnel, "busy", `after ${load}`);
  await measureEmpty(bench);
  await measureIdle(bench);
  const restMs = isShort ? REST_MS.short : REST_MS.full;
  await delay(Math.max(0, loadedAt + restMs - performance.now()));
  await record(bench, tunnel, "loaded", `${restMs / 1_000} s after ${load}`);
  for (const { name: peer, pids } of loaded) {
    for (const [i, pid] of pids.entries()) {
      const name = `${peer}, process ${i + 1}, after the same`;
      bench.figures.add({ id: `memory/${peer}/${i + 1}`, name, unit: "MiB" }, await rssOf({ pid }));
    }
  }
}

async function measureEmpty({ figures, signal }: Bench): Promise<void> {
  await using program = benchProgram("empty.ts");
  await program.said(/started/, signal);
  await delay(SETTLE_MS);
  const figure = { id: "memory/empty", name: "an empty Deno program", unit: "MiB" };
  figures.add(figure, await rssOf(program));
}

async function measureIdle(bench: Bench): Promise<void> {
  const { certificates, origin, isShort, figures, signal } = bench;
  await using tunnel = await startTunnel({ certificates, signal });
  await delay(SETTLE_MS);
  const rest = await record(bench, tunnel, "rest", "at rest");
  const wanted = isShort ? TUNNELS.short : TUNNELS.full;
  const { count, files } = await withinFiles(wanted);
  if (count < wanted) {
    bench.note(`memory: the limit of ${files} open files allows ${count} idle tunnels`);
  }
  using opened = new DisposableStack();
  const way = through(tunnel, origin);
  await inBatches(count, signal, async () => {
    opened.use(await openWay(way));
  });
  await delay(SETTLE_MS);
  const idle = await record(bench, tunnel, "idle", `with ${count} idle tunnels`);
  for (const end of ends) {
    figures.add(
      { id: `memory/each/${end}`, name: `${end}, for each of them`, unit: "KiB" },
      (idle[end] - rest[end]) * 1024 / count,
    );
  }
}

/** Has programs work; returns what they did, in words. */
async function carryMuch({ isShort, signal }: Bench, way: Way): Promise<string> {
  const wanted = isShort ? LOAD_BYTES.short : LOAD_BYTES.full;
  const since = performance.now();
  let bytes = 0;
  while (bytes < wanted && performance.now() - since < LOAD_MS) {
    await transferMany(SIMULTANEOUS, { way, bytes: ROUND_BYTES / SIMULTANEOUS, signal });
    bytes += ROUND_BYTES;
  }
  const tunnels = isShort ? TUNNELS.short : TUNNELS.full;
  await inBatches(tunnels, signal, () => askOnce(way));
  return `${bytes / 1e9} GB, ${tunnels} tunnels`;
}

async function askOnce(way: Way): Promise<void> {
  await get(way);
}

async function record(
  { figures }: Bench,
  tunnel: Tunnel,
  id: string,
  name: string,
): Promise<Record<typeof ends[number], number>> {
  const rss = { server: await rssOf(tunnel.server), agent: await rssOf(tunnel.agent) };
  for (const end of ends) {
    figures.add({ id: `memory/${id}/${end}`, name: `${end} ${name}`, unit: "MiB" }, rss[end]);
  }
  return rss;
}

/** Resident memory, in MiB. */
async function rssOf({ pid }: Pick<Program, "pid">): Promise<number> {
  const look = (await lookAt([pid])).get(pid);
  if (!look) throw new Error(`cannot read the memory of process ${pid}`);
  return look.rssKib / 1024;
}
