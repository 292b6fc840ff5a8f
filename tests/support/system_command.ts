// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  type CommandOutput,
  commandOutput,
  type CommandOutputOptions,
} from "../../tools/command_output.ts";
import { missingProgram } from "./required_programs.ts";

const TIMEOUT_MS = 30_000;

/**
 * Runs a command of the system to its end.
 *
 * @throws {Error} that names its Debian package, when the command is missing
 */
export async function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOutputOptions = {},
): Promise<CommandOutput> {
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    return await commandOutput(command, args, { signal, ...options });
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    const error = missingProgram(command);
    error.cause = cause;
    throw error;
  }
}
