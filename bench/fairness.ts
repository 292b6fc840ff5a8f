// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How evenly tunnels share what there is: those of one agent, and those of two. */
import { type Flags, hasFlag, projectProgram } from "./program.ts";
import type { Bench } from "./row.ts";
import { type Direction, transfer } from "./transfer.ts";
import { startAgent, startTunnel, through, type Tunnel } from "./tunnels.ts";
import type { Way } from "./way.ts";

/** Time that all of them have. */
const TIME_MS = 1_000;
/** More than any of them gets through meanwhile. */
const BYTES = 1e9;
const COUNTS = [2, 8];

interface Subject {
  readonly id: string;
  readonly name: string;
  readonly way: Way;
  /** Tunnels at a time. */
  readonly counts: readonly number[];
}

export async function measureFairness(bench: Bench): Promise<void> {
  const { isShort, origin, figures, signal } = bench;
  await using started = new AsyncDisposableStack();
  const tunnel = async (flags: Flags) => started.use(await start(bench, flags));
  const ofOne = (id: string, name: string, passage: Tunnel): Subject => (
    { id: `tunnels/${id}`, name, way: through(passage, origin.transfers), counts: COUNTS }
  );
  const subjects = [ofOne("auto", "loopback's size", await tunnel({}))];
  if (await hasFlag("server", "mtu")) {
    subjects.push(ofOne("1500", "path of 1500", await tunnel({ mtu: "1500" })));
  }
  const shared = await tunnel({});
  started.use(await startAgent(bench, shared.ports));
  // The server gives each agent one of them: it takes the one with the fewest.
  const way = through(shared, origin.transfers);
  subjects.push({ id: "agents", name: "of two agents", way, counts: [2] });
  for (let run = 0; run < (isShort ? 1 : 3); run++) {
    for (const { id, name, way, counts } of subjects) {
      for (const count of counts) {
        for (const direction of ["down", "up"] as const) {
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
}

function start({ certificates, signal }: Bench, flags: Flags): Promise<Tunnel> {
  return startTunnel({
    certificates,
    signal,
    startServer: (own) => projectProgram("server", { ...own, ...flags }),
    startAgent: (own) => projectProgram("agent", { ...own, ...flags }),
  });
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
