// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The three programs together, in this process and on loopback: what a client of the server sees, and what a target. */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { deadline } from "@std/async/deadline";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { runAgent } from "../agent.ts";
import type { AgentConfig } from "../lib/agent_session.ts";
import { type Duplex, tcpDuplex, writeAll } from "../lib/duplex.ts";
import { UsageError } from "../lib/errors.ts";
import { configureLog, resetLog } from "../lib/log.ts";
import { live, QuicEndpoint } from "../lib/quic/mod.ts";
import { runPassthrough } from "../passthrough.ts";
import { runServer, type ServerConfig } from "../server.ts";
import { eventually } from "./support/eventually.ts";
import { readExactly, readToEnd } from "./support/memory_duplex.ts";
import { ALPN, assertNothingLive, clientTls, serverTls } from "./support/quic.ts";
import { ResettableTcp } from "./support/tcp_pair.ts";

/** Time after which a test, or a program that was told to stop, is taken to hang. */
const TEST_MS = 30_000;
const PROMPT_MS = 5_000;

const loopback = (port: number) => ({ hostname: "127.0.0.1", port });

/** Port 1 is privileged, and outside of what systems hand out: nothing listens there by chance. */
const NOBODY = "127.0.0.1:1";

const dialect = { server: ["qrht/1", "quic-echo-example"], agent: ["qrht/1", "quic-echo-example"] };

const OK = "HTTP/1.1 200 OK\r\n\r\n";

/** Waits for what has nothing left to wait for. */
function soon<T>(what: string, promise: Promise<T>): Promise<T> {
  return within(PROMPT_MS, what, promise);
}

async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  try {
    return await deadline(promise, ms);
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "TimeoutError")) throw error;
    throw new Error(`not within ${ms} ms: ${what}`);
  }
}

/** A program under way. */
class Running {
  readonly done: Promise<void>;
  readonly #stop = new AbortController();

  constructor(run: (signal: AbortSignal) => Promise<void>) {
    this.done = run(this.#stop.signal);
    this.done.catch(() => {});
  }

  abort(): void {
    this.#stop.abort();
  }

  /** @throws when it does not stop soon */
  async stop(): Promise<void> {
    this.abort();
    await soon("the program's stop", this.done);
  }
}

interface Server extends Running {
  readonly tcpPort: number;
  readonly quicPort: number;
}

interface Target {
  /** Its address, as a request has it. */
  readonly authority: string;
  readonly port: number;
  accept(): Promise<Duplex>;
}

/** Programs, clients and targets of one test. */
class Network implements AsyncDisposable {
  readonly #programs: Running[] = [];
  readonly #ends: Duplex[] = [];
  readonly #listeners: Deno.TcpListener[] = [];
  readonly #serving: Promise<void>[] = [];

  async server(config: Partial<ServerConfig> = {}): Promise<Server> {
    const ready = Promise.withResolvers<{ tcpPort: number; quicPort: number }>();
    const program = this.#start((signal) =>
      runServer({
        listenTcp: loopback(0),
        listenQuic: loopback(0),
        tls: serverTls,
        alpn: dialect.server,
        agentWaitMs: 20_000,
        ...config,
      }, {
        signal,
        ready: ({ tcp, quic }) => ready.resolve({ tcpPort: tcp.port, quicPort: quic.port }),
      })
    );
    program.done.catch(ready.reject);
    return Object.assign(program, await ready.promise);
  }

  agent(server: Server, config: Partial<AgentConfig> = {}): Running {
    return this.#start((signal) => runAgent({ ...agentConfig(server), ...config }, { signal }));
  }

  passthrough(server: Server, upstreamPort: number): Running {
    const config = { ...agentConfig(server), upstream: loopback(upstreamPort) };
    return this.#start((signal) => runPassthrough(config, { signal }));
  }

