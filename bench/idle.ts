// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What CPU time the programs take while nobody uses them. */
import { delay } from "@std/async/delay";
import { cpuTimes } from "./cpu.ts";
import type { Bench } from "./row.ts";
import { startTunnel } from "./tunnels.ts";

/** Until they are done with their start. */
const SETTLE_MS = 2_000;
/** CPU time is counted in 10 ms. */
const LOOK_MS = { full: 20_000, short: 10_000 };

export async function measureIdle(
  { certificates, isShort, figures, note, signal }: Bench,
): Promise<void> {
  await using tunnel = await startTunnel({ certificates, signal });
  await delay(SETTLE_MS);
  const pids = [tunnel.server.pid, tunnel.agent.pid];
  const since = performance.now();
  const before = await cpuTimes(pids);
  await delay(isShort ? LOOK_MS.short : LOOK_MS.full);
  const after = await cpuTimes(pids);
  const seconds = (performance.now() - since) / 1_000;
  if (!before || !after) return note("idle: not measured without /proc");
  for (const [i, end] of ["server", "agent"].entries()) {
    const used = after.processes[i]! - before.processes[i]!;
    const figure = { id: `idle/${end}`, name: `${end} with nothing to do`, unit: "% CPU" };
    figures.add(figure, used / seconds * 100);
  }
}
