// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long a download takes over a long link that loses packets, through a tunnel and by TCP alone. */
import { UdpRelay } from "../tests/support/udp_relay.ts";
import { messageOf } from "../lib/errors.ts";
import { type Link, openLink, tcpAlgorithms } from "./link.ts";
import type { Flags } from "../tools/project_program.ts";
import { benchProgram, projectProgram } from "./program.ts";
import type { Bench } from "./row.ts";
import { transfer, type Transferred, WrongBytesError } from "./transfer.ts";
import { startOrigin, startTunnel, through } from "./tunnels.ts";
import type { Way } from "./way.ts";

const DELAY_MS = 25;
const BYTES = 20e6;
/** TCP that is slower is measured by how far it got. */
const TCP_LIMIT_MS = 4_000;
const TUNNEL_LIMIT_MS = 15_000;
/** UDP payload of a path of 1500. */
const MAX_DATAGRAM_BYTES = 1472;

/** In percent, and how often it is measured. */
const losses = [
  { percent: 0, runs: 3, shortRuns: 1 },
  { percent: 0.1, runs: 1, shortRuns: 0 },
  { percent: 1, runs: 3, shortRuns: 1 },
  { percent: 3, runs: 1, shortRuns: 0 },
];

/** What TCP does on most machines, the first that is there. */
const usual = ["cubic", "reno"];

/** Records a run by what all the bytes would have taken. */
function record(
  { figures, note }: Bench,
  subject: "tunnel" | "tcp" | "bbr",
  name: string,
  percent: number,
  { bytes, seconds }: Transferred,
): void {
  const figure = {
    id: `lossy/${subject}/${percent}`,
    name: `${name}, ${percent} % loss`,
    unit: "s",
  };
  if (bytes < BYTES) {
    note(
      `${figure.name}: ${(bytes / 1e6).toFixed(1)} MB in ${
        seconds.toFixed(1)
      } s, the rest is extrapolated`,
    );
  }
  figures.add(figure, seconds * BYTES / Math.max(bytes, 1));
}

export async function measureLossy(bench: Bench): Promise<void> {
  const { signal, isShort, note } = bench;
  let algorithms: string[] = [];
  try {
    algorithms = await tcpAlgorithms();
    await using _link = await openLink({ delayMs: DELAY_MS, loss: 0, signal });
  } catch (error) {
    signal.throwIfAborted();
    note(
      `lossy: no network namespaces (${
        messageOf(error)
      }), so over a UDP relay and without plain TCP`,
    );
    return await measureRelayed(bench);
  }
  for (const { percent, runs, shortRuns } of losses) {
    for (let run = 0; run < (isShort ? shortRuns : runs); run++) {
      await using link = await openLink({ delayMs: DELAY_MS, loss: percent / 100, signal });
      await measureLink(bench, link, percent, algorithms);
    }
  }
}

async function measureLink(
  bench: Bench,
  link: Link,
  percent: number,
  algorithms: readonly string[],
): Promise<void> {
  const { certificates, signal } = bench;
  const { near, far } = link;
  const start = () => startOrigin(signal, { hostname: far.hostname, port: 0 }, far.under);
  {
    await using tunnel = await startTunnel({
      certificates,
      signal,
      hostname: near.hostname,
      startServer: (flags) => projectProgram("server", flags, { under: near.under }),
      startAgent: (flags) => projectProgram("agent", flags, { under: far.under }),
    });
    await using origin = await start();
    const target = `${far.hostname}:${origin.port}`;
    const way = { ...through(tunnel, origin.port), target };
    const moved = await download(way, near.under, TUNNEL_LIMIT_MS, signal);
    record(bench, "tunnel", "tunnel", percent, moved);
  }
  const plain = async (subject: "tcp" | "bbr", algorithm: string) => {
    await link.useTcp(algorithm);
    await using origin = await start();
    const way = { hostname: far.hostname, port: origin.port };
    const moved = await download(way, near.under, TCP_LIMIT_MS, signal);
    record(bench, subject, `TCP, ${algorithm}`, percent, moved);
  };
  await plain("tcp", usual.find((name) => algorithms.includes(name)) ?? algorithms[0]!);
  if (algorithms.includes("bbr")) await plain("bbr", "bbr");
}

/** Downloads in another process. */
async function download(
  way: Way,
  under: readonly string[],
  timeLimitMs: number,
  signal: AbortSignal,
): Promise<Transferred> {
  const options = { way, bytes: BYTES, timeLimitMs };
  await using client = benchProgram("client.ts", [JSON.stringify(options)], under);
  const said = await client.said(/moved (\d+) bytes in ([\d.]+) s|failed: (.*)/, signal);
  const [, bytes, seconds, failure] = said;
  if (failure !== undefined) throw new WrongBytesError(failure);
  return { bytes: Number(bytes), seconds: Number(seconds) };
}

/** The same by a relay of this process, which TCP cannot use. */
async function measureRelayed(bench: Bench): Promise<void> {
  const { certificates, origin, isShort, signal } = bench;
  for (const { percent, runs, shortRuns } of losses) {
    for (let run = 0; run < (isShort ? shortRuns : runs); run++) {
      await using started = new AsyncDisposableStack();
      const startAgent = (flags: Flags) => {
        const [host, port] = String(flags["server"]).split(":");
        const relay = new UdpRelay({ hostname: host!, port: Number(port) }, {
          delayMs: DELAY_MS,
          loss: percent / 100,
          maxBytes: MAX_DATAGRAM_BYTES,
        });
        started.use(relay);
        return projectProgram("agent", {
          ...flags,
          server: `${relay.addr.hostname}:${relay.addr.port}`,
        });
      };
      const tunnel = started.use(await startTunnel({ certificates, signal, startAgent }));
      const way = through(tunnel, origin);
      const moved = await transfer({ way, bytes: BYTES, timeLimitMs: TUNNEL_LIMIT_MS, signal });
      record(bench, "tunnel", "tunnel over a relay", percent, moved);
    }
  }
}
