// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The file of `--config`: YAML with the names of flags as keys. A value is the text that the flag
 * takes, or a list of such texts.
 */
import { UsageError } from "../errors.ts";
import { oneLine, quote } from "../printable.ts";
import { inSlices } from "../slices.ts";
import { fileFault, readBounded } from "../tls/files.ts";
import type { Environment } from "./environment.ts";
import { addFrom, type Flag, type FlagTable } from "./flag.ts";
import { nearest } from "./nearest.ts";
import { type ParsedFlags, parseFlags } from "./parse_flags.ts";

/** Reads YAML. Every scalar is the text that is written, whatever it looks like. */
type ParseYaml = (text: string) => unknown;

/** Whether the file can set a flag. */
export function isConfigurable({ name, commandLineOnly }: Flag<unknown>): boolean {
  return !commandLineOnly && name !== "config";
}

/** Whether the value of a flag may be written as a list. */
export function takesList({ kind, isRepeatable }: Flag<unknown>): boolean {
  return kind === "list" || isRepeatable === true;
}

/**
 * Reads the values of a table of flags, also from the file of `--config`, which comes after the
 * command line and the environment.
 *
 * @throws {UsageError} in one line: what is wrong, in which flag, variable, or line of the file
 */
export async function parseWithConfig<T extends FlagTable>(
  flags: T,
  args: readonly string[],
  environment: Environment,
): Promise<ParsedFlags<T>> {
  // The file may have what is required.
  const lenient = Object.fromEntries(
    Object.entries(flags).map(([key, flag]): [string, Flag<unknown>] => [
      key,
      { ...flag, required: false, requiredUnless: undefined },
    ]),
  );
  const parsed = parseFlags(lenient, args, environment);
  const path = parsed.kind === "run" ? parsed.values["config"] : undefined;
  if (typeof path !== "string") return parseFlags(flags, args, environment);
  const file = await configValues(await readConfig(path), path, flags, await yamlParser());
  return parseFlags(flags, args, { ...environment, file });
}

async function readConfig(path: string): Promise<string> {
  try {
    const { bytes } = await readBounded(path);
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    const cause = fileFault(error, path);
    throw new UsageError(`cannot read --config ${quote(path)}: ${cause}`, { cause: error });
  }
}

/** Loaded only for a program that has such a file. */
export async function yamlParser(): Promise<ParseYaml> {
  const { parse } = await import("@std/yaml/parse");
  return (text) => parse(text, { schema: "failsafe" });
}

/**
 * What a file says of a table of flags, by the name of the flag.
 *
 * @throws {UsageError} when not all of it is right
 */
export async function configValues(
  text: string,
  path: string,
  flags: FlagTable,
  parse: ParseYaml,
): Promise<ReadonlyMap<string, unknown>> {
  const table = new Map(
    Object.values(flags).filter(isConfigurable).map((flag) => [flag.name, flag]),
  );
  const values = new Map<string, unknown>();
  for (const [name, setting] of settingsOf(text, path, parse)) {
    const place = placeOf(name, text, path);
    const flag = table.get(name);
    if (!flag) throw new UsageError(`${place}: ${unknownKey(name, flags, table.keys())}`);
    const source = `${name} in ${place}`;
    let value = flag.initial;
    for await (const text of inSlices(textsOf(setting, flag, place))) {
      value = addFrom(source, flag, text, value);
    }
    values.set(name, value);
  }
  return values;
}

function settingsOf(text: string, path: string, parse: ParseYaml): [string, unknown][] {
  let settings: unknown;
  try {
    settings = parse(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    // What follows is the line itself, which may hold a key.
    const [, reason = "not YAML", line = "?"] =
      /^(.*?) at line (\d+), column \d+:/.exec(error.message) ?? [];
    throw new UsageError(`${shown(path)}:${line}: ${oneLine(reason)}`);
  }
  if (settings === null) return [];
  if (typeof settings !== "object" || Array.isArray(settings)) {
    throw new UsageError(`${shown(path)}:1: not a mapping of flags to values`);
  }
  return Object.entries(settings);
}

function unknownKey(name: string, flags: FlagTable, known: Iterable<string>): string {
  const isFlag = Object.values(flags).some((flag) => flag.name === name);
  if (isFlag) return `${name} cannot be set in a file`;
  const best = nearest(name, known);
  const hint = best === undefined ? "; --help lists all flags" : `; did you mean ${best}?`;
  return `unknown key ${quote(name)}${hint}`;
}

/** One text for each occurrence of the flag. */
function textsOf(value: unknown, flag: Flag<unknown>, place: string): readonly string[] {
  const { name, isRepeatable } = flag;
  if (typeof value === "string") return [value];
  if (value === null) throw new UsageError(`${place}: ${name} has no value`);
  if (!takesList(flag)) throw new UsageError(`${place}: ${name} takes a single value`);
  if (!Array.isArray(value) || !value.every((item) => typeof item === "string")) {
    throw new UsageError(`${place}: ${name} takes a value, or a list of values`);
  }
  if (value.length === 0) throw new UsageError(`${place}: ${name} is an empty list`);
  return isRepeatable ? value : [value.join(",")];
}

/** The file, and the line of a key of it, where that is to be found. */
function placeOf(name: string, text: string, path: string): string {
  const keys = [name, `"${name}"`, `'${name}'`];
  const index = text.split("\n").findIndex((line) =>
    keys.some((key) => line.startsWith(key) && /^\s*:/.test(line.slice(key.length)))
  );
  return index < 0 ? shown(path) : `${shown(path)}:${index + 1}`;
}

/** A path without quotes around it. */
function shown(path: string): string {
  return quote(path).slice(1, -1);
}
