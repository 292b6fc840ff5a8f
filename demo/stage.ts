// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { writeCerts } from "../certs/make.ts";
import { type Authority, formatAuthority, parseAuthority } from "../lib/net/authority.ts";
import { agentFlags, flagArguments, type Flags, serverFlags } from "../tools/project_program.ts";
import { Child, type ChildEndedError } from "./child.ts";

/** A network behind the server: the listener of its clients, and its agent. */
export interface Network {
  readonly name: string;
  /** Where clients connect. */
  readonly tcp: Authority;
  readonly agent: Child;
  /** The agent's end of the QUIC connection, as the server sees it. */
  readonly agentUdp: Authority;
}

/** All that runs in the demo. */
export interface Stage {
  readonly origin: { readonly child: Child; readonly tcp: Authority };
  readonly server: Child;
  /** Where agents connect. */
  readonly quic: Authority;
  /** Its agent serves CONNECT. */
  readonly office: Network;
  /** Leads to the origin and nowhere else. */
  readonly lab: Network;
}

/** The names in the agents' certificates. */
const NETWORKS = ["office", "lab"] as const;

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
  const startProgram = (program: string, net: string, flags: Flags, more: string[] = []) =>
    start(
      `proxy-${program}`,
      `../${program}.ts`,
      [net, "--allow-ffi", "--allow-env=QRHT_*", `--allow-read=${dir}`],
      [...flagArguments(flags), ...more],
    );

  const child = start("origin", "./origin.ts", [LOOPBACK]);
  const server = startProgram(
    "server",
    LOOPBACK,
    { "listen-quic": "127.0.0.1:0", ...serverFlags(dir) },
    NETWORKS.map((name) => `--listen-tcp=127.0.0.1:0@${name}`),
  );
  const [tcp, quic] = await Promise.all([
    addressIn(child, /http listener on ([\d.:]+)/),
    addressIn(server, /quic listener on ([\d.:]+)/),
  ]);

  const startNetwork = async (
    name: typeof NETWORKS[number],
    program: string,
    flags: Flags = {},
  ): Promise<Network> => {
    const agent = startProgram(program, LOOPBACK_AND_ANY, {
      server: formatAuthority(quic),
      ...agentFlags(dir, name),
      ...flags,
    });
    const [tcp, agentUdp] = await Promise.all([
      addressIn(server, new RegExp(`tcp listener on ([\\d.:]+).* group=${name}`)),
      addressIn(server, new RegExp(`agent connected(?=.* groups=${name}).* remote=([\\d.:]+)`)),
    ]);
    return { name, tcp, agent, agentUdp };
  };
  const [office, lab] = await Promise.all([
    startNetwork("office", "agent"),
    startNetwork("lab", "passthrough", { upstream: formatAuthority(tcp) }),
  ]);
  return { origin: { child, tcp }, server, quic, office, lab };
}

/** Certificates for this run alone, in a directory that goes with it. */
async function certificateDir(stack: AsyncDisposableStack): Promise<string> {
  // Here and not in the system's place for such files: this one is known to the permissions.
  const dir = await Deno.makeTempDir({ dir: import.meta.dirname!, prefix: `.run-${Deno.pid}-` });
  stack.defer(() => Deno.remove(dir, { recursive: true }));
  await Deno.writeTextFile(join(dir, ".gitignore"), "*\n");
  const notAfter = new Date(Date.now() + CERTIFICATE_MS);
  await writeCerts(dir, { agentNames: NETWORKS, notAfter });
  return dir;
}