  /** A TCP connection to the server. */
  async client(server: Server): Promise<Duplex> {
    return this.own(tcpDuplex(await Deno.connect(loopback(server.tcpPort))));
  }

  target(options: { tcpBacklog?: number } = {}): Target {
    const listener = Deno.listen({ ...loopback(0), ...options });
    this.#listeners.push(listener);
    const { port } = listener.addr as Deno.NetAddr;
    return {
      port,
      authority: `127.0.0.1:${port}`,
      accept: async () => this.own(tcpDuplex(await listener.accept())),
    };
  }

  /** A target that serves each connection in the same way; one that fails is its own concern. */
  servingTarget(serve: (connection: Duplex) => Promise<void>): Target {
    const target = this.target();
    const acceptAll = async () => {
      for (;;) {
        const connection = await target.accept();
        this.#serving.push(serve(connection).catch(() => {}).finally(() => connection.abort()));
      }
    };
    this.#serving.push(acceptAll().catch(() => {}));
    return target;
  }

  /** Writes without an end, until that fails. */
  flood(to: Duplex): void {
    const bytes = pattern(1 << 20);
    const send = async () => {
      for (;;) await writeAll(to, bytes);
    };
    this.#serving.push(send().catch(() => {}));
  }

  /** Aborts a carrier at the end of the test. */
  own<T extends Duplex>(end: T): T {
    this.#ends.push(end);
    return end;
  }

