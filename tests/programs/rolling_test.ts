// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Servers and agents as processes that are told to stop, or killed, while clients are served. */
import { assert, assertEquals, assertLess } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { assertReads, loopback, OK, requestFor } from "../support/network.ts";
import { checkPattern } from "../support/pattern.ts";
import type { ChildProgram } from "../support/processes.ts";
import { assertBody, type ServerProcess, Site } from "../support/site.ts";

/** A request may have to wait until an agent that has vanished is noticed. */
const REQUEST_MS = 20_000;

/** What became of requests. */
interface Outcomes {
  served: number;
  /** The proxy had not answered: nobody can tell whether the target was reached. */
  failedBefore: number;
  /** The proxy had said that the target is connected. */
  failedAfter: number;
}

/** Goes on to the next server when one does not take the connection, as a load balancer does. */
async function takenBy<T>(
  ports: readonly number[],
  first: number,
  open: (port: number) => Promise<T>,
): Promise<T> {
  for (let tried = 0;; tried++) {
    try {
      return await open(ports[(first + tried) % ports.length]!);
    } catch (error) {
      const notTaken = error instanceof Deno.errors.ConnectionRefused ||
        error instanceof Deno.errors.ConnectionReset;
      if (!notTaken || ports.length === 1 || tried > 100) throw error;
    }
  }
}

/** Requests of all rounds that may cross with the end of their connection. */
const MAX_CROSSED = 3;

/** Clients that keep their connection, and make one request after the other in it. */
class PooledLoad implements AsyncDisposable {
  readonly errors: string[] = [];
  served = 0;
  /** Connections that were closed between two requests. */
  replaced = 0;
  /** Requests that were sent on a connection when it was just being closed. */
  crossed = 0;
  readonly #stop = new AbortController();
  readonly #clients: Promise<void>[];

  /** @param pausesMs the mean pause of each client between two requests */
  constructor(site: Site, tcpPorts: readonly number[], pausesMs: readonly number[]) {
    this.#clients = pausesMs.map((pauseMs) => this.#run(site, tcpPorts, pauseMs));
  }

  async #run({ origin }: Site, tcpPorts: readonly number[], pauseMs: number): Promise<void> {
    let pooled: Pooled | undefined;
    /** Requests of the connection that were served. */
    let served = 0;
    while (!this.#stop.signal.aborted) {
      if (pooled?.error) this.replaced++;
      try {
        if (!pooled || pooled.error) {
          pooled = undefined;
          served = 0;
          pooled = await takenBy(tcpPorts, 0, async (port) => {
            const opened = new Pooled(await Deno.connect(loopback(port)));
            await opened.exchange(requestFor(origin), OK.length);
            return opened;
          });
        }
        await pooled.exchange(`GET /bytes/5000 HTTP/1.1\r\nHost: ${origin}\r\n\r\n`, 5_000);
        this.served++;
        served++;
      } catch (error) {
        pooled?.close();
        // The close and the request have crossed: clients send it again (RFC 9112 §9.3.1).
        const isCrossed = served > 0 && pooled?.received === 0;
        pooled = undefined;
        if (isCrossed && this.crossed++ < MAX_CROSSED) continue;
        this.errors.push(`${error}`);
      }
      await delay(pauseMs * (0.5 + Math.random()));
      // What has come meanwhile is read before the next request.
      await delay(1);
    }
    pooled?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#clients);
  }
}

/** A kept connection, whose end is seen at once. */
class Pooled {
  error: unknown;
  #received = 0;
  #moved = Promise.withResolvers<void>();
  readonly #connection: Deno.TcpConn;

  constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
    void this.#read();
  }

  /** Bytes of the response so far. */
  get received(): number {
    return this.#received;
  }

  async #read(): Promise<void> {
    const buffer = new Uint8Array(64 << 10);
    try {
      for (let n; (n = await this.#connection.read(buffer)) !== null;) {
        this.#received += n;
        this.#moved.resolve();
      }
      this.error = new Error("closed");
    } catch (error) {
      this.error = error;
    }
    this.#moved.resolve();
    this.close();
  }

  /** Sends a request, and waits for so many bytes. */
  async exchange(request: string, bytes: number): Promise<void> {
    this.#received = 0;
    await this.#connection.write(new TextEncoder().encode(request));
    while (this.#received < bytes) {
      if (this.error) throw this.error;
      this.#moved = Promise.withResolvers();
      await this.#moved.promise;
    }
  }

  close(): void {
    try {
      this.#connection.close();
    } catch {
      // It is.
    }
  }
}

