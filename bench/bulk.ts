// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * How fast bytes get through tunnels of all kinds, and without one, in turns, so that whatever else the machine does hits
 * all alike.
 */
import { cpuTimes, quiet } from "./cpu.ts";
import type { CpuPerGb } from "./figures.ts";
import { flagArguments, type Flags } from "../tools/project_program.ts";
import { Attempts } from "./peers.ts";
import { benchProgram, projectProgram } from "./program.ts";
import type { Bench } from "./row.ts";
import { type Direction, transferMany } from "./transfer.ts";
import { startTunnel, through, type Tunnel, type TunnelOptions } from "./tunnels.ts";
import { straight, type Way } from "./way.ts";

/** At most, and at least; no run but the first of them is started after this time. */
const RUNS = { most: 5, least: 3, startedWithinMs: 45_000 };
const SHORT_RUNS = { most: 3, least: 2, startedWithinMs: 8_000 };

/** Of a run, the part that is moved once before any. */
const WARM_UP = 0.2;

/** Transfers at once, and which way they go. */
export type Load = readonly [Direction, number];

/** What bytes are moved through. */
export interface Subject {
  readonly id: string;
  readonly name: string;
  /** Bytes of a run, all tunnels of it together. */
  readonly bytes: number;
  readonly loads: readonly Load[];
  readonly way: Way;
  /** Processes in the place of the server, and of the agent. */
  readonly pids: readonly number[];
  /** Whether it is allowed to fail. */
  readonly isForeign: boolean;
}

const everyLoad = [["down", 1], ["up", 1], ["down", 8], ["up", 8]] as const;

/** UDP payloads in memory, and what they are called. */
const inMemory = { 1350: "in memory, 1350 bytes", 16376: "in memory, 16376 bytes" };

export async function measureBulk(bench: Bench): Promise<void> {
  const { certificates, origin, peers, isShort, signal } = bench;
  const bytes = isShort ? 100e6 : 200e6;
  await using started = new AsyncDisposableStack();
  const tunnel = async (options: Partial<TunnelOptions> = {}) =>
    started.use(await startTunnel({ certificates, signal, ...options }));
  const project = (flags: Flags, isPortable = false) =>
    tunnel({
      flags,
      startServer: (own) => projectProgram("server", own, { isPortable }),
      startAgent: (own) => projectProgram("agent", own, { isPortable }),
    });
  const subjects: Subject[] = [];
  const add = (
    { tunnel, ...rest }: Partial<Subject> & Pick<Subject, "id" | "name" | "loads"> & {
      readonly tunnel?: Tunnel;
    },
  ) => {
    const way = tunnel ? through(tunnel, origin) : straight(origin);
    const pids = tunnel ? [tunnel.server.pid, tunnel.agent.pid] : [];
    subjects.push({ bytes, way, pids, isForeign: false, ...rest });
  };
  add({ id: "direct", name: "no tunnel", loads: everyLoad });
  for (const peer of peers) add({ ...peer, loads: everyLoad });
  add({
    id: "1500",
    name: "tunnel, path of 1500",
    // It takes longer than with large ones.
    bytes: bytes / 2,
    loads: everyLoad,
    tunnel: await project({ mtu: "1500" }),
  });
  add({ id: "auto", name: "tunnel, loopback's size", loads: everyLoad, tunnel: await project({}) });
  add({
    id: "portable",
    name: "tunnel, portable path",
    bytes: bytes / 2,
    loads: [["down", 1], ["up", 1]],
    tunnel: await project({}, true),
  });
  const binding = await tunnel({
    startServer: (flags) => benchProgram("binding_server.ts", flagArguments(flags)),
    startAgent: (flags) =>
      benchProgram(
        "binding_agent.ts",
        flagArguments({ ...flags, upstream: `127.0.0.1:${origin}` }),
      ),
  });
  add({
    id: "binding",
    name: "tunnel of the binding's classes",
    // With more they are no faster.
    bytes: isShort ? 2e6 : 5e6,
    loads: [["down", 1]],
    tunnel: binding,
    way: straight(binding.ports.tcp),
    isForeign: true,
  });
  const attempts = new Attempts(bench);
  for (const subject of subjects) {
    await attempts.by(subject, async () => {
      await move(subject, "down", 1, subject.bytes * WARM_UP, signal);
    });
  }
  const runs = isShort ? SHORT_RUNS : RUNS;
  const since = performance.now();
  for (let run = 0; run < runs.most; run++) {
    if (run >= runs.least && performance.now() - since > runs.startedWithinMs) break;
    if (!await quiet()) bench.note(`bulk: the machine was busy in run ${run + 1}`);
    for (const [size, name] of Object.entries(inMemory)) {
      bench.figures.add(
        { id: `bulk/memory/${size}`, name, unit: "MB/s" },
        await limit(size, bench),
      );
    }
    for (const subject of subjects) {
      await attempts.by(subject, () => measureLoads(subject, bench, "bulk"));
    }
  }
}

/** Measures each of its loads once. @param row what the figures belong to */
export async function measureLoads(
  subject: Subject,
  { figures, signal }: Bench,
  row: string,
): Promise<void> {
  const { id, name, bytes, loads, pids } = subject;
  for (const [direction, count] of loads) {
    const before = await cpuTimes(pids);
    // As many more bytes for many tunnels that they have something to share.
    const amount = count === 1 ? bytes : bytes * 2;
    const seconds = await move(subject, direction, count, amount, signal);
    const after = await cpuTimes(pids);
    let cpu: CpuPerGb | undefined;
    if (before && after && pids.length > 0) {
      const [server, agent] = after.processes.map((end, i) => end - before.processes[i]!);
      const perGb = (seconds: number) => seconds / (amount / 1e9);
      cpu = {
        server: perGb(server!),
        ...(agent === undefined ? {} : { agent: perGb(agent) }),
      };
    }
    figures.add(
      {
        id: `${row}/${id}/${direction}/${count}`,
        name: `${name}, ${count} ${direction}`,
        unit: "MB/s",
      },
      amount / 1e6 / seconds,
      cpu,
    );
  }
}

function move(
  { way }: Subject,
  direction: Direction,
  count: number,
  bytes: number,
  signal: AbortSignal,
): Promise<number> {
  return transferMany(count, { way, direction, bytes: bytes / count, signal });
}

/** MB/s of the binding in memory. */
async function limit(size: string, { certificates, isShort, signal }: Bench): Promise<number> {
  const bytes = isShort ? 40e6 : 100e6;
  await using program = benchProgram("in_memory.ts", [certificates, size, bytes.toFixed()]);
  return Number((await program.said(/moved ([\d.]+) MB\/s/, signal))[1]);
}
