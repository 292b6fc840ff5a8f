// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What some clients, targets and agents do leaves the others alone.
 *
 * Real programs, two sets of them: one is disturbed, the other is not. New connections go to either in turn, so that
 * whatever else the machine does hits both alike, and the ratio of what they take tells of the disturbance alone.
 */
import { assertLess } from "@std/assert";
import { cpuTimes } from "../../bench/cpu.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { QuicEndpoint } from "../../lib/quic/mod.ts";
import { eventually } from "../support/eventually.ts";
import { assertReads, loopback, OK, requestFor, sendText } from "../support/network.ts";
import type { ChildProgram } from "../support/processes.ts";
import { assertBody, Site } from "../support/site.ts";

/** Connections of each set, in turns. */
const PROBES = 60;
/** Noise alone stays below this. */
const MAX_RATIO = 2;

const LOOK_MS = 300;
/** Part of a CPU that an idle program may take. */
const IDLE_SHARE = 0.15;

interface Tunnel {
  readonly tcpPort: number;
  readonly quic: string;
  readonly server: ChildProgram;
  readonly agent: ChildProgram;
}

/** A server and an agent, which log all there is. */
async function startTunnel(site: Site): Promise<Tunnel> {
  const { program, tcpPort, quic } = await site.server({ balance: "round-robin", v: 4 });
  return { tcpPort, quic, server: program, agent: await site.agent(quic, { v: 4 }) };
}

/** A client that has sent something. */
async function connect(site: Site, { tcpPort }: Tunnel, message: string): Promise<Duplex> {
  const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
  site.use({ [Symbol.dispose]: () => client.abort() });
  await sendText(client, message);
  return client;
}

async function connectMany(
  site: Site,
  tunnel: Tunnel,
  count: number,
  message: string,
): Promise<Duplex[]> {
  return await Promise.all(Array.from({ length: count }, () => connect(site, tunnel, message)));
}

/** How much longer a new connection takes at the disturbed tunnel, as a ratio of medians. */
async function latencyRatio(site: Site, calm: Tunnel, disturbed: Tunnel): Promise<number> {
  const times = new Map<Tunnel, number[]>([[calm, []], [disturbed, []]]);
  for (let i = -5; i < PROBES; i++) {
    for (const [{ tcpPort }, all] of times) {
      const since = performance.now();
      await assertBody(await site.request(tcpPort, 1), 1);
      if (i >= 0) all.push(performance.now() - since);
    }
  }
  const median = (all: number[]) => all.sort((a, b) => a - b)[all.length >> 1]!;
  return median(times.get(disturbed)!) / median(times.get(calm)!);
}

const seen = (program: ChildProgram, text: string) =>
  program.lines.filter((line) => line.includes(text)).length;

/** Waits until programs have nothing more to do: what can be filled is full. */
async function idle(...programs: ChildProgram[]): Promise<void> {
  const cpuSeconds = async () => {
    const times = await cpuTimes(programs.map(({ pid }) => pid));
    return times?.processes.reduce((sum, seconds) => sum + seconds) ?? 0;
  };
  let before = await cpuSeconds();
  await eventually("the programs are idle", async () => {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    const now = await cpuSeconds();
    const share = (now - before) * 1_000 / LOOK_MS;
    before = now;
    return share < IDLE_SHARE;
  }, 60_000);
}

/** Registers a test; `disturb` resolves when the disturbance is there. */
function test(name: string, disturb: (site: Site, tunnel: Tunnel) => Promise<void>): void {
  Deno.test(`${name} leave the latency of other tunnels as it was`, async () => {
    await using site = await Site.start();
    const [calm, disturbed] = [await startTunnel(site), await startTunnel(site)];
    await disturb(site, disturbed);
    await idle(disturbed.agent, disturbed.server);

    assertLess(await latencyRatio(site, calm, disturbed), MAX_RATIO);
  });
}

test("20 clients that read nothing", async (site, tunnel) => {
  const { origin } = site;
  const clients = await connectMany(site, tunnel, 20, requestFor(origin));
  for (const client of clients) {
    await assertReads(client, OK);
    await sendText(client, `GET /bytes/100000000 HTTP/1.1\r\nHost: ${origin}\r\n\r\n`);
    // From its first byte on, nobody reads.
    await assertReads(client, "HTTP/1.1 200");
  }
});

test("20 targets that read nothing", async (site, tunnel) => {
  const listener = Deno.listen(loopback(0));
  const accepted: Deno.TcpConn[] = [];
  site.use({
    [Symbol.dispose]() {
      for (const connection of [...accepted, listener]) connection.close();
    },
  });
  const target = `127.0.0.1:${(listener.addr as Deno.NetAddr).port}`;
  const clients = await connectMany(site, tunnel, 20, requestFor(target));
  const bytes = new Uint8Array(256 << 10);
  for (const client of clients) {
    accepted.push(await listener.accept());
    await assertReads(client, OK);
    const send = async () => {
      for (;;) await client.write(bytes);
    };
    // Goes on until everything on the way is full, and fails at the end of the test.
    send().catch(() => {});
  }
});

test("100 dials that nobody answers", async (site, tunnel) => {
  // The queue of a listener that accepts nothing is full after one connection more than its length.
  const listener = Deno.listen({ ...loopback(0), tcpBacklog: 1 });
  const { port } = listener.addr as Deno.NetAddr;
  const queued = [await Deno.connect(loopback(port)), await Deno.connect(loopback(port))];
  site.use({
    [Symbol.dispose]() {
      for (const connection of [...queued, listener]) connection.close();
    },
  });
  await connectMany(site, tunnel, 100, requestFor(`127.0.0.1:${port}`));
  await eventually("all are dialled", () => seen(tunnel.agent, `target=127.0.0.1:${port}`) >= 100);
});

test("1000 heads of requests that do not go on", async (site, tunnel) => {
  await connectMany(site, tunnel, 1000, "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: ");
  await eventually("all are accepted", () => seen(tunnel.agent, "stream accepted") >= 1000);
});

test("agents without a stream to spare", async (site, tunnel) => {
  const endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  site.use(endpoint);
  const read = (name: string) => Deno.readFile(`${site.dir}/${name}`);
  const full = await endpoint.connect(
    { hostname: "127.0.0.1", port: Number(tunnel.quic.split(":")[1]) },
    "quic-tunnel-server",
    {
      tls: {
        ca: await read("ca.pem"),
        cert: await read("client.pem"),
        key: await read("client.key"),
      },
      alpn: ["qrht/1"],
      keepAliveMs: 1_000,
      maxStreams: 1,
    },
  );
  // One of two in turn comes here, and gets no answer.
  const stream = full.acceptStream();
  await connectMany(site, tunnel, 2, "hello");
  await stream;
});
