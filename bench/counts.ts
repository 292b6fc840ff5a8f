// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What one tunnel takes, from the client's connection to its end: datagrams, system calls, and what JavaScript makes,
 * which depend on no machine; and CPU time, beside that of two relays.
 *
 * Each tunnel carries a CONNECT request, a small GET and its answer, and ends; one follows another.
 */
import { delay } from "@std/async/delay";
import { messageOf } from "../lib/errors.ts";
import { programArguments } from "../tools/project_program.ts";
import type { Counted } from "./counted.ts";
import { cpuTimes } from "./cpu.ts";
import { getMany } from "./gets.ts";
import { Attempts, type Peer, subjectsOf } from "./peers.ts";
import { Program } from "./program.ts";
import type { Bench } from "./row.ts";
import { CallCounter } from "./system_calls.ts";
import { startRelays, startTunnel, through } from "./tunnels.ts";

const WARM_UP = 200;
/** Of a round. */
const TUNNELS = { full: 1_000, short: 500 };
const ROUNDS = { full: 5, short: 2 };
/** While something counts, which makes them slow. */
const COUNTED_TUNNELS = 200;
/** System calls that are rarer than this for a tunnel are not shown. */
const RARE = 0.1;
/** Until the last tunnel is at its end everywhere. */
const SETTLE_MS = 300;

/** MiB that V8 fills before it collects garbage: more than what is counted makes. */
const HEAP_MIB = 256;

const ends = ["server", "agent"] as const;

type Subject = Peer & { readonly columns: readonly string[] };

/** The columns of its table. */
export const countColumns = [...ends, "relay 1", "relay 2"];

export async function measureCounts(bench: Bench): Promise<void> {
  const { certificates, isShort, signal } = bench;
  await using tunnel = await startTunnel({ certificates, signal });
  const subjects = subjectsOf(bench, tunnel).filter(({ pids }) => pids.length > 0)
    .map((subject): Subject => ({ ...subject, columns: columnsOf(subject) }));
  const attempts = new Attempts(bench);
  for (const subject of subjects) {
    await attempts.by(subject, async () => void await getMany(subject.way, WARM_UP, signal));
  }
  for (let round = 0; round < (isShort ? ROUNDS.short : ROUNDS.full); round++) {
    for (const subject of subjects) {
      await attempts.by(subject, () => measureCpu(bench, subject));
    }
  }
  await countDatagrams(bench);
  await countAllCalls(bench, subjects);
  await countObjects(bench);
}

function columnsOf({ id, pids }: Peer): readonly string[] {
  if (id === "tunnel") return ends;
  const name = id === "relays" ? "relay" : id;
  return pids.map((_, i) => `${name} ${i + 1}`);
}

/** Records what each of some tunnels takes. */
function record(
  { figures }: Bench,
  what: string,
  unit: string,
  column: string,
  value: number,
): void {
  figures.add({ id: `counts/${what}/${column}`, name: what, unit }, value);
}

async function measureCpu(bench: Bench, { way, pids, columns }: Subject): Promise<void> {
  const count = bench.isShort ? TUNNELS.short : TUNNELS.full;
  const before = await cpuTimes(pids);
  await getMany(way, count, bench.signal);
  const after = await cpuTimes(pids);
  if (!before || !after) return;
  for (const [i, column] of columns.entries()) {
    const seconds = after.processes[i]! - before.processes[i]!;
    record(bench, "CPU time", "ms", column, seconds * 1_000 / count);
  }
}

/** By the programs' own metrics: QUIC packets, each of which is a datagram once there is a connection. */
async function countDatagrams(bench: Bench): Promise<void> {
  const { certificates, origin, signal } = bench;
  const flags = { "listen-admin": "127.0.0.1:0" };
  await using tunnel = await startTunnel({ certificates, signal, flags });
  const way = through(tunnel, origin);
  await getMany(way, WARM_UP, signal);
  const look = () => Promise.all(ends.map((end) => packetsOf(tunnel[end], signal)));
  await delay(SETTLE_MS);
  const before = await look();
  await getMany(way, COUNTED_TUNNELS, signal);
  await delay(SETTLE_MS);
  const after = await look();
  for (const [i, end] of ends.entries()) {
    for (const way of ["sent", "received"] as const) {
      const each = (after[i]![way] - before[i]![way]) / COUNTED_TUNNELS;
      record(bench, `datagrams ${way}`, "", end, each);
    }
  }
}