  /** Asserts that no tunnel outlives the connections at its ends. */
  async end(): Promise<void> {
    await this.#endConnections();
    await eventually("all tunnels have ended", () => live.streams === 0, PROMPT_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#endConnections();
    for (const program of this.#programs.toReversed()) program.abort();
    for (const program of this.#programs) await program.done.catch(() => {});
  }

  async #endConnections(): Promise<void> {
    for (const listener of this.#listeners.splice(0)) listener.close();
    for (const end of this.#ends) end.abort();
    for (const end of this.#ends.splice(0)) await end[Symbol.asyncDispose]();
    for (const served of this.#serving.splice(0)) await served;
  }

  #start(run: (signal: AbortSignal) => Promise<void>): Running {
    const program = new Running(run);
    this.#programs.push(program);
    return program;
  }
}

function agentConfig(server: Server): AgentConfig {
  return {
    server: loopback(server.quicPort),
    serverName: "quic-tunnel-server",
    tls: clientTls,
    alpn: dialect.agent,
    dialTimeoutMs: 10_000,
  };
}

function test(name: string, fn: (net: Network) => Promise<void>): void {
  Deno.test(name, async () => {
    {
      await using net = new Network();
      await within(TEST_MS, "the test", fn(net));
      await net.end();
    }
    assertNothingLive();
  });
}

/** What the programs log meanwhile. */
function logLines(verbosity: number): string[] & Disposable {
  const lines: string[] = [];
  configureLog(verbosity, (line) => lines.push(line));
  return Object.assign(lines, { [Symbol.dispose]: resetLog });
}

const utf8 = new TextEncoder();
const text = new TextDecoder();

async function sendText(to: Duplex, message: string): Promise<void> {
  await writeAll(to, utf8.encode(message));
}

async function assertReads(from: Duplex, message: string): Promise<void> {
  assertEquals(text.decode(await readExactly(from, message.length)), message);
}

async function readText(from: Duplex): Promise<string> {
  return text.decode(await readToEnd(from));
}

/** Reads up to the end of any sort. */
async function readUntilOver(from: Duplex): Promise<string> {
  let read = "";
  const buffer = new Uint8Array(64 << 10);
  try {
    for (let n; (n = await from.read(buffer)) !== null;) read += text.decode(buffer.subarray(0, n));
  } catch {
    // Reset: also an end.
  }
  return read;
}

function requestFor(authority: string): string {
  return `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`;
}

/** A server with an agent and a target, and a tunnel through them. */
async function openTunnel(net: Network) {
  const server = await net.server();
  const agent = net.agent(server);
  const target = net.target();
  const client = await net.client(server);
  await sendText(client, requestFor(target.authority));
  await assertReads(client, OK);
  return { server, agent, target, client, atTarget: await target.accept() };
}

/** What a client reads that sends a request and then waits for the end. */
async function ask(net: Network, server: Server, request: string): Promise<string> {
  const client = await net.client(server);
  await sendText(client, request);
  const answer = await readText(client);
  client.abort();
  return answer;
}

/** Bytes in which a lost, doubled or misplaced piece shows. */
function pattern(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0, x = seed; i < length; i++) {
    x = (Math.imul(x, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = x >>> 16;
  }
  return bytes;
}

/** Compares fast: `assertEquals()` takes seconds for megabytes. */
function assertSameBytes(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  const wrong = actual.findIndex((byte, i) => byte !== expected[i]);
  assertEquals(wrong, -1, `wrong byte at offset ${wrong}`);
}

test("runAgent() answers a CONNECT with these bytes and nothing more", async (net) => {
  const { client, atTarget } = await openTunnel(net);
  await sendText(atTarget, "first bytes of the target");
  await atTarget.closeWrite();
  assertEquals(await readText(client), "first bytes of the target");
});

test("runAgent() connects to the request target, whatever Host says", async (net) => {
  const server = await net.server();
  net.agent(server);
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  for (const host of ["Host: 127.0.0.1\r\n", `Host: ${NOBODY}\r\n`, ""]) {
    const answer = await ask(net, server, `CONNECT ${target.authority} HTTP/1.1\r\n${host}\r\n`);
    assertEquals(answer, `${OK}here`);
  }
});

test("runAgent() takes a head that comes byte by byte", async (net) => {
  const server = await net.server();
  net.agent(server);
  const target = net.target();
  const client = await net.client(server);
  for (const byte of requestFor(target.authority)) await sendText(client, byte);
  await assertReads(client, OK);
});

test("runAgent() carries on the bytes that come with the head", async (net) => {
  const server = await net.server();
  net.agent(server);
  for (const length of [1, 5_000, 300_000]) {
    const target = net.target();
    const client = await net.client(server);
    const early = pattern(length);
    const sending = (async () => {
      const head = utf8.encode(requestFor(target.authority));
      const all = new Uint8Array(head.length + length);
      all.set(head);
      all.set(early, head.length);
      await writeAll(client, all);
      await client.closeWrite();
    })();
    const atTarget = await target.accept();
    assertSameBytes(await readToEnd(atTarget), early);
    await sending;
    await atTarget.closeWrite();
    assertEquals(await readText(client), OK);
  }
});

test("runAgent() answers what is no CONNECT with its status and the cause", async (net) => {
  const server = await net.server();
  net.agent(server);
  const cases: [request: string, answer: RegExp][] = [
    ["not http at all\r\n\r\n", /^HTTP\/1\.1 400 .+\r\n/],
    ["\x16\x03\x01\x02\x00", /^HTTP\/1\.1 400 TLS bytes where an HTTP request was expected\r\n/],
    ["CONNECT no-port HTTP/1.1\r\n\r\n", /^HTTP\/1\.1 400 bad address "no-port": no port\r\n/],
    ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", /^HTTP\/1\.1 405 .*\r\nAllow: CONNECT\r\n/s],
    [`CONNECT ${NOBODY} HTTP/2.0\r\n\r\n`, /^HTTP\/1\.1 505 .*HTTP\/2\.0.*\r\n/],
    [
      `CONNECT ${NOBODY} HTTP/1.1\r\nX: ${"x".repeat(20_000)}\r\n\r\n`,
      /^HTTP\/1\.1 431 .*16384.*\r\n/,
    ],
  ];
  for (const [request, expected] of cases) {
    const answer = await ask(net, server, request);
    assertMatch(answer, expected);
    assertStringIncludes(
      answer,
      "\r\nProxy-Status: quic-tunnel-agent; error=http_request_error; details=",
    );
    assertStringIncludes(answer, "\r\nContent-Length: 0\r\nConnection: close\r\n");
    assert(answer.endsWith("\r\n\r\n"), "something behind the head");
  }
});

test("runAgent() answers 400 when the request ends within its head", async (net) => {
  const server = await net.server();
  net.agent(server);
  const client = await net.client(server);
  await sendText(client, `CONNECT ${NOBODY} HTTP/1.1\r\n`);
  await client.closeWrite();
  assertMatch(await readText(client), /^HTTP\/1\.1 400 the request ends within its head\r\n/);
});

test("runAgent() answers 408 when the head does not come to its end", async (net) => {
  const server = await net.server();
  net.agent(server);
  const client = await net.client(server);
  const { setTimeout } = globalThis;
  const fast = (fn: () => void, ms?: number) => setTimeout(fn, ms === 10_000 ? 50 : ms);
  globalThis.setTimeout = fast as typeof setTimeout;
  try {
    await sendText(client, `CONNECT ${NOBODY} HTTP/1.1\r\n`);
    assertMatch(await readText(client), /^HTTP\/1\.1 408 .+\r\n/);
  } finally {
    globalThis.setTimeout = setTimeout;
  }
});

test("runAgent() lets go of a client that leaves before it has asked", async (net) => {
  const server = await net.server();
  net.agent(server);
  const client = await net.client(server);
  await client.closeWrite();
  assertEquals(await soon("the client's end", readText(client)), "");
});

test("runAgent() tells in the reason phrase why a target was not reached", async (net) => {
  const server = await net.server();
  net.agent(server);
  const answer = await ask(net, server, requestFor(NOBODY));
  const cause = `${NOBODY}: connection refused`;
  assertEquals(answer.split("\r\n"), [
    `HTTP/1.1 502 ${cause}`,
    `Proxy-Status: quic-tunnel-agent; error=connection_refused; details="${cause}"`,
    "Content-Length: 0",
    "Connection: close",
    "",
    "",
  ]);
});

/** A target whose system answers no attempt to connect, until what waits in its queue has been accepted. */
async function silentTarget(net: Network): Promise<Target> {
  const target = net.target({ tcpBacklog: 1 });
  // One more than the backlog says.
  for (let i = 0; i < 2; i++) net.own(tcpDuplex(await Deno.connect(loopback(target.port))));
  return target;
}

/** Asserts that the connection which comes through at last, when nobody wants it any more, is closed. */
async function assertLateIsClosed(target: Target): Promise<void> {
  for (let i = 0; i < 2; i++) await target.accept();
  const late = await soon("the attempt that comes through", target.accept());
  assertEquals(await soon("its end", readUntilOver(late)), "");
}

// How a full queue is dealt with differs from system to system.
const onlyOnLinux = Deno.build.os === "linux" ? test : () => {};

onlyOnLinux("runAgent() answers 504 when a target does not answer in time", async (net) => {
  const server = await net.server();
  net.agent(server, { dialTimeoutMs: 50 });
  const target = await silentTarget(net);
  const answer = await ask(net, server, requestFor(target.authority));
  const cause = `${target.authority}: no answer in 50 ms`;
  assert(answer.startsWith(`HTTP/1.1 504 ${cause}\r\n`), answer);
  assertStringIncludes(answer, `; error=connection_timeout; details="${cause}"\r\n`);
  await assertLateIsClosed(target);
});

onlyOnLinux("runAgent() stops while it waits for a target", async (net) => {
  using lines = logLines(4);
  const server = await net.server();
  const agent = net.agent(server, { dialTimeoutMs: 15_000 });
  const target = await silentTarget(net);
  const client = await net.client(server);
  await sendText(client, requestFor(target.authority));
  await eventually("the agent dials", () => lines.some((line) => line.includes("connect request")));
  await agent.stop();
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await assertLateIsClosed(target);
});

test("runAgent() answers also a client that sends on and on", async (net) => {
  const server = await net.server();
  net.agent(server);
  for (let i = 0; i < 3; i++) {
    for (const [request, status] of [[requestFor(NOBODY), 502], ["no request\r\n", 400]] as const) {
      const client = await net.client(server);
      await sendText(client, request);
      net.flood(client);
      const answer = await soon("the answer", readUntilOver(client));
      assertMatch(answer, new RegExp(`^HTTP/1\\.1 ${status} .*\\r\\n\\r\\n$`, "s"));
      client.abort();
    }
  }
});

test("runAgent() serves further requests after one that it refused", async (net) => {
  const server = await net.server();
  net.agent(server);
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  for (let i = 0; i < 3; i++) {
    assertMatch(await ask(net, server, "nonsense\r\n\r\n"), / 400 /);
    assertMatch(await ask(net, server, requestFor(NOBODY)), / 502 /);
    assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  }
});

for (const first of ["client", "target"] as const) {
  for (const late of [[], ["late", "later", "last"]]) {
    const what = late.length > 0 ? "carries what the other end sends later" : "ends the other end";
    test(`a tunnel whose ${first} ends first ${what}`, async (net) => {
      const { client, atTarget } = await openTunnel(net);
      const [from, to] = first === "client" ? [client, atTarget] : [atTarget, client];
      await sendText(from, "request");
      await from.closeWrite();
      assertEquals(await readText(to), "request");
      for (const message of late) {
        await sendText(to, message);
        await assertReads(from, message);
      }
      await to.closeWrite();
      assertEquals(await readText(from), "");
    });
  }
}

test("a tunnel carries bytes both ways at once", async (net) => {
  const { client, atTarget } = await openTunnel(net);
  const up = pattern(6 << 20, 1), down = pattern(6 << 20, 2);
  const send = async (to: Duplex, bytes: Uint8Array) => {
    await writeAll(to, bytes);
    await to.closeWrite();
  };
  const [atTargetEnd, atClientEnd] = await Promise.all([
    readToEnd(atTarget),
    readToEnd(client),
    send(client, up),
    send(atTarget, down),
  ]);
  assertSameBytes(atTargetEnd, up);
  assertSameBytes(atClientEnd, down);
});

test("a tunnel leaves one line in the log of each program, when it has ended", async (net) => {
  using lines = logLines(2);
  const { client, atTarget, target } = await openTunnel(net);
  await sendText(client, "hello");
  await assertReads(atTarget, "hello");
  await sendText(atTarget, "bye");
  await atTarget.closeWrite();
  assertEquals(await readText(client), "bye");
  await client.closeWrite();
  const endings = () => lines.filter((line) => line.includes('"tunnel ended"'));
  await eventually("both have written theirs", () => endings().length >= 2);
  await net.end();
  assertEquals(endings().length, 2);
  const [ofAgent] = endings().filter((line) => line.includes(" DBG agent "));
  assertMatch(ofAgent!, / sent=5 received=3 durationMs=\d+ reason=end$/);
  assertStringIncludes(ofAgent!, ` target=${target.authority} `);
  const [ofServer] = endings().filter((line) => line.includes(" DBG server "));
  const [sent, received] = [requestFor(target.authority).length + 5, OK.length + 3];
  assertMatch(
    ofServer!,
    new RegExp(` sent=${sent} received=${received} durationMs=\\d+ reason=end$`),
  );
  assertStringIncludes(ofServer!, " agent=agent-1 ");
});

test("many tunnels at a time keep their bytes apart", async (net) => {
  const server = await net.server();
  net.agent(server);
  const echo = net.servingTarget(async (connection) => {
    await writeAll(connection, await readToEnd(connection));
    await connection.closeWrite();
  });
  await Promise.all(Array.from({ length: 40 }, async (_, i) => {
    const client = await net.client(server);
    const bytes = pattern(20_000 + i, i);
    await sendText(client, requestFor(echo.authority));
    await writeAll(client, bytes);
    await client.closeWrite();
    await assertReads(client, OK);
    assertSameBytes(await readToEnd(client), bytes);
  }));
});

test("a tunnel ends at the target when its client is reset", async (net) => {
  const server = await net.server();
  net.agent(server);
  const target = net.target();
  const client = net.own(await ResettableTcp.connect(server.tcpPort));
  await sendText(client, requestFor(target.authority));
  await assertReads(client, OK);
  const atTarget = await target.accept();
  await sendText(client, "hello");
  await assertReads(atTarget, "hello");
  client.abort();
  assertEquals(await soon("the target's end", readUntilOver(atTarget)), "");
});

/** A target that resets its connections. */
async function resettableTarget(net: Network) {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => sockets.push(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    authority: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    accept: async () =>
      net.own(new ResettableTcp(await eventually("a connection", () => sockets.shift()))),
    [Symbol.asyncDispose]: async () => {
      server.close();
      await once(server, "close");
    },
  };
}

test("a tunnel ends at the client when its target is reset", async (net) => {
  const server = await net.server();
  net.agent(server);
  await using target = await resettableTarget(net);
  const client = await net.client(server);
  await sendText(client, requestFor(target.authority));
  await assertReads(client, OK);
  const atTarget = await target.accept();
  await sendText(atTarget, "hello");
  await assertReads(client, "hello");
  atTarget.abort();
  assertEquals(await soon("the client's end", readUntilOver(client)), "");
  await atTarget[Symbol.asyncDispose]();
});

test("a tunnel delivers the answer of a target that refuses an upload and closes", async (net) => {
  const server = await net.server();
  net.agent(server);
  const target = net.servingTarget(async (connection) => {
    await readExactly(connection, 100_000);
    await sendText(connection, "too large");
  });
  for (let i = 0; i < 10; i++) {
    const client = await net.client(server);
    await sendText(client, requestFor(target.authority));
    await assertReads(client, OK);
    net.flood(client);
    assertEquals(await soon("the client's end", readUntilOver(client)), "too large");
    client.abort();
  }
});

test("a tunnel delivers the answer of a target that refuses an upload by a reset", async (net) => {
  const server = await net.server();
  net.agent(server);
  await using target = await resettableTarget(net);
  for (let i = 0; i < 10; i++) {
    const client = await net.client(server);
    await sendText(client, requestFor(target.authority));
    await assertReads(client, OK);
    net.flood(client);
    const atTarget = await target.accept();
    await readExactly(atTarget, 100_000);
    // What most programs do that close with bytes unread: the answer, and a reset right behind.
    await sendText(atTarget, "too large");
    atTarget.abort();
    assertEquals(await soon("the client's end", readUntilOver(client)), "too large");
    client.abort();
    await atTarget[Symbol.asyncDispose]();
  }
});

test("runServer() closes a client when there is no agent for agentWaitMs", async (net) => {
  for (const agentWaitMs of [0, 50]) {
    const server = await net.server({ agentWaitMs });
    const client = await net.client(server);
    await sendText(client, requestFor(NOBODY)).catch(() => {});
    assertEquals(await soon("the client's end", readUntilOver(client)), "");
  }
});

test("runServer() says which address it cannot listen on", async (net) => {
  const taken = net.target();
  const { quicPort } = await net.server();
  for (
    const [config, expected] of [
      [{ listenTcp: loopback(taken.port) }, `--listen-tcp 127.0.0.1:${taken.port}`],
      [{ listenQuic: loopback(quicPort) }, `--listen-quic 127.0.0.1:${quicPort}`],
    ] as const
  ) {
    await assertRejects(
      () => net.server(config),
      UsageError,
      `cannot listen on ${expected}: `,
    );
  }
});

test("runServer() serves a client whose agent comes within agentWaitMs", async (net) => {
  const server = await net.server();
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  const asking = ask(net, server, requestFor(target.authority));
  net.agent(server);
  assertEquals(await asking, `${OK}here`);
});

async function clientsAccepted(lines: readonly string[], count: number): Promise<void> {
  await eventually(
    `${count} clients are accepted`,
    () => lines.filter((line) => line.includes("accepted tcp connection")).length === count,
  );
}

test("runServer() stops while a client waits for an agent", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ agentWaitMs: 15_000 });
  const client = await net.client(server);
  await clientsAccepted(lines, 1);
  await server.stop();
  assertEquals(await readUntilOver(client), "");
});

/** An agent that takes one stream at a time and does nothing about it. */
async function narrowAgent(server: Server) {
  const endpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const connection = await endpoint.connect(
    { host: "127.0.0.1", port: server.quicPort },
    "quic-tunnel-server",
    { tls: clientTls, alpn: ALPN, maxStreams: 1 },
  );
  return { connection, [Symbol.asyncDispose]: () => endpoint.close() };
}

test("runServer() has a client wait until its agent has room for a stream", async (net) => {
  using lines = logLines(2);
  const server = await net.server();
  await using agent = await narrowAgent(server);
  const first = await net.client(server), second = await net.client(server);
  await clientsAccepted(lines, 2);
  await sendText(second, "second");
  await sendText(first, "first");
  for (const client of [first, second]) {
    const stream = await agent.connection.acceptStream();
    await sendText(stream, "answer");
    await stream.closeWrite();
    stream.stop(0);
    assertEquals(await soon("the answer", readText(client)), "answer");
    client.abort();
  }
});

test("runServer() closes a client when its agent has no room for openTimeoutMs", async (net) => {
  const server = await net.server({ openTimeoutMs: 50 });
  await using _agent = await narrowAgent(server);
  const first = await net.client(server), second = await net.client(server);
  // Whichever came first has the stream, and nothing to read from it.
  await soon("a client's end", Promise.any([first, second].map((client) => readToEnd(client))));
});

test("runServer() stops while a client waits for room at its agent", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ agentWaitMs: 15_000, openTimeoutMs: 15_000 });
  await using _agent = await narrowAgent(server);
  const clients = [await net.client(server), await net.client(server)];
  await clientsAccepted(lines, 2);
  await server.stop();
  for (const client of clients) assertEquals(await readUntilOver(client), "");
});

