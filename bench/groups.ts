// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * How long small requests on new connections take with several groups of agents: by routes, and beside a group
 * without agents, of which clients wait.
 */
import { programArguments } from "../tools/project_program.ts";
import { getMany } from "./gets.ts";
import { Program } from "./program.ts";
import type { Bench } from "./row.ts";
import { percentile } from "./statistics.ts";
import { startTunnel, through, type Tunnel } from "./tunnels.ts";

const COUNT = 150;
const WARM_UP = 100;
const ROUTES = 1_000;
/** Clients of the group without agents. */
const WAITING = 500;
/** No agent comes for them. */
const AGENT_WAIT = "10m";

const route = (i: number) => `--route=nobody-${i}=10.${i >> 8}.${i & 255}.0/24`;

/** A network, and what its server is told for it. */
const kinds = {
  alone: { name: "one network", args: [], waiting: 0 },
  "routes/1": { name: "1 route", args: ["--route=*=*"], waiting: 0 },
  "routes/1000": {
    name: `${ROUTES} routes`,
    args: ["--route=*=*", ...Array.from({ length: ROUTES - 1 }, (_, i) => route(i))],
    waiting: 0,
  },
  beside: {
    name: `beside a group without agents, ${WAITING} clients waiting`,
    args: ["--listen-tcp=127.0.0.1:0@nobody", `--agent-wait=${AGENT_WAIT}`],
    waiting: WAITING,
  },
} as const;

export async function measureGroups(bench: Bench): Promise<void> {
  const { certificates, origin, isShort, figures, signal } = bench;
  await using started = new AsyncDisposableStack();
  const ways = new Map<string, ReturnType<typeof through>>();
  for (const [id, { args, waiting }] of Object.entries(kinds)) {
    const startServer = (flags: Parameters<typeof programArguments>[1]) =>
      new Program("server", [...programArguments("server", flags), ...args]);
    const tunnel = started.use(await startTunnel({ certificates, signal, startServer }));
    if (waiting > 0) started.use(await keepWaiting(tunnel, waiting, signal));
    ways.set(id, through(tunnel, origin));
  }
  for (const way of ways.values()) await getMany(way, WARM_UP, signal);
  for (let run = 0; run < (isShort ? 15 : 25); run++) {
    for (const [id, way] of ways) {
      const name = `${kinds[id as keyof typeof kinds].name}, p50`;
      const times = await getMany(way, COUNT, signal);
      figures.add({ id: `groups/${id}`, name, unit: "ms" }, percentile(times, 50));
    }
  }
}

/** Has clients wait for an agent of a group that has none. */
async function keepWaiting(
  { server }: Tunnel,
  count: number,
  signal: AbortSignal,
): Promise<Disposable> {
  const [, port] = await server.said(/tcp listener on [\d.]+:(\d+)" .*group=nobody/, signal);
  const clients = new DisposableStack();
  for (let i = 0; i < count; i++) {
    signal.throwIfAborted();
    clients.use(await Deno.connect({ hostname: "127.0.0.1", port: Number(port) }));
  }
  return clients;
}
