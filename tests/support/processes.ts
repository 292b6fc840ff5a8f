// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { fileURLToPath } from "node:url";
import { ChildProgram } from "../../tools/child_program.ts";
import { type Flags, programArguments, type ProgramTask } from "../../tools/project_program.ts";

export { ChildProgram, programArguments };

/** Starts a program. */
export function startProgram(
  task: ProgramTask,
  flags: Flags,
  env: Record<string, string> = {},
): ChildProgram {
  return new ChildProgram(Deno.execPath(), programArguments(task, flags), { name: task, env });
}

/** Has a server listen where nobody else does. */
export const anyPort = { "listen-tcp": "127.0.0.1:0", "listen-quic": "127.0.0.1:0" };

/** Flags of a server whose certificates `makeCerts()` has made. */
export function serverFlags(dir: string) {
  return {
    "cert-file": `${dir}/server.pem`,
    "cert-key": `${dir}/server.key`,
    "client-ca-file": `${dir}/ca.pem`,
  };
}

/** The same of an agent. */
export function agentFlags(dir: string) {
  return {
    "cert-file": `${dir}/client.pem`,
    "cert-key": `${dir}/client.key`,
    "ca-file": `${dir}/ca.pem`,
  };
}

/** Starts `tests/support/origin.ts` and tells its port. */
export async function startOrigin(): Promise<ChildProgram & { readonly port: number }> {
  const origin = new ChildProgram(Deno.execPath(), [
    "run",
    "--no-prompt",
    "--allow-net=127.0.0.1",
    fileURLToPath(new URL("origin.ts", import.meta.url)),
  ]);
  const [, port] = await origin.line(/^origin on port (\d+)$/);
  return Object.assign(origin, { port: Number(port) });
}
