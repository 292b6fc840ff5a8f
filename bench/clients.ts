// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How many clients get on at once: requests on kept connections, and many new connections in one moment. */
import { delay } from "@std/async/delay";
import { get, HttpClient } from "./http_client.ts";
import { Attempts, subjectsOf } from "./peers.ts";
import type { Bench } from "./row.ts";
import { startTunnel } from "./tunnels.ts";
import type { Way } from "./way.ts";

const CLIENTS = [1, 64, 1_000];
const AT_ONCE = [200, 1_000];
/** Connections that are opened at a time where that is not what is measured. */
const BATCH = 50;
/** Time for what a run has left behind. */
const PAUSE_MS = 300;

export async function measureClients(bench: Bench): Promise<void> {
  const { certificates, isShort, figures, signal } = bench;
  await using tunnel = await startTunnel({ certificates, signal });
  const subjects = subjectsOf(bench, tunnel);
  const attempts = new Attempts(bench);
  for (const subject of subjects) {
    await attempts.by(subject, async () => {
      await requestsPerSecond(subject.way, BATCH, PAUSE_MS, signal);
    });
  }
  for (let run = 0; run < (isShort ? 1 : 3); run++) {
    for (const count of CLIENTS) {
      for (const subject of subjects) {
        const { id, way } = subject;
        await attempts.by(subject, async () => {
          const name = `${id}, requests of ${count} clients`;
          const rate = await requestsPerSecond(way, count, isShort ? 500 : 1_500, signal);
          figures.add({ id: `clients/${id}/${count}`, name, unit: "1/s" }, rate);
        });
        await delay(PAUSE_MS);
      }
    }
  }
  for (let run = 0; run < (isShort ? 2 : 5); run++) {
    for (const count of AT_ONCE) {
      for (const { id, way } of subjects) {
        signal.throwIfAborted();
        const since = performance.now();
        const results = await Promise.allSettled(Array.from({ length: count }, () => get(way)));
        const ms = performance.now() - since;
        const failed = results.filter(({ status }) => status === "rejected").length;
        const name = `${id}, ${count} connections at once`;
        figures.add({ id: `clients/${id}/at-once/${count}`, name, unit: "ms" }, ms);
        const errors = { id: `clients/${id}/errors/${count}`, name: `${name}, failed`, unit: "" };
        figures.add(errors, failed);
        await delay(PAUSE_MS);
      }
    }
  }
}

/** Has clients send one request after the other, each on its own connection, for some time. */
async function requestsPerSecond(
  way: Way,
  count: number,
  ms: number,
  signal: AbortSignal,
): Promise<number> {
  using opened = new DisposableStack();
  const clients: HttpClient[] = [];
  while (clients.length < count) {
    signal.throwIfAborted();
    const length = Math.min(BATCH, count - clients.length);
    const batch = await Promise.all(Array.from({ length }, () => HttpClient.open(way)));
    for (const client of batch) clients.push(opened.use(client));
  }
  let requests = 0;
  const since = performance.now();
  const ask = async (client: HttpClient) => {
    while (performance.now() - since < ms) {
      await client.get();
      requests++;
    }
  };
  await Promise.all(clients.map(ask));
  return requests * 1_000 / (performance.now() - since);
}
