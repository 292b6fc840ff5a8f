// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How evenly tunnels share what there is: those of one agent, and those of two. */
import type { Flags } from "../tools/project_program.ts";
import type { Bench } from "./row.ts";
import { type Direction, transfer } from "./transfer.ts";
import { type Passage, startAgent, startTunnel, through } from "./tunnels.ts";
import type { Way } from "./way.ts";

/** Time that all of them have. */
const TIME_MS = 1_000;
/** More than any of them gets through meanwhile. */
const BYTES = 1e9;

const pairs = [["down", 2], ["up", 2]] as const;
const pairsAndMore = [...pairs, ["down", 8], ["up", 8]] as const;

interface Subject {
  readonly id: string;
  readonly name: string;
  readonly way: Way;
  readonly loads: readonly (readonly [Direction, number])[];
}

export async function measureFairness(bench: Bench): Promise<void> {
  const { certificates, isShort, origin, figures, signal } = bench;
  await using started = new AsyncDisposableStack();
  const start = async (flags: Flags = {}) =>
    started.use(await startTunnel({ certificates, signal, flags }));
  const subjects: Subject[] = [];
  const add = (id: string, name: string, loads: Subject["loads"], passage: Passage) =>
    subjects.push({ id, name, loads, way: through(passage, origin) });
  add("tunnels/auto", "loopback's size", pairsAndMore, await start());
  add("tunnels/1500", "path of 1500", pairsAndMore, await start({ mtu: "1500" }));
  const shared = await start();
  started.use(await startAgent({ certificates, signal }, shared.ports));
  // The server gives each agent one of them: it takes the one with the fewest.
  add("agents", "of two agents", pairs, shared);
  for (let run = 0; run < (isShort ? 1 : 3); run++) {
    for (const { id, name, way, loads } of subjects) {
      for (const [direction, count] of loads) {
        const figure = {
          id: `fairness/${id}/${direction}/${count}`,
          name: `most / least, ${name}, ${count} ${direction}`,
          unit: "",
        };
        figures.add(figure, await mostOverLeast(way, direction, count, signal));
      }
    }
  }
}

/** The bytes of the transfer that got the most in a time, as a multiple of what the one with the fewest got. */
async function mostOverLeast(
  way: Way,
  direction: Direction,
  count: number,
  signal: AbortSignal,
): Promise<number> {
  const options = { way, direction, bytes: BYTES, timeLimitMs: TIME_MS, signal };
  const moved = await Promise.all(Array.from({ length: count }, () => transfer(options)));
  const bytes = moved.map(({ bytes }) => bytes);
  return Math.max(...bytes) / Math.min(...bytes);
}
