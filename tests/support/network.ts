// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The three programs together, in this process and on loopback: what a client of the server sees, and what a target. */

import { assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { type ConnectAgentConfig, runAgent } from "../../agent.ts";
import type { Transport } from "../../lib/agent/transport_policy.ts";
import { agentFlags, passthroughFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { QRHT_ALPN, RAW_ALPN } from "../../lib/qrht/dialect.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { configureLog, resetLog } from "../../lib/log.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { live, type QuicLibrary } from "../../lib/quic/mod.ts";
import { type PassthroughConfig, runPassthrough } from "../../passthrough.ts";
import { runServer } from "../../server.ts";
import type { ServerConfig } from "../../lib/server/config.ts";
import type { LiveConfig } from "../../lib/server/reload.ts";
import { pattern } from "./bytes.ts";
import { eventually } from "./eventually.ts";
import { defaultsOf } from "./flag_defaults.ts";
import { readExactly, readToEnd } from "./memory_duplex.ts";
import { assertNothingLive, clientTls, serverTls } from "./quic.ts";
import type { Awaitable } from "../../lib/wait.ts";

/** Time after which a test, or a program that was told to stop, is taken to hang. */
const TEST_MS = 30_000;
export const PROMPT_MS = 5_000;

export const loopback = (port: number) => ({ hostname: "127.0.0.1", port });

/** Port 1 is privileged, and outside of what systems hand out: nothing listens there by chance. */
export const NOBODY = "127.0.0.1:1";

export const OK = "HTTP/1.1 200 OK\r\n\r\n";

/** Waits for what has nothing left to wait for. */
export function soon<T>(what: string, awaitable: Awaitable<T>): Promise<T> {
  return within(PROMPT_MS, what, awaitable);
}

export async function within<T>(ms: number, what: string, awaitable: Awaitable<T>): Promise<T> {
  try {
    return await deadline(Promise.resolve(awaitable), ms);
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "TimeoutError")) throw error;
    throw new Error(`not within ${ms} ms: ${what}`);
  }
}

/** A program under way. */
export class Running {
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

export interface Server extends Running {
  readonly tcpPort: number;
  /** Those of all plain listeners for clients, the first of which is `tcpPort`. */
  readonly tcpPorts: readonly number[];
  readonly quicPort: number;
  /** Has it follow another configuration, as with `--config`. */
  change(changes: Partial<LiveConfig>): Promise<void>;
  /** That of `--listen-fallback`; NaN without it. */
  readonly fallbackPort: number;
}

export interface Target {
  /** Its address, as a request has it. */
  readonly authority: string;
  readonly port: number;
  accept(): Promise<Duplex>;
}

/** ALPN names of the two ends. */
export interface Dialects {
  readonly server: readonly string[];
  readonly agent: readonly string[];
  /** What makes the agent's connections. @default {"auto"} */
  readonly library?: QuicLibrary;
  /** What carries the datagrams. @default {"udp"} */
  readonly transport?: Transport;
}

/** ALPN names of an end that knows this project's dialect as well as the raw one. */
export const OWN = [QRHT_ALPN, RAW_ALPN];
const RAW = [RAW_ALPN];

/** Every combination of ends that know this project's dialect with ends that do not, as the Go programs. */
export const combinations: Readonly<Record<string, Dialects>> = {
  "qrht/1": { server: OWN, agent: OWN },
  "qrht/1, the agent on Deno's QUIC": { server: OWN, agent: OWN, library: "deno" },
  "qrht/1 over TCP": { server: OWN, agent: OWN, transport: "tcp" },
  "qrht/1 over TCP, the agent on Deno's QUIC": {
    server: OWN,
    agent: OWN,
    library: "deno",
    transport: "tcp",
  },
  "raw by the server": { server: RAW, agent: OWN },
  "raw by the agent": { server: OWN, agent: RAW },
  "raw": { server: RAW, agent: RAW },
};

/** What the agents of a test are told: what their flags say by default, but no time to drain. */
export function agentConfig(
  server: Pick<Server, "quicPort">,
  alpn: readonly string[],
): ConnectAgentConfig & PassthroughConfig {
  return {
    ...defaultsOf(passthroughFlags),
    ...defaultsOf(agentFlags),
    servers: [loopback(server.quicPort)],
    tls: clientTls,
    alpn,
    drainTimeoutMs: 0,
  };
}

/** Programs, clients and targets of one test. */
export class Network implements AsyncDisposable {
  /** What server and agents that follow the combination speak. */
  readonly isRaw: boolean;
  /** Whether agents that follow the combination are on Deno's own QUIC. */
  readonly isOnDeno: boolean;
  /** Whether agents that follow the combination connect over TCP. */
  readonly isOverTcp: boolean;
  readonly #programs: Running[] = [];
  readonly #ends: Duplex[] = [];
  readonly #listeners: Deno.TcpListener[] = [];
  readonly #serving: Promise<void>[] = [];
  readonly #dialects: Dialects;
  readonly #connections: Pick<ConnectAgentConfig, "quicLibrary" | "transport">;

