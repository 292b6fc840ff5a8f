// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long small requests on new connections take, one after the other, also with much else under way. */
import { delay } from "@std/async/delay";
import { get } from "./http_client.ts";
import type { Load } from "./load.ts";
import { Attempts, subjectsOf } from "./peers.ts";
import { benchProgram } from "./program.ts";
import type { Bench } from "./row.ts";
import { percentile } from "./statistics.ts";
import { startOrigin, startTunnel } from "./tunnels.ts";
import type { Way } from "./way.ts";

const COUNT = 500;
const LOADED_COUNT = 200;
const WARM_UP = 100;

/** What goes on beside them. */
const TRANSFERS = 8;
const TRANSFER_BYTES = 50e6;
const LOADED_MS = 20_000;
/** Until they are all at full speed. */
const RAMP_MS = 500;

export async function measureGets(bench: Bench): Promise<void> {
  const { certificates, isShort, figures, signal } = bench;
  await using tunnel = await startTunnel({ certificates, signal });
  const subjects = subjectsOf(bench, tunnel);
  const attempts = new Attempts(bench);
  const record = (id: string, name: string, times: readonly number[]) => {
    for (const percent of [50, 99]) {
      const figure = { id: `gets/${id}/p${percent}`, name: `${name}, p${percent}`, unit: "ms" };
      figures.add(figure, percentile(times, percent));
    }
  };
  for (const subject of subjects) {
    await attempts.by(subject, async () => void await getMany(subject.way, WARM_UP, signal));
  }
  for (let run = 0; run < (isShort ? 1 : 5); run++) {
    for (const subject of subjects) {
      await attempts.by(subject, async () => {
        record(subject.id, subject.name, await getMany(subject.way, COUNT, signal));
      });
    }
  }
  // Of its own, so that its work delays no answer.
  await using other = await startOrigin(signal);
  // Others may connect all clients to one origin.
  const loaded = subjects.filter(({ way, isForeign }) => way.target !== undefined && !isForeign);
  for (let run = 0; run < (isShort ? 1 : 3); run++) {
    for (const { id, name, way } of loaded) {
      const load = {
        way: { ...way, target: `127.0.0.1:${other.port}` },
        transfers: TRANSFERS,
        bytes: TRANSFER_BYTES,
      };
      const times = await beside(load, way, bench);
      record(`loaded/${id}`, `${name}, ${TRANSFERS} transfers beside it`, times);
    }
  }
}

/** Times of requests in milliseconds, one after the other, for some time at most. */
export async function getMany(
  way: Way,
  count: number,
  signal: AbortSignal,
  timeLimitMs = Infinity,
): Promise<number[]> {
  const times: number[] = [];
  const since = performance.now();
  for (let i = 0; i < count; i++) {
    signal.throwIfAborted();
    times.push(await get(way));
    if (performance.now() - since > timeLimitMs) break;
  }
  return times;
}

/** The same while transfers go on. */
async function beside(load: Load, way: Way, { isShort, signal }: Bench): Promise<number[]> {
  await using program = benchProgram("load.ts", [JSON.stringify(load)]);
  await program.said(/loading/, signal);
  await delay(RAMP_MS);
  return await getMany(way, isShort ? LOADED_COUNT / 2 : LOADED_COUNT, signal, LOADED_MS);
}
