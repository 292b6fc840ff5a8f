// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A tunnel over TCP, which takes the place of UDP where that is blocked, beside one over UDP, in turns. */
import { type Load, measureLoads } from "./bulk.ts";
import { quiet } from "./cpu.ts";
import { getMany } from "./gets.ts";
import { projectProgram } from "./program.ts";
import type { Bench } from "./row.ts";
import { percentile } from "./statistics.ts";
import { startTunnel, through } from "./tunnels.ts";

const RUNS = 3;
const COUNT = 300;
const loads: readonly Load[] = [["down", 1], ["up", 1], ["down", 8]];

export async function measureCarrier(bench: Bench): Promise<void> {
  const { certificates, origin, isShort, figures, signal } = bench;
  await using started = new AsyncDisposableStack();
  const subjects = [];
  for (const transport of ["udp", "tcp"]) {
    const fallback = `127.0.0.1:${freePort()}`;
    const tunnel = started.use(
      await startTunnel({
        certificates,
        signal,
        serverFlags: { "listen-fallback": fallback },
        startAgent: (flags) => projectProgram("agent", { ...flags, transport, fallback }),
      }),
    );
    const way = through(tunnel, origin);
    const pids = [tunnel.server.pid, tunnel.agent.pid];
    const name = `over ${transport.toUpperCase()}`;
    const bytes = isShort ? 100e6 : 200e6;
    subjects.push({ id: transport, name, bytes, loads, way, pids, isForeign: false });
    await getMany(way, COUNT / 3, signal);
  }
  for (let run = 0; run < (isShort ? 1 : RUNS); run++) {
    if (!await quiet()) bench.note(`carrier: the machine was busy in run ${run + 1}`);
    for (const subject of subjects) await measureLoads(subject, bench, "carrier");
    for (const { id, name, way } of subjects) {
      const times = await getMany(way, COUNT, signal);
      for (const percent of [50, 99]) {
        const figure = { id: `carrier/${id}/p${percent}`, name: `${name}, GET p${percent}` };
        figures.add({ ...figure, unit: "ms" }, percentile(times, percent));
      }
    }
  }
}

/** The number of a port that nothing listens on. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}
