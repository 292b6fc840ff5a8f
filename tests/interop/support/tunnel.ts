// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { makeCerts } from "../../../certs/make.ts";
import { temporaryFolder } from "../../support/temporary_folder.ts";
import type { Flags, ProgramTask } from "../../../tools/project_program.ts";
import { eventually } from "../../support/eventually.ts";
import {
  agentFlags,
  ChildProgram,
  programArguments,
  serverFlags,
  startProgram,
} from "../../support/processes.ts";
import { pathOf } from "./programs.ts";

/** Options of {@linkcode startTunnel}. */
export interface TunnelOptions {
  /** The port on 127.0.0.1 that everything goes to; without one the agent serves CONNECT. */
  readonly upstream?: number;
  /** Where clients connect. @default "127.0.0.1" */
  readonly host?: "127.0.0.1" | "[::1]";
  /** Flags of proxy-server beside the usual. */
  readonly server?: Flags;
  /** Flags of the agent beside the usual. */
  readonly agent?: Flags;
  /** Names that the agent alone resolves, to 127.0.0.1. */
  readonly names?: readonly string[];
}

/** A server, and an agent or passthrough that is connected to it. */
export interface Tunnel extends AsyncDisposable {
  readonly server: ChildProgram;
  readonly agent: ChildProgram;
  /** Where clients connect. */
  readonly host: string;
  readonly port: number;
}

/** Starts the programs with certificates of their own, and waits for the agent to be connected. */
export async function startTunnel(options: TunnelOptions = {}): Promise<Tunnel> {
  const { upstream, host = "127.0.0.1" } = options;
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  await makeCerts(dir);
  const server = stack.use(startProgram("server", {
    "listen-tcp": `${host}:0`,
    "listen-quic": "127.0.0.1:0",
    v: 2,
    ...serverFlags(dir),
    ...options.server,
  }));
  const [, port] = await server.line(/tcp listener on \S*:(\d+)/);
  const [, quic] = await server.line(/quic listener on (\S+:\d+)/);
  const task = upstream === undefined ? "agent" : "passthrough";
  const flags = {
    server: quic!,
    v: 2,
    ...agentFlags(dir),
    ...(upstream !== undefined && { upstream: `127.0.0.1:${upstream}` }),
    ...options.agent,
  };
  const agent = stack.use(
    options.names
      ? await startKnowing({ names: options.names, dir }, task, flags)
      : startProgram(task, flags),
  );
  await server.line(/agent connected/);
  const rest = stack.move();
  const dispose = () => rest.disposeAsync();
  return { server, agent, host, port: Number(port), [Symbol.asyncDispose]: dispose };
}

/** Starts a program with an `/etc/hosts` of its own, which is kept in a folder. */
export async function startKnowing(
  { names, dir, ip = "127.0.0.1" }: {
    readonly names: readonly string[];
    readonly dir: string;
    readonly ip?: string;
  },
  task: ProgramTask,
  flags: Flags,
): Promise<ChildProgram> {
  const hosts = `${dir}/hosts`;
  await Deno.writeTextFile(hosts, `${ip} ${names.join(" ")}\n`);
  const script = 'mount --bind "$0" /etc/hosts && exec "$@"';
  const program = [Deno.execPath(), ...programArguments(task, flags)];
  const args = ["--map-root-user", "--mount", "sh", "-c", script, hosts, ...program];
  return new ChildProgram(pathOf("unshare"), args, { name: task });
}

/**
 * The first line that a program of ours writes about a client.
 *
 * @param client its address and port, as others write them: `::1:49152`
 */
export function lineAbout(program: ChildProgram, client: string): Promise<string> {
  const field = ` client=${client.replace(/^(.*:.*):(\d+)$/, "[$1]:$2")} `;
  return eventually(
    `a line with${field}`,
    () => program.lines.find((line) => `${line} `.includes(field)),
  );
}