  constructor(dialects: Dialects) {
    this.#dialects = dialects;
    this.isOnDeno = dialects.library === "deno";
    const { library = "auto", transport = "auto" } = dialects;
    this.#connections = { quicLibrary: library, transport };
    this.isOverTcp = transport === "tcp";
    this.isRaw = [dialects.server, dialects.agent].includes(RAW);
  }

  async server(
    config: Partial<ServerConfig> = {},
    monitor = new Monitor("proxy-server"),
  ): Promise<Server> {
    const ready = Promise.withResolvers<
      Pick<Server, "tcpPort" | "tcpPorts" | "quicPort" | "fallbackPort">
    >();
    const followed = Promise.withResolvers<(changes: LiveConfig) => Promise<void>>();
    const { listenQuic = loopback(0) } = config;
    // Agents connect to the same port number over TCP.
    const port = listenQuic.port || (this.isOverTcp ? freeTcpPort() : 0);
    const quic = { ...listenQuic, port };
    const values = {
      ...defaultsOf(serverFlags),
      listenTcp: [loopback(0)],
      listenFallback: this.isOverTcp ? quic : undefined,
      tls: serverTls,
      alpn: this.#dialects.server,
      agentWaitMs: 20_000,
      drainTimeoutMs: 0,
      // Within the file descriptors of any machine.
      maxConnections: 500,
      ...config,
      listenQuic: quic,
    };
    const program = this.#start((signal) =>
      runServer(values, {
        signal,
        monitor,
        follow: followed.resolve,
        ready: ({ fronts, quic, fallback }) => {
          const tcpPorts = fronts.filter(({ kind }) => kind === "tcp")
            .map(({ address }) => Number(address.split(":").at(-1)));
          const [tcpPort = NaN] = tcpPorts;
          const fallbackPort = fallback?.port ?? NaN;
          ready.resolve({ tcpPort, tcpPorts, quicPort: quic.port, fallbackPort });
        },
      })
    );
    program.done.catch(ready.reject);
    const change = async (changes: Partial<LiveConfig>) =>
      (await followed.promise)({ ...values, ...changes });
    return Object.assign(program, await ready.promise, { change });
  }

  agent(
    server: Pick<Server, "quicPort">,
    config: Partial<ConnectAgentConfig> = {},
    monitor = new Monitor("proxy-agent"),
  ): Running {
    return this.#start((signal) =>
      runAgent({ ...agentConfig(server, this.#dialects.agent), ...this.#connections, ...config }, {
        signal,
        monitor,
      })
    );
  }

  passthrough(
    server: Pick<Server, "quicPort">,
    upstreamPort: number,
    config: Partial<PassthroughConfig> = {},
    monitor = new Monitor("proxy-passthrough"),
  ): Running {
    const upstream = loopback(upstreamPort);
    return this.#start((signal) =>
      runPassthrough({
        ...agentConfig(server, this.#dialects.agent),
        ...this.#connections,
        upstream,
        ...config,
      }, {
        signal,
        monitor,
      })
    );
  }

  /** A server, and a proxy-agent that is its only one. */
  async serverWithAgent(config: Partial<ConnectAgentConfig> = {}): Promise<Server> {
    const server = await this.server();
    this.agent(server, config);
    return server;
  }

  /** A tunnel from a client of the server to a target, through a proxy-agent. */
  async tunnel(server: Server, target: Target = this.target()) {
    const client = await this.client(server);
    await sendText(client, requestFor(target.authority));
    await assertReads(client, OK);
    return { client, target, atTarget: await target.accept() };
  }

  /** A target that says `here` to whoever connects. */
  greeter(): Target {
    return this.servingTarget((connection) => sendText(connection, "here"));
  }

  /** A TCP connection to the server. */
  async client(server: Pick<Server, "tcpPort">): Promise<Duplex> {
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
        this.#serving.push(
          serve(connection).catch(() => {}).finally(() => connection[Symbol.asyncDispose]()),
        );
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
    this.abortPrograms();
    for (const program of this.#programs) await program.done.catch(() => {});
  }

