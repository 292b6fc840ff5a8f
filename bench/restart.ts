// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long clients are not served when the server is started anew, and how long a program takes to its first line. */
import { delay } from "@std/async/delay";
import { programTasks } from "../tools/project_program.ts";
import { flagsOf, interpreted, timeToFirstLine } from "./first_line.ts";
import { get } from "./http_client.ts";
import type { Bench } from "./row.ts";
import { type ServerProgram, startServer, startTunnel, through } from "./tunnels.ts";
import type { Way } from "./way.ts";

/** A client is served again within this time. */
const TIMEOUT_MS = 30_000;
/** Between two clients, none of which was served. */
const RETRY_MS = 10;

export async function measureRestart(bench: Bench): Promise<void> {
  for (let run = 0; run < (bench.isShort ? 1 : 5); run++) {
    await restart(bench, "stopped", "server stopped");
  }
  // It takes the agent the idle timeout to notice.
  for (let run = 0; run < (bench.isShort ? 0 : 2); run++) {
    await restart(bench, "killed", "server killed");
  }
  for (let run = 0; run < (bench.isShort ? 3 : 7); run++) {
    for (const name of programTasks) {
      const ms = await timeToFirstLine(interpreted(name), flagsOf(name, bench.certificates));
      const figure = {
        id: `restart/start/${name}`,
        name: `${name}, start to first line`,
        unit: "ms",
      };
      bench.figures.add(figure, ms);
    }
  }
}

async function restart(
  { certificates, origin, figures, signal }: Bench,
  how: "stopped" | "killed",
  name: string,
): Promise<void> {
  await using tunnel = await startTunnel({ certificates, signal });
  const way = through(tunnel, origin);
  await get(way);
  const since = performance.now();
  if (how === "killed") await tunnel.server.end("SIGKILL", 0);
  else await tunnel.server[Symbol.asyncDispose]();
  const stopped = performance.now();
  await using started = new AsyncDisposableStack();
  const again: ServerProgram = await startServer({ certificates, signal, ports: tunnel.ports });
  started.use(again.program);
  await served(way, signal);
  const figure = (id: string, what: string) => ({
    id: `restart/${how}/${id}`,
    name: `${name}, ${what}`,
    unit: "ms",
  });
  figures.add(figure("stop", "until it has ended"), stopped - since);
  figures.add(figure("served", "new one's start to first client"), performance.now() - stopped);
}

/** Waits until a client is served. */
async function served(way: Way, signal: AbortSignal): Promise<void> {
  const giveUpAt = performance.now() + TIMEOUT_MS;
  for (;;) {
    try {
      await get(way);
      return;
    } catch (error) {
      signal.throwIfAborted();
      if (performance.now() > giveUpAt) throw error;
    }
    await delay(RETRY_MS);
  }
}