/** Clients that make one request after the other, to one of the servers that takes connections. */
class Load implements AsyncDisposable {
  readonly outcomes: Outcomes = { served: 0, failedBefore: 0, failedAfter: 0 };
  readonly errors: string[] = [];
  readonly #stop = new AbortController();
  readonly #clients: Promise<void>[];
  readonly #site: Site;
  readonly #tcpPorts: readonly number[];

  constructor(site: Site, tcpPorts: readonly number[], clients = 4) {
    this.#site = site;
    this.#tcpPorts = tcpPorts;
    this.#clients = Array.from({ length: clients }, (_, i) => this.#run(i));
  }

  async #run(client: number): Promise<void> {
    for (let n = client; !this.#stop.signal.aborted; n++) {
      const size = 1 + (n % 5) * 100_000 + client;
      let what: keyof Outcomes = "failedBefore";
      try {
        const tunnel = await deadline(this.#open(n, size), REQUEST_MS);
        what = "failedAfter";
        await deadline(assertBody(tunnel, size), REQUEST_MS).finally(() => tunnel.abort());
        what = "served";
      } catch (error) {
        this.errors.push(`${what}: ${error}`);
      }
      this.outcomes[what]++;
    }
  }

  #open(n: number, size: number): Promise<Duplex> {
    return takenBy(this.#tcpPorts, n, (port) => this.#site.request(port, size));
  }

