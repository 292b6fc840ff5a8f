// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Programs that are killed, or stall, and what their peers make of it; as processes. */

import { assert, assertEquals } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { sleep } from "../../lib/wait.ts";
import { lookAt, RESET } from "../support/endings.ts";
import { assertReads, OK, requestFor, sendText, within } from "../support/network.ts";
import {
  agentFlags,
  anyPort,
  type ChildProgram,
  serverFlags,
  startProgram,
} from "../support/processes.ts";
import { ResettableTarget, ResettableTcp } from "../support/tcp_pair.ts";

/** What takes half a second takes longer on a loaded machine, but not the 5 s of silence. */
const SOON_MS = 3_500;

/** What may take as long as it likes. */
const SLACK_MS = 20_000;

const common = { "drain-timeout": "0s", v: 2 };

/** A server, and agents that all have one certificate. */
class Site implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #dir: string;
  readonly #targets: ResettableTarget;
  readonly #agents: ChildProgram[] = [];
  #server: ChildProgram | undefined;
  #tcpPort = 0;
  #quicPort = 0;

  private constructor(dir: string, targets: ResettableTarget) {
    this.#dir = dir;
    this.#targets = this.#stack.use(targets);
    this.#stack.defer(() => Deno.remove(dir, { recursive: true }));
  }

  static async start(): Promise<Site> {
    const dir = await Deno.makeTempDir();
    await makeCerts(dir);
    const site = new Site(dir, await ResettableTarget.listen());
    await site.startServer();
    return site;
  }

  /** Starts a server; a further one at the port of the first. */
  async startServer(): Promise<ChildProgram> {
    const port = this.#quicPort === 0 ? {} : { "listen-quic": `127.0.0.1:${this.#quicPort}` };
    const flags = { ...anyPort, ...serverFlags(this.#dir), ...port, ...common };
    const server = this.#server = this.#stack.use(startProgram("server", flags));
    const listening = async (name: string) => {
      const line = new RegExp(`${name} listener on 127\\.0\\.0\\.1:(\\d+)`);
      return Number((await server.line(line, SLACK_MS))[1]);
    };
    this.#tcpPort = await listening("tcp");
    this.#quicPort = await listening("quic");
    return server;
  }

  get server(): ChildProgram {
    return this.#server!;
  }

  /** Starts an agent. Resolves when it is connected. */
  async startAgent(): Promise<ChildProgram> {
    const name = `agent-${this.#agents.length}`;
    const flags = {
      server: `127.0.0.1:${this.#quicPort}`,
      ...agentFlags(this.#dir),
      name,
      ...common,
    };
    const agent = this.#stack.use(startProgram("agent", flags));
    this.#agents.push(agent);
    await this.server.line(new RegExp(`"hello from agent" .*name=${name}`), SLACK_MS);
    return agent;
  }

  /** A tunnel that carries bytes to its target and back. */
  async tunnel() {
    const client = this.#stack.use(await ResettableTcp.connect(this.#tcpPort));
    await sendText(client, requestFor(this.#targets.authority));
    await assertReads(client, OK);
    const target = await this.#targets.accept();
    const echo = async () => {
      await sendText(client, "ping");
      await assertReads(target, "ping");
      await sendText(target, "pong");
      await assertReads(client, "pong");
    };
    await echo();
    return { client, target, echo };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

async function assertSoon(what: string, since: number, promise: Promise<unknown>): Promise<void> {
  await within(SLACK_MS, what, promise);
  const tookMs = Math.round(performance.now() - since);
  assert(tookMs < SOON_MS, `${what}: ${tookMs} ms`);
}

Deno.test("restarts: an agent that is killed and started anew is noticed when it connects", async () => {
  await using site = await Site.start();
  const agent = await site.startAgent();
  const { client } = await site.tunnel();
  const seen = lookAt(client);
  agent.kill("SIGKILL");
  const since = performance.now();
  await site.startAgent();
  const told = assertSoon("the client's reset", since, seen);
  await assertSoon("a new tunnel", since, site.tunnel());
  await told;
  assertEquals(await seen, RESET);
  await site.server.line(/"tunnel ended" .*by=agent reason=connection-lost/);
});

Deno.test("restarts: an agent that is killed is noticed when it acknowledges nothing, if there is another", async () => {
  await using site = await Site.start();
  const agent = await site.startAgent();
  const { client, echo } = await site.tunnel();
  await site.startAgent();
  // It answers to the doubt that the other one's certificate has raised.
  await echo();
  const seen = lookAt(client);
  agent.kill("SIGKILL");
  const since = performance.now();
  await sendText(client, "is anybody there?");
  await assertSoon("the client's reset", since, seen);
  assertEquals(await seen, RESET);
  await site.server.line(/"agent disconnected" .*no answer to what was sent/);
});

Deno.test("restarts: an agent that stalls for a second keeps its tunnels, with others of its certificate", async () => {
  await using site = await Site.start();
  const agents = [await site.startAgent(), await site.startAgent()];
  const tunnels = [await site.tunnel(), await site.tunnel(), await site.tunnel()];
  for (const agent of agents) {
    agent.kill("SIGSTOP");
    const resumed = sleep(1_000).then(() => agent.kill("SIGCONT"));
    const echoes = tunnels.map(({ echo }) => echo());
    await site.startAgent();
    await resumed;
    await within(SLACK_MS, "the echoes", Promise.all(echoes));
  }
  // Much later than they would have been given up.
  await sleep(2_000);
  await Promise.all(tunnels.map(({ echo }) => echo()));
  assertEquals(site.server.lines.filter((line) => line.includes("agent disconnected")), []);
});

Deno.test("restarts: a server that is killed and started anew is noticed at once", async () => {
  await using site = await Site.start();
  const agent = await site.startAgent();
  const { target } = await site.tunnel();
  const seen = lookAt(target);
  for (const downMs of [0, 1_000]) {
    site.server.kill("SIGKILL");
    await site.server.status;
    await sleep(downMs);
    const since = performance.now();
    const server = await site.startServer();
    await assertSoon("the agent's return", since, server.line(/"agent connected"/, SLACK_MS));
    await site.tunnel();
  }
  assertEquals(await within(SLACK_MS, "the target's reset", seen), RESET);
  await agent.line(/"tunnel ended" .*by=server reason=connection-lost/);
});
