// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Agents as processes that are told to stop while clients are served. */
import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { makeCerts } from "../certs/make.ts";
import { type Duplex, tcpDuplex } from "../lib/duplex.ts";
import { eventually } from "./support/eventually.ts";
import { readToEnd } from "./support/memory_duplex.ts";
import { assertReads, OK, requestFor, sendText } from "./support/network.ts";
import { checkPattern } from "./support/pattern.ts";
import {
  agentFlags,
  anyPort,
  type ChildProgram,
  serverFlags,
  startOrigin,
  startProgram,
} from "./support/processes.ts";

const loopback = (port: number) => ({ hostname: "127.0.0.1", port });

interface Server {
  readonly program: ChildProgram;
  readonly tcpPort: number;
  readonly quic: string;
}

/** An origin, and servers and agents in front of it, of one test. */
class Site implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  dir = "";
  origin = "";

  static async start(): Promise<Site> {
    const site = new Site();
    try {
      site.dir = await Deno.makeTempDir();
      site.#stack.defer(() => Deno.remove(site.dir, { recursive: true }));
      await makeCerts(site.dir);
      const { port } = site.#stack.use(await startOrigin());
      site.origin = `127.0.0.1:${port}`;
      return site;
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
  }

  async server(): Promise<Server> {
    const program = this.#stack.use(
      startProgram("server", { ...anyPort, ...serverFlags(this.dir) }),
    );
    const [, tcp] = await program.line(/tcp listener on 127\.0\.0\.1:(\d+)/);
    const [, quic] = await program.line(/quic listener on (127\.0\.0\.1:\d+)/);
    return { program, tcpPort: Number(tcp), quic: quic! };
  }

  /** Resolves when the agent has connected. */
  async agent(quic: string, flags: Record<string, string> = {}): Promise<ChildProgram> {
    const agent = this.#stack.use(
      startProgram("agent", { server: quic, ...agentFlags(this.dir), ...flags }),
    );
    await agent.line(/"connected to quic server"/, 30_000);
    return agent;
  }

  /** A tunnel to the origin on which it was asked for a body. */
  async request(tcpPort: number, size: number): Promise<Duplex> {
    const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
    try {
      await sendText(client, requestFor(this.origin));
      await assertReads(client, OK);
      const head =
        `GET /bytes/${size} HTTP/1.1\r\nHost: ${this.origin}\r\nConnection: close\r\n\r\n`;
      await sendText(client, head);
      return client;
    } catch (error) {
      client.abort();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** Reads an answer to its end and checks every byte of its body. */
async function assertBody(client: Duplex, size: number): Promise<void> {
  try {
    const answer = await readToEnd(client);
    const head = answer.length - size;
    assertEquals(new TextDecoder().decode(answer.subarray(0, 12)), "HTTP/1.1 200");
    assertEquals(new TextDecoder().decode(answer.subarray(head - 4, head)), "\r\n\r\n");
    checkPattern(answer.subarray(head), 0);
  } finally {
    client.abort();
  }
}

Deno.test("agents are replaced one after the other while clients are served, and no request fails", async () => {
  await using site = await Site.start();
  const server = await site.server();
  const agents = await Promise.all([site.agent(server.quic), site.agent(server.quic)]);
  const stop = new AbortController();
  let served = 0;
  const clients = Promise.all(Array.from({ length: 4 }, async (_, i) => {
    for (let n = 0; !stop.signal.aborted; n++) {
      const size = 1 + (n % 5) * 100_000 + i;
      await deadline(site.request(server.tcpPort, size).then((c) => assertBody(c, size)), 20_000);
      served++;
    }
  }));
  clients.catch(() => {});
  for (let round = 0; round < 3; round++) {
    const before = served;
    await Promise.race([clients, eventually("clients are served", () => served > before + 20)]);
    agents.push(await site.agent(server.quic));
    const leaving = agents.shift()!;
    leaving.kill("SIGTERM");
    assertEquals((await deadline(leaving.status, 20_000)).code, 0);
    assert(leaving.lines.some((line) => line.includes('"draining"')), leaving.lines.join("\n"));
    assert(!leaving.lines.some((line) => line.includes("cut off")), leaving.lines.join("\n"));
  }
  stop.abort();
  await clients;
  assertGreater(served, 60);
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
  assertLess(performance.now() - since, 10_000);
  await agent.line(/WRN agent "tunnels are cut off" .* tunnels=1/);
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
