// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Tunnels: a server and an agent, in a process each. */
import type { Authority } from "../lib/net/authority.ts";
import { agentFlags, type Flags, serverFlags } from "../tools/project_program.ts";
import { benchProgram, type Program, projectProgram } from "./program.ts";
import { straight, type Way } from "./way.ts";

/** A server that listens at these ports. */
export interface ServerProgram {
  readonly program: Program;
  readonly tcp: number;
  readonly quic: number;
}

/** A server and an agent that are connected. */
export interface Tunnel extends AsyncDisposable {
  readonly server: Program;
  readonly agent: Program;
  /** Where the server listens. */
  readonly ports: { readonly tcp: number; readonly quic: number };
}

/** How both ends of a tunnel are started. */
export interface TunnelOptions {
  readonly certificates: string;
  readonly signal: AbortSignal;
  readonly startServer?: (flags: Flags) => Program;
  readonly startAgent?: (flags: Flags) => Program;
  /** What both are told besides. */
  readonly flags?: Flags;
  /** What the server is told besides. */
  readonly serverFlags?: Flags;
  /** Ports that the server takes. @default {0, 0} any */
  readonly ports?: { readonly tcp: number; readonly quic: number };
  /** Where the server's QUIC listener is. @default {"127.0.0.1"} */
  readonly hostname?: string;
}

/** What a program has said that is waited for; it is ended when that fails. */
async function orEnd<Said>(program: Program, said: () => Promise<Said>): Promise<Said> {
  try {
    return await said();
  } catch (error) {
    await program[Symbol.asyncDispose]();
    throw error;
  }
}

const startProject = (task: "server" | "agent") => (flags: Flags) => projectProgram(task, flags);

/** Starts a server, and waits until it listens. */
export async function startServer(options: TunnelOptions): Promise<ServerProgram> {
  const { certificates, signal, ports = { tcp: 0, quic: 0 }, hostname = "127.0.0.1" } = options;
  const program = (options.startServer ?? startProject("server"))({
    "listen-tcp": `127.0.0.1:${ports.tcp}`,
    "listen-quic": `${hostname}:${ports.quic}`,
    ...serverFlags(certificates),
    ...options.flags,
    ...options.serverFlags,
  });
  return await orEnd(program, async () => {
    const [, quic] = await program.said(/quic listener on [\d.]+:(\d+)/, signal);
    const [, tcp] = await program.said(/tcp listener on [\d.]+:(\d+)/, signal);
    return { program, tcp: Number(tcp), quic: Number(quic) };
  });
}

/** Starts an agent of a server, and waits until it is connected. */
export async function startAgent(
  options: TunnelOptions,
  server: { readonly quic: number },
): Promise<Program> {
  const { certificates, signal, hostname = "127.0.0.1" } = options;
  const program = (options.startAgent ?? startProject("agent"))({
    server: `${hostname}:${server.quic}`,
    ...agentFlags(certificates),
    ...options.flags,
  });
  await orEnd(program, () => program.said(/connected to quic server/, signal));
  return program;
}

/** Starts a tunnel, and waits until it is up. */
export async function startTunnel(options: TunnelOptions): Promise<Tunnel> {
  const { signal } = options;
  await using started = new AsyncDisposableStack();
  const { program: server, ...ports } = await startServer(options);
  started.use(server);
  const agent = started.use(await startAgent(options, ports));
  await server.said(/agent connected/, signal);
  const keep = started.move();
  return { server, agent, ports, [Symbol.asyncDispose]: () => keep.disposeAsync() };
}

/** Where requests and transfers end, in a process of its own. */
export interface Origin extends AsyncDisposable {
  readonly port: number;
}

/**
 * Starts an origin, and waits until it listens.
 *
 * @param address where it listens. @default {any port on loopback}
 * @param under a command that runs it, such as one that enters a namespace
 * @throws {Error} when it cannot listen there
 */
export async function startOrigin(
  signal: AbortSignal,
  { hostname, port }: Authority = { hostname: "127.0.0.1", port: 0 },
  under: readonly string[] = [],
): Promise<Origin> {
  const program = benchProgram("origin.ts", [hostname, `${port}`], under);
  return await orEnd(program, async () => {
    const [, port] = await program.said(/origin on [\d.]+:(\d+)/, signal);
    return { port: Number(port), [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
  });
}

/** What passes on clients at a port, as a tunnel's server does. */
export interface Passage {
  readonly ports: { readonly tcp: number };
}

/** Two relays by TCP in the place of a server and an agent. */
export interface Relays extends Passage, AsyncDisposable {
  readonly programs: readonly [Program, Program];
}

/**
 * Starts two relays, and waits until they listen.
 *
 * @param start starts one. @default {with the permissions of the benchmark's programs}
 * @param certificates folder with those for TLS between the two. @default {plain TCP}
 */
export async function startRelays(
  signal: AbortSignal,
  start = (args: readonly string[]) => benchProgram("relay.ts", args),
  certificates?: string,
): Promise<Relays> {
  await using started = new AsyncDisposableStack();
  const relay = async (mode: string) => {
    const program = started.use(start(certificates === undefined ? [mode] : [mode, certificates]));
    return { program, port: (await program.said(/relay on (\d+)/, signal))[1]! };
  };
  const second = await relay("connect");
  const first = await relay(second.port);
  const keep = started.move();
  return {
    ports: { tcp: Number(first.port) },
    programs: [first.program, second.program],
    [Symbol.asyncDispose]: () => keep.disposeAsync(),
  };
}

/** The way through a tunnel to a port on loopback. */
export function through({ ports }: Passage, originPort: number): Way {
  return { ...straight(ports.tcp), target: `127.0.0.1:${originPort}` };
}
