// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A table of flags in, typed values out: from the command line, the environment, or a file. */

import { UsageError } from "../errors.ts";
import { flagsByName, readCommandLine } from "./command_line.ts";
import { type Environment, envNameOf, refuseUnknownVariables } from "./environment.ts";
import { addFrom, type FlagTable, type FlagValues } from "./flag.ts";
import { informingFlags, type Shell } from "./informing_flags.ts";

/** What a command line requests. */
export type ParsedFlags<T extends FlagTable> =
  | { readonly kind: "run"; readonly values: FlagValues<T> }
  | { readonly kind: "help" }
  | { readonly kind: "version" }
  | { readonly kind: "completion"; readonly shell: Shell };

/**
 * Reads the values of a table of flags.
 *
 * The command line goes before the environment, which goes before a file, and that before the
 * default; an empty variable counts as unset unless its flag restricts something, and one that the
 * command line overrides is not looked at. The last occurrence of a flag wins unless the flag is
 * `multiple`, but each must be valid. A variable with the prefix that is of no flag is an error.
 *
 * `--help` or `-h` ends the parsing where it stands and goes before `--version`, which goes before
 * `--completion`; with any of them nothing is required.
 *
 * @throws {UsageError} in one line: what is wrong, in which flag or variable.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { integerFlag } from "./flag_kinds.ts";
 * import { parseFlags } from "./parse_flags.ts";
 *
 * const table = { v: integerFlag("v", { default: 0, min: 0, help: "log verbosity" }) };
 * assertEquals(parseFlags(table, ["-v", "2"], { get: () => undefined }), { kind: "run", values: { v: 2 } });
 * ```
 */
export function parseFlags<T extends FlagTable>(
  flags: T,
  args: readonly string[],
  { get: env, names: variables = [], othersFlags = [], file }: Environment,
): ParsedFlags<T> {
  const names = flagsByName(flags);
  const given = readCommandLine(args, names);
  const { help, version, completion } = informingFlags;
  if (given.get(help) === true) return { kind: "help" };
  if (given.get(version) === true) return { kind: "version" };
  const shell = given.get(completion) as Shell | undefined;
  if (shell !== undefined) return { kind: "completion", shell };

  refuseUnknownVariables(variables, flags, othersFlags);
  const missing: string[] = [];
  const isGiven = (name: string) =>
    given.has(names.get(name)!) || !!env(envNameOf(name)) || file?.has(name);
  const values = Object.entries(flags).map(([key, flag]) => {
    if (given.has(flag)) return [key, given.get(flag)];
    const envName = envNameOf(flag.name);
    const text = flag.commandLineOnly ? undefined : env(envName);
    if (text !== undefined && text !== "") {
      return [key, addFrom(`environment variable ${envName}`, flag, text, flag.initial)];
    }
    if (text === "" && flag.restricts) {
      throw new UsageError(
        `environment variable ${envName} is empty: give it a value, or unset it`,
      );
    }
    if (file?.has(flag.name)) return [key, file.get(flag.name)];
    const { required, requiredUnless } = flag;
    if ((required || requiredUnless) && !requiredUnless?.some(isGiven)) {
      missing.push(`--${flag.name} (or ${envName})`);
    }
    // Parsed each time, so that callers share no value.
    const { defaultText, initial, isDependent } = flag;
    const isSet = defaultText !== undefined && !isDependent;
    return [key, isSet ? flag.add(defaultText, initial) : initial];
  });
  if (missing.length > 0) throw new UsageError(`missing required flag ${missing.join(", ")}`);
  return { kind: "run", values: Object.fromEntries(values) as FlagValues<T> };
}
