// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Programs in Go that tests compile, on machines that have Go. */

import { fileURLToPath } from "node:url";
import { findProgram } from "../../support/required_programs.ts";
import { runCommand } from "../../support/system_command.ts";

/** Go; undefined if it is not installed. */
export const go = findProgram("go");

/** A build without a cache downloads modules, and takes a minute on a slow machine. */
const BUILD_TIMEOUT_MS = 600_000;

/**
 * Compiles the program in `tests/interop/NAME/`.
 *
 * @throws {Error} with the words of Go
 */
export async function buildGo(name: string, program: string): Promise<void> {
  for (const args of [["vet", "."], ["build", "-o", program, "."]]) {
    const { success, stderr } = await runCommand(go!, args, {
      cwd: fileURLToPath(new URL(`../${name}/`, import.meta.url)),
      env: { CGO_ENABLED: "0" },
      signal: AbortSignal.timeout(BUILD_TIMEOUT_MS),
    });
    if (!success) throw new Error(`go ${args.join(" ")} in tests/interop/${name}: ${stderr}`);
  }
}