async function packetsOf(program: Program, signal: AbortSignal) {
  const [, address] = await program.said(/admin listener on ([\d.:]+)/, signal);
  const metrics = await (await fetch(`http://${address}/metrics`, { signal })).text();
  const value = (name: string) =>
    Number(new RegExp(`_quic_${name}_packets_total\\{.*\\} (\\d+)`).exec(metrics)?.[1]);
  return { sent: value("sent"), received: value("received") };
}

async function countAllCalls(bench: Bench, subjects: readonly Subject[]): Promise<void> {
  const { signal, note } = bench;
  const attempts = new Attempts(bench);
  for (const subject of subjects) {
    await using attached = new AsyncDisposableStack();
    const counters: CallCounter[] = [];
    try {
      for (const pid of subject.pids) {
        counters.push(attached.use(await CallCounter.attach(pid, signal)));
      }
    } catch (error) {
      signal.throwIfAborted();
      const problem = messageOf(error).replace(/\s*\n\s*/g, " ");
      return note(`counts: strace does not count the system calls here: ${problem}`);
    }
    await attempts.by(subject, () => countCalls(bench, subject, counters));
  }
}

async function countCalls(
  bench: Bench,
  { way, columns }: Subject,
  counters: readonly CallCounter[],
): Promise<void> {
  const { signal } = bench;
  await getMany(way, COUNTED_TUNNELS, signal);
  await delay(SETTLE_MS);
  for (const [i, counter] of counters.entries()) {
    for (const { name, calls, errors } of await counter.end()) {
      const [each, failed] = [calls / COUNTED_TUNNELS, errors / COUNTED_TUNNELS];
      if (each >= RARE) record(bench, name, "", columns[i]!, each);
      if (failed >= RARE) record(bench, `${name} in vain`, "", columns[i]!, failed);
    }
  }
}

/** In programs of their own, as counting takes time. */
async function countObjects(bench: Bench): Promise<void> {
  const { certificates, origin, signal } = bench;
  await using relays = await startRelays(
    signal,
    (args) => counting("relay", ["run", "--allow-net", "bench/relay.ts", ...args]),
  );
  await using tunnel = await startTunnel({
    certificates,
    signal,
    startServer: (flags) => counting("server", programArguments("server", flags)),
    startAgent: (flags) => counting("agent", programArguments("agent", flags)),
  });
  const programs = [tunnel.server, tunnel.agent, ...relays.programs];
  const ways = [tunnel, relays].map((passage) => through(passage, origin));
  for (const way of ways) await getMany(way, WARM_UP, signal);
  let looks = 0;
  const look = async () => {
    await delay(SETTLE_MS);
    looks++;
    return await Promise.all(programs.map(async (program): Promise<Counted> => {
      program.kill("SIGWINCH");
      const [, counted] = await program.said(new RegExp(`counted ${looks} (.*)`), signal);
      return JSON.parse(counted!);
    }));
  };
  const before = await look();
  for (const way of ways) await getMany(way, COUNTED_TUNNELS, signal);
  const after = await look();
  for (const [i, column] of countColumns.entries()) {
    const each = (name: keyof Counted) => (after[i]![name] - before[i]![name]) / COUNTED_TUNNELS;
    record(bench, "timers made", "", column, each("timers"));
    record(bench, "promises made", "", column, each("promises"));
    record(bench, "heap taken", "KiB", column, each("heapBytes") / 1024);
  }
}

/** Starts a program with {@linkcode Counted} in it, and room in its heap for all that it makes meanwhile. */
function counting(name: string, [run, ...args]: readonly string[]): Program {
  const heap = ["min", "max"].map((end) => `--${end}-semi-space-size=${HEAP_MIB}`);
  const rest = args.filter((word) => !word.startsWith("--v8-flags"));
  return new Program(name, [run!, `--v8-flags=${heap}`, "--preload=bench/counted.ts", ...rest]);
}
