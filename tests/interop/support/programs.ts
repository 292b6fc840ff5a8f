// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { findProgram, missingProgram, SYSTEM_TESTS } from "../../support/required_programs.ts";

export type Program = keyof typeof SYSTEM_TESTS.interop.programs;

/**
 * Where a program is.
 *
 * @throws {Error} that names the package to install, if it is nowhere
 */
export function pathOf(program: Program): string {
  const path = findProgram(program);
  if (path === undefined) throw missingProgram(program);
  return path;
}

/** What a program left behind. */
export interface Result {
  readonly code: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** stdout as text, without the white space around it. */
  readonly text: string;
  readonly errors: string;
}

/** Options of {@linkcode run}. */
export interface RunOptions {
  readonly stdin?: string;
  /** The exit code that is right. @default 0 */
  readonly code?: number;
  /** How long it may take before it is ended. @default 30000 */
  readonly timeoutMs?: number;
}

/**
 * Runs a program to its end.
 *
 * @throws {Error} if it ends with another exit code, or takes too long, with what it wrote to stderr
 */
export async function run(
  program: Program,
  args: readonly string[],
  { stdin = "", code = 0, timeoutMs = 30_000 }: RunOptions = {},
): Promise<Result> {
  const child = new Deno.Command(pathOf(program), {
    args: [...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(timeoutMs),
  }).spawn();
  const feeding = new Blob([stdin]).stream().pipeTo(child.stdin).catch(() => {
    // It did not want all of it. Whether that is right, its exit code tells.
  });
  const output = await child.output();
  await feeding;
  const decoder = new TextDecoder();
  const result = {
    code: output.code,
    bytes: output.stdout,
    text: decoder.decode(output.stdout).trim(),
    errors: decoder.decode(output.stderr),
  };
  if (result.code !== code) {
    throw new Error(
      `${program} ended with ${
        output.signal ?? result.code
      }, not ${code}, within ${timeoutMs} ms: ` +
        `${result.errors}${result.text.slice(0, 1000)}`,
    );
  }
  return result;
}
