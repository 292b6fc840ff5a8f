// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { messageOf, UsageError } from "./errors.ts";
import { type FlagTable, type FlagValues, formatHelp, parseFlags } from "./flags.ts";
import { configureLog } from "./log.ts";
import { version } from "./version.ts";

/** A program of this project, as its command line sees it. */
export interface Program<T extends FlagTable> {
  /** Name in help and errors. */
  readonly name: string;
  readonly summary: string;
  readonly flags: T;
  /**
   * Runs until the signal aborts.
   *
   * @throws {UsageError} when it cannot start as it was told to
   */
  run(values: FlagValues<T> & { readonly v: number }, signal: AbortSignal): Promise<void>;
}

/** Exit codes: 0 stopped as told, 1 failed, 2 started wrongly, 128 + n ended by a second signal n. */
const FAILED = 1;
const USAGE = 2;

const stopSignals = { SIGINT: 2, SIGTERM: 15 } as const;

/** Runs a program with the process's arguments, environment and signals, and ends the process. */
export async function runProgram<T extends FlagTable & { readonly v: unknown }>(
  program: Program<T>,
): Promise<never> {
  try {
    const parsed = parseFlags(program.flags, Deno.args, (name) => Deno.env.get(name));
    if (parsed.kind === "help") return exit(0, formatHelp(program, program.flags));
    if (parsed.kind === "version") return exit(0, `${program.name} ${version}`);
    const values = parsed.values as FlagValues<T> & { readonly v: number };
    configureLog(values.v, (line) => writeLine(Deno.stderr, line));
    await program.run(values, stopSignal());
    return Deno.exit(0);
  } catch (error) {
    writeLine(Deno.stderr, `${program.name}: ${messageOf(error)}`);
    return Deno.exit(error instanceof UsageError ? USAGE : FAILED);
  }
}

/** Aborts at the first signal to stop; the second one ends the process at once. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const [name, number] of Object.entries(stopSignals)) {
    if (Deno.build.os === "windows" && name === "SIGTERM") continue;
    Deno.addSignalListener(name as Deno.Signal, () => {
      if (controller.signal.aborted) Deno.exit(128 + number);
      controller.abort(new Error(`stopped by ${name}`));
    });
  }
  return controller.signal;
}

function exit(code: number, text: string): never {
  writeLine(Deno.stdout, text);
  Deno.exit(code);
}

function writeLine(to: { writeSync(bytes: Uint8Array): number }, line: string): void {
  const bytes = new TextEncoder().encode(`${line}\n`);
  try {
    for (let offset = 0; offset < bytes.length;) offset += to.writeSync(bytes.subarray(offset));
  } catch {
    // Whoever read it is gone; that is no reason to stop.
  }
}