  protected abortPrograms(): void {
    for (const program of this.#programs.toReversed()) program.abort();
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

/** The number of a port that nothing listens on. */
function freeTcpPort(): number {
  using listener = Deno.listen(loopback(0));
  return listener.addr.port;
}

/** Registers a test in every combination of dialects, or in those that are told. */
export function test(
  name: string,
  fn: (net: Network) => Promise<void>,
  only: readonly string[] = Object.keys(combinations),
): void {
  for (const combination of only) {
    Deno.test(
      `${name} (${combination})`,
      () => withNetwork(new Network(combinations[combination]!), fn),
    );
  }
}

/** Runs a test in a network that ends with it, and of which nothing is live after that. */
export async function withNetwork<N extends Network>(
  net: N,
  fn: (net: N) => Promise<void>,
): Promise<void> {
  {
    await using _ = net;
    await within(TEST_MS, "the test", fn(net));
    await net.end();
  }
  assertNothingLive();
}

/** A target whose system answers no attempt to connect, until what waits in its queue has been accepted. Linux only. */
export async function silentTarget(
  net: { target: Network["target"]; own: Network["own"] },
): Promise<Target> {
  const target = net.target({ tcpBacklog: 1 });
  // One more than the backlog says.
  for (let i = 0; i < 2; i++) net.own(tcpDuplex(await Deno.connect(loopback(target.port))));
  return target;
}

/**
 * Asserts that nothing comes of attempts at a silent target that were given up: it gets what has waited in its queue,
 * then a connection of the test's own. An attempt that went on would be seen by the sanitizer of operations.
 */
export async function assertGivenUp(
  net: { own: Network["own"] },
  target: Target,
): Promise<void> {
  for (let i = 0; i < 2; i++) await target.accept();
  const own = net.own(tcpDuplex(await Deno.connect(loopback(target.port))));
  await sendText(own, "the test's own");
  await soon("its bytes", assertReads(await target.accept(), "the test's own"));
}

/** What the programs log meanwhile. */
export function logLines(verbosity: number): string[] & Disposable {
  const lines: string[] = [];
  configureLog(verbosity, (line) => lines.push(line));
  return Object.assign(lines, { [Symbol.dispose]: resetLog });
}

/** Lines of a log that have all of these in them. */
export function linesWith(lines: readonly string[], ...parts: readonly string[]): string[] {
  return lines.filter((line) => parts.every((part) => line.includes(part)));
}

/** The first such line, once there is one. */
export function lineWith(lines: readonly string[], ...parts: readonly string[]): Promise<string> {
  return eventually(`a line with ${parts.join(" and ")}`, () => linesWith(lines, ...parts)[0]);
}

export const utf8 = new TextEncoder();
export const text = new TextDecoder();

export async function sendText(to: Duplex, message: string): Promise<void> {
  await writeAll(to, utf8.encode(message));
}

export async function assertReads(from: Duplex, message: string): Promise<void> {
  assertEquals(text.decode(await readExactly(from, message.length)), message);
}

export async function readText(from: Duplex): Promise<string> {
  return text.decode(await readToEnd(from));
}

/** Reads up to the end of any sort. */
export async function readUntilOver(from: Duplex): Promise<string> {
  let read = "";
  const buffer = new Uint8Array(64 << 10);
  try {
    for (let n; (n = await from.read(buffer)) !== null;) read += text.decode(buffer.subarray(0, n));
  } catch {
    // Reset: also an end.
  }
  return read;
}

export function requestFor(authority: string): string {
  return `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`;
}

/** A server with an agent and a target, and a tunnel through them. */
export async function openTunnel(net: Network, config: Partial<ServerConfig> = {}) {
  const server = await net.server(config);
  const agent = net.agent(server);
  return { server, agent, ...await net.tunnel(server) };
}

/** Asserts that a client of the server gets to a target. */
export async function assertServed(net: Network, server: Server): Promise<void> {
  assertEquals(await ask(net, server, requestFor(net.greeter().authority)), `${OK}here`);
}

/** What a client reads that sends a request and then waits for the end, of any sort. */
export async function ask(
  net: Network,
  server: Pick<Server, "tcpPort">,
  request: string,
): Promise<string> {
  const client = await net.client(server);
  await sendText(client, request);
  const answer = await readUntilOver(client);
  client.abort();
  return answer;
}
