// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What some clients, targets and agents do leaves the others alone.
 *
 * Real programs, two sets of them: one is disturbed, the other is not. New connections go to either in turn, so that
 * whatever else the machine does hits both alike, and the ratio of what they take tells of the disturbance alone.
 */
import { assert, assertLess } from "@std/assert";
import { cpuTimes } from "../bench/cpu.ts";
import { makeCerts } from "../certs/make.ts";
import { type Duplex, tcpDuplex } from "../lib/duplex.ts";
import { QuicEndpoint } from "../lib/quic/mod.ts";
import { eventually } from "./support/eventually.ts";
import { assertReads, loopback, OK, readText, requestFor, sendText } from "./support/network.ts";
import { type ChildProgram, startOrigin, startProgram } from "./support/processes.ts";

/** Connections of each set, in turns. */
const PROBES = 60;
/** A median that is noise by itself. */
const MAX_RATIO = 2;

const LOOK_MS = 300;
/** Part of a CPU that an idle program may take. */
const IDLE_SHARE = 0.15;

interface Tunnel {
  readonly tcpPort: number;
  readonly quicPort: number;
  readonly server: ChildProgram;
  readonly agent: ChildProgram;
}

class Setup implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #ends: Duplex[] = [];
  dir = "";
  originPort = 0;

  static async create(): Promise<Setup> {
    const setup = new Setup();
    setup.dir = await Deno.makeTempDir();
    setup.#stack.defer(() => Deno.remove(setup.dir, { recursive: true }));
    await makeCerts(setup.dir);
    setup.originPort = setup.#stack.use(await startOrigin()).port;
    return setup;
  }

  async tunnel(): Promise<Tunnel> {
    const { dir } = this;
    const server = this.#stack.use(startProgram("server", {
      "listen-tcp": "127.0.0.1:0",
      "listen-quic": "127.0.0.1:0",
      "cert-file": `${dir}/server.pem`,
      "cert-key": `${dir}/server.key`,
      "client-ca-file": `${dir}/ca.pem`,
      "balance": "round-robin",
      "v": 4,
    }));
    const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/);
    const [, quic] = await server.line(/quic listener on 127\.0\.0\.1:(\d+)/);
    const agent = this.#stack.use(startProgram("agent", {
      "server": `127.0.0.1:${quic}`,
      "ca-file": `${dir}/ca.pem`,
      "cert-file": `${dir}/client.pem`,
      "cert-key": `${dir}/client.key`,
      "v": 4,
    }));
    await server.line(/agent connected/);
    return { tcpPort: Number(tcp), quicPort: Number(quic), server, agent };
  }

  async client({ tcpPort }: Tunnel, ...messages: string[]): Promise<Duplex> {
    const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
    this.#ends.push(client);
    for (const message of messages) await sendText(client, message);
    return client;
  }

  async clients(tunnel: Tunnel, count: number, ...messages: string[]): Promise<Duplex[]> {
    return await Promise.all(
      Array.from({ length: count }, () => this.client(tunnel, ...messages)),
    );
  }

  use<T extends AsyncDisposable>(value: T): T {
    return this.#stack.use(value);
  }

  /** How much longer a new connection takes at the disturbed tunnel, as a ratio of medians. */
  async ratio(calm: Tunnel, disturbed: Tunnel): Promise<number> {
    const times = new Map<Tunnel, number[]>([[calm, []], [disturbed, []]]);
    for (let i = -5; i < PROBES; i++) {
      for (const [tunnel, all] of times) {
        const time = await this.#probe(tunnel);
        if (i >= 0) all.push(time);
      }
    }
    const median = (all: number[]) => all.sort((a, b) => a - b)[all.length >> 1]!;
    return median(times.get(disturbed)!) / median(times.get(calm)!);
  }

  /** Time of a request through a new connection, in milliseconds. */
  async #probe({ tcpPort }: Tunnel): Promise<number> {
    const since = performance.now();
    const origin = `127.0.0.1:${this.originPort}`;
    const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
    await sendText(client, requestFor(origin));
    await assertReads(client, OK);
    await sendText(client, `GET / HTTP/1.1\r\nHost: ${origin}\r\nConnection: close\r\n\r\n`);
    const answer = await readText(client);
    client.abort();
    assert(answer.endsWith("ok\n"), answer);
    return performance.now() - since;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#ends) end.abort();
    await this.#stack.disposeAsync();
  }
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
function test(name: string, disturb: (setup: Setup, tunnel: Tunnel) => Promise<void>): void {
  Deno.test(`${name} leave the latency of other tunnels as it was`, async () => {
    await using setup = await Setup.create();
    const [calm, disturbed] = [await setup.tunnel(), await setup.tunnel()];
    await disturb(setup, disturbed);
    await idle(disturbed.agent, disturbed.server);

    assertLess(await setup.ratio(calm, disturbed), MAX_RATIO);
  });
}

test("20 clients that read nothing", async (setup, tunnel) => {
  const origin = `127.0.0.1:${setup.originPort}`;
  const clients = await setup.clients(tunnel, 20, requestFor(origin));
  for (const client of clients) {
    await assertReads(client, OK);
    await sendText(client, `GET /bytes/100000000 HTTP/1.1\r\nHost: ${origin}\r\n\r\n`);
    // From its first byte on, nobody reads.
    await assertReads(client, "HTTP/1.1 200");
  }
});

test("20 targets that read nothing", async (setup, tunnel) => {
  const listener = Deno.listen(loopback(0));
  const accepted: Deno.TcpConn[] = [];
  setup.use({
    [Symbol.asyncDispose]: () => {
      for (const connection of accepted) connection.close();
      listener.close();
      return Promise.resolve();
    },
  });
  const target = `127.0.0.1:${(listener.addr as Deno.NetAddr).port}`;
  const clients = await setup.clients(tunnel, 20, requestFor(target));
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

test("100 dials that nobody answers", async (setup, tunnel) => {
  // The queue of a listener that accepts nothing is full after one connection more than its length.
  const listener = Deno.listen({ ...loopback(0), tcpBacklog: 1 });
  const { port } = listener.addr as Deno.NetAddr;
  const queued = [await Deno.connect(loopback(port)), await Deno.connect(loopback(port))];
  setup.use({
    [Symbol.asyncDispose]: () => {
      for (const connection of [...queued, listener]) connection.close();
      return Promise.resolve();
    },
  });
  await setup.clients(tunnel, 100, requestFor(`127.0.0.1:${port}`));
  await eventually("all are dialled", () => seen(tunnel.agent, `target=127.0.0.1:${port}`) >= 100);
});

test("1000 heads of requests that do not go on", async (setup, tunnel) => {
  await setup.clients(tunnel, 1000, "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: ");
  await eventually("all are accepted", () => seen(tunnel.agent, "stream accepted") >= 1000);
});

test("agents without a stream to spare", async (setup, tunnel) => {
  const endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  setup.use(endpoint);
  const read = (name: string) => Deno.readFile(`${setup.dir}/${name}`);
  const full = await endpoint.connect(
    { host: "127.0.0.1", port: tunnel.quicPort },
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
  await setup.clients(tunnel, 2, "hello");
  await stream;
});
