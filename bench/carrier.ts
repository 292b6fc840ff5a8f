// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A tunnel over TCP, which takes the place of UDP where that is blocked, beside one over UDP and two relays with TLS
 * between them, in turns.
 */
import { type Load, measureLoads, type Subject } from "./bulk.ts";
import { quiet } from "./cpu.ts";
import { getMany } from "./gets.ts";
import { type Program, projectProgram } from "./program.ts";
import type { Bench } from "./row.ts";
import { percentile } from "./statistics.ts";
import { type Passage, startRelays, startTunnel, through } from "./tunnels.ts";

const RUNS = 3;
const COUNT = 300;
const loads: readonly Load[] = [["down", 1], ["up", 1], ["down", 8]];

export async function measureCarrier(bench: Bench): Promise<void> {
  const { certificates, origin, isShort, figures, signal } = bench;
  await using started = new AsyncDisposableStack();
  const subjects: Subject[] = [];
  const add = async (id: string, name: string, passage: Passage, programs: readonly Program[]) => {
    const way = through(passage, origin);
    const pids = programs.map(({ pid }) => pid);
    const bytes = isShort ? 100e6 : 200e6;
    subjects.push({ id, name, bytes, loads, way, pids, isForeign: false });
    await getMany(way, COUNT / 3, signal);
  };
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
    const { server, agent } = tunnel;
    await add(transport, `over ${transport.toUpperCase()}`, tunnel, [server, agent]);
  }
  const relays = started.use(await startRelays(signal, undefined, certificates));
  await add("relays", "two relays with TLS", relays, relays.programs);
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
