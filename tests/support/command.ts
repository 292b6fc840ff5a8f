// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  type CommandOutput,
  commandOutput,
  type CommandOutputOptions,
} from "../../tools/command_output.ts";

/**
 * Runs a command of the system to its end.
 *
 * @param debianPackage where it comes from
 * @throws {Error} that names the package, when the command is missing
 */
export async function runCommand(
  debianPackage: string,
  command: string,
  args: readonly string[],
  options: CommandOutputOptions = {},
): Promise<CommandOutput> {
  try {
    const signal = AbortSignal.timeout(30_000);
    return await commandOutput(command, args, { signal, ...options });
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(`${command} is missing: install the Debian package ${debianPackage}`, {
      cause,
    });
  }
}