test("runServer() spreads clients over agents in turn, and over those that are left", async (net) => {
  const server = await net.server();
  const upstreams = ["A", "B"].map((name) =>
    net.servingTarget(async (connection) => {
      await assertReads(connection, "?");
      await sendText(connection, name);
    })
  );
  const [agentA] = upstreams.map(({ port }) => net.passthrough(server, port));
  const names = async (count: number) => {
    let names = "";
    while (names.length < count) names += await ask(net, server, "?");
    return names;
  };
  await eventually("both agents are connected", async () => new Set(await names(4)).size === 2);
  assertMatch(await names(6), /^(?:ABABAB|BABABA)$/);
  await agentA!.stop();
  await eventually("the server has noticed", async () => await names(2) === "BB");
  assertEquals(await names(3), "BBB");
});

test("runServer() waits for an agent anew when all have gone", async (net) => {
  using lines = logLines(0);
  const server = await net.server();
  const target = net.servingTarget((connection) => sendText(connection, "here"));
  const first = net.agent(server);
  assertEquals(await ask(net, server, requestFor(target.authority)), `${OK}here`);
  await first.stop();
  await eventually(
    "the server has noticed",
    () => lines.some((line) => line.includes('"agent disconnected"')),
  );
  const asking = ask(net, server, requestFor(target.authority));
  net.agent(server);
  assertEquals(await asking, `${OK}here`);
});

