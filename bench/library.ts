// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** An agent on the binding beside one on Deno's own QUIC, in turns: bytes, CPU, requests, and a long path. */
import { UdpRelay } from "../tests/support/udp_relay.ts";
import type { Flags } from "../tools/project_program.ts";
import { type Load, measureLoads } from "./bulk.ts";
import { quiet } from "./cpu.ts";
import { getMany } from "./gets.ts";
import { projectProgram } from "./program.ts";
import type { Bench } from "./row.ts";
import { percentile } from "./statistics.ts";
import { transfer } from "./transfer.ts";
import { startTunnel, through } from "./tunnels.ts";

const RUNS = 3;
const COUNT = 300;
const loads: readonly Load[] = [["down", 1], ["up", 1], ["down", 8]];

/** Both have datagrams of a path of 1500, as Deno's do not get larger. */
const MTU = { mtu: "1500" };
const libraries: Readonly<Record<string, Flags>> = {
  binding: MTU,
  deno: { "quic-library": "deno" },
};

/** One way, of the long path. */
const DELAY_MS = 50;
const LONG_BYTES = 20e6;
/** UDP payload of a path of 1500. */
const MAX_DATAGRAM_BYTES = 1472;
const LONG_LIMIT_MS = 15_000;

export async function measureLibrary(bench: Bench): Promise<void> {
  const { certificates, origin, isShort, figures, signal } = bench;
  await using started = new AsyncDisposableStack();
  const start = (flags: Flags, via = (server: string) => server) =>
    startTunnel({
      certificates,
      signal,
      serverFlags: MTU,
      startAgent: (own) =>
        projectProgram("agent", { ...own, ...flags, server: via(`${own["server"]}`) }),
    });
  const subjects = [];
  for (const [id, flags] of Object.entries(libraries)) {
    const tunnel = started.use(await start(flags));
    const way = through(tunnel, origin);
    const pids = [tunnel.server.pid, tunnel.agent.pid];
    const bytes = isShort ? 50e6 : 100e6;
    subjects.push({ id, name: `library ${id}`, bytes, loads, way, pids, isForeign: false });
  }
  for (const { way } of subjects) await getMany(way, COUNT / 3, signal);
  for (let run = 0; run < (isShort ? 1 : RUNS); run++) {
    if (!await quiet()) bench.note(`library: the machine was busy in run ${run + 1}`);
    for (const subject of subjects) await measureLoads(subject, bench, "library");
    for (const { id, name, way } of subjects) {
      const p50 = percentile(await getMany(way, COUNT, signal), 50);
      figures.add({ id: `library/${id}/get`, name: `${name}, GET p50`, unit: "ms" }, p50);
    }
    for (const [id, flags] of Object.entries(libraries)) {
      for (const direction of ["down", "up"] as const) {
        await using long = new AsyncDisposableStack();
        const tunnel = long.use(
          await start(flags, (server) => {
            const [hostname, port] = server.split(":");
            const peer = { hostname: hostname!, port: Number(port) };
            const relay = new UdpRelay(peer, { delayMs: DELAY_MS, maxBytes: MAX_DATAGRAM_BYTES });
            return `${relay.addr.hostname}:${long.use(relay).addr.port}`;
          }),
        );
        const way = through(tunnel, origin);
        const options = { way, direction, bytes: LONG_BYTES, timeLimitMs: LONG_LIMIT_MS, signal };
        const { bytes, seconds } = await transfer(options);
        const name = `library ${id}, 1 ${direction} at ${2 * DELAY_MS} ms`;
        figures.add(
          { id: `library/${id}/long/${direction}`, name, unit: "MB/s" },
          bytes / 1e6 / seconds,
        );
      }
    }
  }
}
