// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The arguments of a command line.
 *
 * The forms are those of Go's `flag` package: `--x=y`, `--x y`, `-x=y`, `-x y`. One dash is not a
 * cluster of letters. A boolean never takes the next argument as its value, every other kind always
 * does, even one that begins with a dash, unless its value is optional: then it takes one that does
 * not. `--` ends the flags.
 */

import { parseArgs } from "@std/cli/parse-args";
import { UsageError } from "../errors.ts";
import { quote } from "../printable.ts";
import { addFrom, type Flag, type FlagTable } from "./flag.ts";
import { informingFlags } from "./informing_flags.ts";
import { nearest } from "./nearest.ts";

/**
 * The flags of a table and those that every program has, by what they are called.
 *
 * @throws {TypeError} when two have one name, or one has a name that is read as something else
 */
export function flagsByName(flags: FlagTable): ReadonlyMap<string, Flag<unknown>> {
  const names = new Map<string, Flag<unknown>>([["h", informingFlags.help]]);
  for (const flag of Object.values(informingFlags)) names.set(flag.name, flag);
  for (const flag of Object.values(flags)) {
    if (names.has(flag.name)) throw new TypeError(`Flag --${flag.name} is declared twice`);
    // To parseArgs, these are the flag without "no-" and a property of a property.
    if (/^no-|\./.test(flag.name)) {
      throw new TypeError(`Flag --${flag.name} has a name that parseArgs() cannot read`);
    }
    names.set(flag.name, flag);
  }
  return names;
}

/**
 * The value of each flag that the arguments have.
 *
 * @throws {UsageError} in one line: what is wrong, in which argument or flag
 */
export function readCommandLine(
  args: readonly string[],
  names: ReadonlyMap<string, Flag<unknown>>,
): ReadonlyMap<Flag<unknown>, unknown> {
  const known = [...names.keys()];
  const { _, ...texts } = parseArgs(foldArgs(args, names), { string: known, collect: known });
  const given = new Map<Flag<unknown>, unknown>();
  for (const [name, ofFlag] of Object.entries(texts) as [string, readonly string[]][]) {
    const flag = names.get(name)!;
    for (const text of ofFlag) {
      const before = given.has(flag) ? given.get(flag) : flag.initial;
      const isAlone = text === "" && flag.alone !== undefined;
      given.set(flag, isAlone ? flag.alone : addFrom(`flag --${name}`, flag, text, before));
    }
  }
  return given;
}

/**
 * Folds the forms of Go's `flag` package into `--x=y`, or into `--x` where a flag with an optional
 * value stands alone. Ends at `--`, and at a flag that asks for help: nothing after that is looked
 * at.
 *
 * @throws {UsageError} when an argument is no flag of the table, or lacks its value.
 */
function foldArgs(args: readonly string[], names: ReadonlyMap<string, Flag<unknown>>): string[] {
  const folded: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    const next = args[i + 1];
    if (arg === "--") {
      if (next === undefined) break;
      throw new UsageError(`unexpected argument ${quote(next)}`);
    }
    const [, dashes, name = "", value] = /^(-{0,2})([^=]*)(?:=(.*))?$/s.exec(arg)!;
    if (dashes === "" || arg === "-") throw new UsageError(`unexpected argument ${quote(arg)}`);
    if (name === "") throw new UsageError(`missing flag name in ${quote(arg)}`);
    if (name.startsWith("-")) throw new UsageError(`too many dashes in ${quote(arg)}`);
    const flag = names.get(name);
    if (flag === undefined) throw new UsageError(unknownFlag(name, names.keys()));
    const isOptional = flag.alone !== undefined;
    if (isOptional && value === undefined && (next ?? "-").startsWith("-")) {
      folded.push(`--${flag.name}`);
      continue;
    }
    const text = value ?? (flag.kind === "boolean" ? "true" : args[++i]);
    if (text === undefined) throw new UsageError(`flag --${name} needs a value`);
    // To parseArgs, a flag that stands alone has the empty text.
    if (isOptional && text === "") addFrom(`flag --${name}`, flag, text, flag.initial);
    folded.push(`--${flag.name}=${text}`);
    if (flag === informingFlags.help && flag.add(text, undefined)) break;
  }
  return folded;
}

function unknownFlag(name: string, known: Iterable<string>): string {
  const best = nearest(name, known);
  const hint = best === undefined ? "; --help lists all flags" : `; did you mean --${best}?`;
  return `unknown flag --${quote(name).slice(1, -1)}${hint}`;
}