test("runPassthrough() connects each client to the upstream, both ways", async (net) => {
  const server = await net.server();
  const upstream = net.target();
  net.passthrough(server, upstream.port);
  for (let i = 0; i < 2; i++) {
    const client = await net.client(server);
    const bytes = pattern(500_000, i);
    const sending = writeAll(client, bytes).then(() => client.closeWrite());
    const atUpstream = await upstream.accept();
    assertSameBytes(await readToEnd(atUpstream), bytes);
    await sending;
    await sendText(atUpstream, "late answer");
    await atUpstream.closeWrite();
    assertEquals(await readText(client), "late answer");
  }
});

test("runPassthrough() lets the upstream end first", async (net) => {
  const server = await net.server();
  const upstream = net.target();
  net.passthrough(server, upstream.port);
  const client = await net.client(server);
  await sendText(client, "hello");
  const atUpstream = await upstream.accept();
  await atUpstream.closeWrite();
  assertEquals(await readText(client), "");
  await sendText(client, ", world");
  await client.closeWrite();
  assertEquals(await readText(atUpstream), "hello, world");
});

test("runPassthrough() ends clients while the upstream cannot be reached", async (net) => {
  const server = await net.server();
  net.passthrough(server, 1);
  for (let i = 0; i < 2; i++) {
    const client = await net.client(server);
    await sendText(client, "hello");
    assertEquals(await soon("the client's end", readUntilOver(client)), "");
  }
});