  /** Waits until some more were served. */
  async more(count: number): Promise<void> {
    const before = this.outcomes.served;
    await eventually(
      `clients are served, beside ${this.errors}`,
      () => this.outcomes.served >= before + count,
      2 * REQUEST_MS,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#clients);
  }
}

Deno.test("agents are replaced one after the other while clients are served, and no request fails", async () => {
  await using site = await Site.start();
  const server = await site.server();
  const agents = await Promise.all([site.agent(server.quic), site.agent(server.quic)]);
  await using load = new Load(site, [server.tcpPort]);
  for (let round = 0; round < 3; round++) {
    await load.more(20);
    agents.push(await site.agent(server.quic));
    const leaving = agents.shift()!;
    leaving.kill("SIGTERM");
    assertEquals((await deadline(leaving.status, 20_000)).code, 0);
    assert(leaving.lines.some((line) => line.includes('"draining"')), leaving.lines.join("\n"));
    assert(!leaving.lines.some((line) => line.includes("cut off")), leaving.lines.join("\n"));
  }
  await load.more(20);
  assertEquals(load.errors, []);
});

Deno.test("servers and agents are restarted one after the other under load, and no request fails", async () => {
  await using site = await Site.start();
  const times = { "drain-timeout": "6s" };
  const servers = [await site.server(times), await site.server(times)];
  const quic = servers.map(({ quic }) => quic).join(",");
  const agents = [await site.agent(quic, times), await site.agent(quic, times)];
  const isConnected = (agent: ChildProgram, { quic }: ServerProcess, times: number) =>
    agent.lines.filter((line) => line.includes(`"connected to quic server" server=${quic} `))
      .length >= times;
  await eventually(
    "all are connected to all",
    () => servers.every((server) => agents.every((agent) => isConnected(agent, server, 1))),
  );
  const tcpPorts = servers.map(({ tcpPort }) => tcpPort);
  await using load = new Load(site, tcpPorts);
  await using pooled = new PooledLoad(site, tcpPorts, [200, 300, 400, 500]);
  for (const server of servers) {
    await load.more(20);
    server.program.kill("SIGTERM");
    assertEquals((await deadline(server.program.status, 20_000)).code, 0);
    assert(!server.program.lines.some((line) => line.includes("cut off")));
    await site.server({
      "listen-tcp": `127.0.0.1:${server.tcpPort}`,
      "listen-quic": server.quic,
      ...times,
    });
    await eventually(
      "the agents are back",
      () => agents.every((agent) => isConnected(agent, server, 2)),
      30_000,
    );
  }
  for (const agent of agents) {
    const { served } = pooled;
    await site.agent(quic, times);
    agent.kill("SIGTERM");
    assertEquals((await deadline(agent.status, 20_000)).code, 0);
    await eventually("pooled clients are served", () => pooled.served > served + 10);
  }
  await load.more(20);
  assertEquals(load.errors, []);
  assertEquals(pooled.errors, []);
  assertLess(0, pooled.replaced);
});

Deno.test("an agent that is killed while clients are served costs none of them but those that it had connected", async () => {
  await using site = await Site.start();
  const server = await site.server();
  const [killed] = [await site.agent(server.quic), await site.agent(server.quic)];
  const clients = 4;
  await using load = new Load(site, [server.tcpPort], clients);
  await load.more(20);
  killed!.kill("SIGKILL");
  await server.program.line(/agent disconnected.*timed out.*agents=1/, 15_000);
  await load.more(20);
  assertEquals(load.outcomes.failedBefore, 0, load.errors.join("\n"));
  assertLess(load.outcomes.failedAfter, clients + 1, load.errors.join("\n"));
});

Deno.test("SIGTERM lets an agent finish a transfer byte for byte, and end with exit code 0", async () => {
  await using site = await Site.start();
  const server = await site.server();
  const agent = await site.agent(server.quic);
  const size = 40_000_000;
  const client = await site.request(server.tcpPort, size);
  await assertReads(client, "HTTP/1.1 200");
  agent.kill("SIGTERM");
  await agent.line(/"draining".* tunnels=1 drainTimeoutMs=30000/);
  const next = await site.agent(server.quic);
  // The rest of the head, and the body; meanwhile others are served.
  const late = await site.request(server.tcpPort, 1_000);
  await assertBody(late, 1_000);
  let ended = false;
  const status = agent.status.finally(() => ended = true);
  await delay(100);
  assertEquals(ended, false);
  const rest = await readToEnd(client);
  checkPattern(rest.subarray(rest.length - size), 0);
  client.abort();
  assertEquals((await deadline(status, 10_000)).code, 0);
  await server.program.line(/agent disconnected.*code 100/);
  next.kill("SIGTERM");
  assertEquals((await next.status).code, 0);
});

Deno.test("SIGTERM ends an agent with exit code 0 when the time to drain is over", async () => {
  await using site = await Site.start();
  const server = await site.server();
  const agent = await site.agent(server.quic, { "drain-timeout": "500ms" });
  const client = await site.request(server.tcpPort, 1_000_000_000);
  await assertReads(client, "HTTP/1.1 200");
  const since = performance.now();
  agent.kill("SIGTERM");
  assertEquals((await deadline(agent.status, 20_000)).code, 0);
  const tookMs = performance.now() - since;
  assert(tookMs > 490 && tookMs < 10_000, `${tookMs} ms`);
  await agent.line(/WRN agent "resetting tunnels after the drain timeout" .* tunnels=1/);
  // Not all of it.
  await readToEnd(client).then((rest) => assertLess(rest.length, 1_000_000_000), () => {});
  client.abort();
});

Deno.test("a second signal ends an agent that drains at once", async () => {
  await using site = await Site.start();
  for (const [second, code] of [["SIGTERM", 143], ["SIGINT", 130]] as const) {
    const server = await site.server();
    const agent = await site.agent(server.quic);
    const client = await site.request(server.tcpPort, 1_000_000_000);
    await assertReads(client, "HTTP/1.1 200");
    agent.kill("SIGTERM");
    await agent.line(/"draining"/);
    agent.kill(second);
    assertEquals((await deadline(agent.status, 10_000)).code, code);
    client.abort();
  }
});

Deno.test("an agent that was given two servers serves the clients of both", async () => {
  await using site = await Site.start();
  const servers = [await site.server(), await site.server()];
  const agent = await site.agent(servers.map(({ quic }) => quic).join(","));
  for (const { quic } of servers) {
    await agent.line(new RegExp(`"connected to quic server" server=${quic}`));
  }
  for (const { tcpPort } of servers) await assertBody(await site.request(tcpPort, 1_000), 1_000);
  agent.kill("SIGTERM");
  assertEquals((await agent.status).code, 0);
  for (const { program } of servers) await program.line(/agent disconnected.*code 100/);
});
