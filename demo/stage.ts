// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { writeCerts } from "../certs/make.ts";
import { type Authority, formatAuthority, parseAuthority } from "../lib/net/authority.ts";
import {
  agentFlags,
  anyPort,
  flagArguments,
  type Flags,
  serverFlags,
} from "../tools/project_program.ts";
import { Child, type ChildEndedError } from "./child.ts";

/** A server, and the program at the other end of its QUIC connection. */
export interface Tunnel {
  readonly server: Child;
  /** Where clients connect. */
  readonly tcp: Authority;
  /** Where agents connect. */
  readonly quic: Authority;
  readonly agent: Child;
  /** The agent's end of the QUIC connection, as the server sees it. */
  readonly agentUdp: Authority;
}

/** All that runs in the demo. */
export interface Stage {
  readonly origin: { readonly child: Child; readonly tcp: Authority };
  /** Serves CONNECT. */
  readonly connect: Tunnel;
  /** Leads to the origin and nowhere else. A server of its own: a shared one would mix the two. */
  readonly passthrough: Tunnel;
}

/** Enough for a first run, which downloads packages. */
const START_TIMEOUT_MS = 60_000;
/** More than any run takes: should the files be left behind, they are soon of no use. */
const CERTIFICATE_MS = 24 * 60 * 60 * 1000;

const LOOPBACK = "--allow-net=127.0.0.1";
/** An agent's UDP socket is bound to all addresses. */
const LOOPBACK_AND_ANY = "--allow-net=127.0.0.1,0.0.0.0";

/**
 * Starts everything, and returns once both agents are connected.
 *
 * @param stack takes what has to be ended or removed in the end
 * @param failed called if a program ends on its own
 * @param signal gives up
 */
export async function setStage(
  stack: AsyncDisposableStack,
  failed: (error: ChildEndedError) => void,
  signal: AbortSignal,
): Promise<Stage> {
  const dir = await certificateDir(stack);
  const addressIn = async (child: Child, pattern: RegExp) =>
    parseAuthority((await child.line(pattern, START_TIMEOUT_MS, signal))[1]!);
  const start = (name: string, module: string, permissions: string[], args: string[] = []) => {
    signal.throwIfAborted();
    if (stack.disposed) throw new Error("the demo has ended");
    return stack.use(new Child({ name, module, permissions, args }, failed));
  };
  const startProgram = (program: string, net: string, flags: Flags) =>
    start(
      `proxy-${program}`,
      `../${program}.ts`,
      [net, "--allow-ffi", "--allow-env=QRHT_*", `--allow-read=${dir}`],
      flagArguments(flags),
    );

  const startTunnel = async (program: string, upstream?: Promise<Authority>): Promise<Tunnel> => {
    const server = startProgram("server", LOOPBACK, { ...anyPort, ...serverFlags(dir) });
    const tcp = await addressIn(server, /tcp listener on ([\d.:]+)/);
    const quic = await addressIn(server, /quic listener on ([\d.:]+)/);
    const agent = startProgram(program, LOOPBACK_AND_ANY, {
      server: formatAuthority(quic),
      ...agentFlags(dir),
      ...(upstream && { upstream: formatAuthority(await upstream) }),
    });
    const agentUdp = await addressIn(server, /agent connected.* remote=([\d.:]+)/);
    return { server, tcp, quic, agent, agentUdp };
  };

  const child = start("origin", "./origin.ts", [LOOPBACK]);
  const originTcp = addressIn(child, /http listener on ([\d.:]+)/);
  const [tcp, connect, passthrough] = await Promise.all([
    originTcp,
    startTunnel("agent"),
    startTunnel("passthrough", originTcp),
  ]);
  return { origin: { child, tcp }, connect, passthrough };
}

/** Certificates for this run alone, in a directory that goes with it. */
async function certificateDir(stack: AsyncDisposableStack): Promise<string> {
  // Here and not in the system's place for such files: this one is known to the permissions.
  const dir = await Deno.makeTempDir({ dir: import.meta.dirname!, prefix: `.run-${Deno.pid}-` });
  stack.defer(() => Deno.remove(dir, { recursive: true }));
  await Deno.writeTextFile(join(dir, ".gitignore"), "*\n");
  await writeCerts(dir, new Date(Date.now() + CERTIFICATE_MS));
  return dir;
}