for (const program of ["agent", "server"] as const) {
  test(`the ${program} ends its tunnels at both ends before it has stopped`, async (net) => {
    using lines = logLines(2);
    const tunnel = await openTunnel(net);
    const { client, atTarget } = tunnel;
    net.flood(atTarget);
    await readExactly(client, 100_000);
    await tunnel[program].stop();
    const [ending] = lines.filter((line) => line.includes(` DBG ${program} "tunnel ended" `));
    assertMatch(ending ?? "no line about the tunnel", / reason=(?:aborted|error)/);
    await soon("both ends", Promise.all([readUntilOver(client), readUntilOver(atTarget)]));
  });
}

test("the programs stop while neither end of a tunnel reads", async (net) => {
  const { server, agent, client, atTarget } = await openTunnel(net);
  const sent = { client: 0, target: 0 };
  const flood = async (from: "client" | "target", to: Duplex) => {
    const bytes = new Uint8Array(64 << 10);
    for (;;) sent[from] += await to.write(bytes);
  };
  const floods = [flood("client", client), flood("target", atTarget)];
  let before = "";
  await eventually("both directions are full", async () => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const now = JSON.stringify(sent);
    return now === before || (before = now, false);
  });
  await agent.stop();
  await server.stop();
  await Promise.allSettled([readUntilOver(client), readUntilOver(atTarget)]);
  await Promise.allSettled(floods);
});

test("runAgent() stops when it is told so just as it has connected", async (net) => {
  const server = await net.server();
  let isConnected = false;
  // Written between the end of connecting and the start of serving.
  configureLog(0, (line) => {
    if (!line.includes('"connected to quic server"')) return;
    isConnected = true;
    running.abort();
  });
  const running = net.agent(server);
  try {
    await soon("the agent's stop", running.done);
  } finally {
    resetLog();
  }
  assert(isConnected);
});

test("runAgent() comes back when the server has been restarted", async (net) => {
  const { server, client, atTarget, target } = await openTunnel(net);
  await server.stop();
  await soon("both ends", Promise.all([readUntilOver(client), readUntilOver(atTarget)]));
  const again = await net.server({ listenQuic: loopback(server.quicPort) });
  const asking = ask(net, again, requestFor(target.authority));
  const atTargetAgain = await target.accept();
  await sendText(atTargetAgain, "back again");
  await atTargetAgain.closeWrite();
  assertEquals(await asking, `${OK}back again`);
});
