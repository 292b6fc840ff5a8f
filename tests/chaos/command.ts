// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

// deno-lint-ignore-file no-console -- a command for the terminal

/** What the commands of this folder share: their arguments, and that nothing of them stays behind. */
import { messageOf, UsageError } from "../../lib/errors.ts";
import { parseCommandLine } from "../../tools/command_line.ts";

export interface Command<Name extends string> {
  readonly help: string;
  /** Flags that take a number above zero, with their defaults; `seed` comes on top. */
  readonly flags: Readonly<Record<Name, number>>;
  /**
   * @param folder for files, which are kept only when something did not hold
   * @param stack what is in it ends at the end, also at a signal to stop
   * @returns whether everything held
   */
  run(
    values: Record<Name | "seed", number>,
    folder: string,
    stack: AsyncDisposableStack,
  ): Promise<boolean>;
}

/** Runs a command and ends the process: 0 for success, 1 for failure, 2 for wrong arguments. */
export async function runCommand<Name extends string>(command: Command<Name>): Promise<never> {
  try {
    const values = parseFlags(command);
    if (!values) {
      console.log(command.help);
      Deno.exit(0);
    }
    Deno.exit(await run(command, values) ? 0 : 1);
  } catch (error) {
    console.error(error instanceof UsageError ? messageOf(error) : error);
    Deno.exit(error instanceof UsageError ? 2 : 1);
  }
}

async function run<Name extends string>(
  command: Command<Name>,
  values: Record<Name | "seed", number>,
): Promise<boolean> {
  const folder = await Deno.makeTempDir({ prefix: "qrht-chaos-" });
  const stack = new AsyncDisposableStack();
  const stopped = Promise.withResolvers<never>();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(name, () => stopped.reject(new UsageError(`stopped by ${name}`)));
  }
  let isOfUse = true;
  try {
    const holds = await Promise.race([command.run(values, folder, stack), stopped.promise]);
    isOfUse = !holds;
    return holds;
  } catch (error) {
    isOfUse = !(error instanceof UsageError);
    throw error;
  } finally {
    await stack.disposeAsync();
    if (isOfUse) console.log(`the programs' logs are in ${folder}`);
    else await Deno.remove(folder, { recursive: true });
  }
}

/** Undefined when help was asked for. */
function parseFlags<Name extends string>(
  { flags }: Command<Name>,
): Record<Name | "seed", number> | undefined {
  const names = [...Object.keys(flags), "seed"] as (Name | "seed")[];
  const { help, ...given } = parseCommandLine<string>(Deno.args, { text: names });
  if (help) return undefined;
  const values: Record<string, number> = { ...flags, seed: Math.floor(Math.random() * 2 ** 32) };
  for (const name of names) {
    if (given[name] === undefined) continue;
    values[name] = Number(given[name]);
    if (!(values[name] > 0)) throw new UsageError(`--${name} ${given[name]} is not above zero`);
  }
  return values as Record<Name | "seed", number>;
}
