// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

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
  env: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  try {
    const { code, stdout, stderr } = await new Deno.Command(command, {
      args: [...args],
      env,
      signal: AbortSignal.timeout(30_000),
    }).output();
    const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    return { code, stdout: out!, stderr: err! };
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(`${command} is missing: install the Debian package ${debianPackage}`, {
      cause,
    });
  }
}
