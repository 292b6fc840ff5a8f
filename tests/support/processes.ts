// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { fileURLToPath } from "node:url";
import { ChildProgram } from "../../tools/child_program.ts";
import {
  agentFlags,
  anyPort,
  type Flags,
  programArguments,
  type ProgramTask,
  serverFlags,
} from "../../tools/project_program.ts";
import type { Checkout } from "./previous_release.ts";

export { agentFlags, anyPort, ChildProgram, programArguments, serverFlags };

/** Starts a program, of this revision unless it is told another. */
export function startProgram(
  task: ProgramTask,
  flags: Flags,
  env: Record<string, string> = {},
  checkout?: Checkout,
): ChildProgram {
  return new ChildProgram(Deno.execPath(), programArguments(task, flags, checkout?.tasks), {
    name: task,
    env,
    ...(checkout && { cwd: checkout.path }),
  });
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
