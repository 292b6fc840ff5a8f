// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A table of flags in, typed values out: the table alone decides parsing, types and help text.
 *
 * The forms are those of Go's `flag` package: `--x=y`, `--x y`, `-x=y`, `-x y`. One dash is not a
 * cluster of letters. A boolean never takes the next argument as its value, every other kind always
 * does, even one that begins with a dash, unless its value is optional: then it takes one that does
 * not. `--` ends the flags.
 */

import { parseArgs } from "@std/cli/parse-args";
import { levenshteinDistance } from "@std/text/levenshtein-distance";
import { oneLine, quote } from "../printable.ts";
import { UsageError } from "../errors.ts";

/** What a value is written as, and so how it is read. */
export type FlagKind =
  | "string"
  | "integer"
  | "boolean"
  | "duration"
  | "address"
  | "list"
  | "choice";

/** One flag of a table; made by `stringFlag()`, `integerFlag()` and the like. */
export interface Flag<V> {
  /** Without dashes: `listen-tcp`. */
  readonly name: string;
  readonly kind: FlagKind;
  readonly help: string;
  /** Stands for the value in the help text; empty for a boolean. */
  readonly valueName: string;
  /** Notes in the help text, such as bounds. */
  readonly notes: readonly string[];
  /** The words that its value is, or is a list of, where it can be nothing else. */
  readonly choices?: readonly string[] | undefined;
  readonly required: boolean;
  /** Flags of which each makes it needless; it is required otherwise. */
  readonly requiredUnless?: readonly string[] | undefined;
  /** The default as one would type it. */
  readonly defaultText: string | undefined;
  /** The value before the first occurrence, where there is no default either. */
  readonly initial: V | undefined;
  /** The value of an occurrence without one, where that is allowed. */
  readonly alone?: V;
  /** Whether no environment variable stands in for it. @default {false} */
  readonly commandLineOnly?: boolean;
  /** Whether the default admits more than most values do. @default {false} */
  readonly restricts?: boolean;
  /** Whether its value is what all occurrences give. @default {false} */
  readonly isRepeatable?: boolean;
  /** Whether other flags change the default: without an occurrence, there is no value then. */
  readonly isDependent?: boolean;
  /**
   * The value after one more occurrence of the flag.
   *
   * @throws {UsageError} with the bare reason when `text` is no such value.
   * @throws {NamedValueError} when it is none, in a message that names it.
   */
  add(text: string, before: V | undefined): V;
}

/** Flags by the name of the property that holds their value: `{ listenTcp: addressFlag(…) }`. */
export type FlagTable = Readonly<Record<string, Flag<unknown>>>;

/** The values that a table of flags yields. */
export type FlagValues<T extends FlagTable> = {
  readonly [K in keyof T]: T[K] extends Flag<infer V> ? V : never;
};

/** What a command line requests. */
export type ParsedFlags<T extends FlagTable> =
  | { readonly kind: "run"; readonly values: FlagValues<T> }
  | { readonly kind: "help" }
  | { readonly kind: "version" }
  | { readonly kind: "completion"; readonly shell: Shell };

/**
 * An invalid value. The message names the part of it that is wrong.
 */
export class NamedValueError extends Error {
  override readonly name = "NamedValueError";
}

/** Looks a variable up in the environment. */
export type Env = (name: string) => string | undefined;

/** What is in the environment, in addition to the values of a program's flags. */
export interface Environment {
  readonly get: Env;
  /** The variables that begin with {@linkcode ENV_PREFIX}, as far as they can be known. */
  readonly names?: readonly string[];
  /** Flags of other programs that share the environment. */
  readonly othersFlags?: readonly FlagTable[];
  /** Values of a file, by the name of their flag. They come after the environment. */
  readonly file?: ReadonlyMap<string, unknown>;
}

/** Either a default, or required, or neither: then the value may be `undefined`. */
type Presence<D> =
  | { readonly default: D; readonly required?: false }
  | { readonly default?: never; readonly required?: boolean };

/** Options of every kind of flag. `D` is the type of its default in the table. */
export type FlagOptions<D> = Presence<D> & {
  readonly help: string;
  /** Whether no environment variable stands in for it. @default {false} */
  readonly commandLineOnly?: boolean;
  /**
   * Makes it required unless one of these flags is given: there is no value then. With `required`,
   * its type does not say so, for programs that do something else in that case.
   */
  readonly requiredUnless?: readonly string[];
  /** Stands for the value in the help text. */
  readonly valueName?: string;
  /**
   * Collects the values of all occurrences in an array instead of keeping the last. A default, and
   * what the environment gives, count as one occurrence.
   *
   * @default {false}
   */
  readonly multiple?: boolean;
  /** The default as long as other flags do not change it. The value may be `undefined` then. */
  readonly dependentDefault?: string;
  /**
   * Whether the default admits more than most values do. An empty environment variable is an error
   * then, instead of standing for the default.
   *
   * @default {false}
   */
  readonly restricts?: boolean;
};

/** Returns why a value is invalid, or undefined. */
export type FlagCheck = (value: string) => string | undefined;

/** The type of the value of a flag of type `T` with the options `O`. */
export type ValueOf<T, O> = O extends { readonly multiple: true } ? readonly T[]
  : O extends { readonly required: true } | { readonly default: string | number } ? T
  : T | undefined;

export interface Kind<T> {
  readonly kind: FlagKind;
  readonly valueName: string;
  readonly notes?: readonly string[];
  readonly choices?: readonly string[];
  readonly defaultText: string | undefined;
  parse(text: string): T;
}

export function makeFlag<T, O extends FlagOptions<unknown>>(
  name: string,
  options: O,
  kind: Kind<T>,
): Flag<ValueOf<T, O>> {
  const several = options.multiple === true;
  const flag: Flag<T | readonly T[]> = {
    name,
    kind: kind.kind,
    help: options.help,
    valueName: options.valueName ?? kind.valueName,
    notes: [...(kind.notes ?? []), ...(several ? ["may be repeated"] : [])],
    choices: kind.choices,
    required: options.required === true,
    requiredUnless: options.requiredUnless,
    restricts: options.restricts ?? false,
    isRepeatable: several,
    commandLineOnly: options.commandLineOnly ?? false,
    defaultText: kind.defaultText ?? options.dependentDefault,
    isDependent: options.dependentDefault !== undefined,
    initial: several ? [] : undefined,
    add: (text, before) =>
      several ? [...(before as readonly T[]), kind.parse(text)] : kind.parse(text),
  };
  return checked(flag as Flag<ValueOf<T, O>>);
}

/** Finds a default that its own flag rejects when the table is built, not when a user starts. */
function checked<V>(flag: Flag<V>): Flag<V> {
  if (flag.defaultText !== undefined) flag.add(flag.defaultText, flag.initial);
  return flag;
}

/** Any text but the empty one, unless `allowEmpty`. */
export function stringFlag<
  const O extends FlagOptions<string> & {
    readonly allowEmpty?: boolean;
    readonly check?: FlagCheck;
  },
>(name: string, options: O): Flag<ValueOf<string, O>> {
  return makeFlag<string, O>(name, options, {
    kind: "string",
    valueName: "string",
    defaultText: options.default,
    parse(text) {
      if (text === "" && !options.allowEmpty) throw new UsageError("must not be empty");
      return passing(options.check, text);
    },
  });
}

/** A decimal integer from `min` to `max`, both by default as far as a number is exact. */
export function integerFlag<
  const O extends FlagOptions<number> & {
    readonly min?: number;
    readonly max?: number;
    /** Says what is wrong with a value within these bounds. */
    readonly check?: (value: number) => string | undefined;
  },
>(name: string, options: O): Flag<ValueOf<number, O>> {
  const { min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER } = options;
  return makeFlag<number, O>(name, options, {
    kind: "integer",
    valueName: "integer",
    notes: rangeNotes(options.min, options.max, String),
    defaultText: options.default?.toString(),
    parse(text) {
      if (!/^[-+]?[0-9]+$/.test(text)) throw new UsageError("not an integer");
      const value = inRange(Number(text) + 0, min, max, String); // + 0 makes 0 of -0
      const reason = options.check?.(value);
      if (reason !== undefined) throw new UsageError(reason);
      return value;
    },
  });
}

const TRUE = /^(?:1|t|T|true|TRUE|True)$/;
const FALSE = /^(?:0|f|F|false|FALSE|False)$/;

/** `--x` alone or with one of the values of Go's `strconv.ParseBool`; false by default. */
export function booleanFlag(
  name: string,
  options: {
    readonly help: string;
    readonly default?: boolean;
    readonly commandLineOnly?: boolean;
  },
): Flag<boolean> {
  return checked<boolean>({
    name,
    kind: "boolean",
    help: options.help,
    valueName: "",
    notes: [],
    required: false,
    defaultText: options.default === undefined ? undefined : String(options.default),
    initial: false,
    commandLineOnly: options.commandLineOnly ?? false,
    add(text) {
      if (TRUE.test(text)) return true;
      if (FALSE.test(text)) return false;
      throw new UsageError("not a boolean: write true or false");
    },
  });
}

/** A flag whose value is the items of one occurrence, or with `multiple` of all of them. */
export function makeListFlag<T>(
  name: string,
  options: FlagOptions<readonly string[]>,
  kind: Omit<Kind<readonly T[]>, "kind">,
): Flag<readonly T[]> {
  const notes = [...(kind.notes ?? ["comma-separated"])];
  if (options.multiple) notes.push("may be repeated");
  return checked<readonly T[]>({
    name,
    kind: "list",
    help: options.help,
    valueName: options.valueName ?? kind.valueName,
    notes: [notes.join(", ")],
    choices: kind.choices,
    required: options.required === true,
    requiredUnless: options.requiredUnless,
    restricts: options.restricts ?? false,
    isRepeatable: options.multiple ?? false,
    commandLineOnly: options.commandLineOnly ?? false,
    defaultText: kind.defaultText ?? options.dependentDefault,
    isDependent: options.dependentDefault !== undefined,
    initial: [],
    add: (text, before = []) =>
      options.multiple ? [...before, ...kind.parse(text)] : kind.parse(text),
  });
}

/** The items between the commas, without space around them. */
export function itemsOf(text: string): string[] {
  const items = text.split(",").map((item) => item.trim());
  if (items.includes("")) throw new UsageError("has an empty item");
  return items;
}

/**
 * Comma separated texts, none of them empty. The value is an empty array without a default;
 * `multiple` appends the items of every occurrence.
 */
export function listFlag(
  name: string,
  options: FlagOptions<readonly string[]> & { readonly check?: FlagCheck },
): Flag<readonly string[]> {
  return makeListFlag<string>(name, options, {
    valueName: "list",
    defaultText: options.default?.join(","),
    parse: (text) => itemsOf(text).map((item) => passing(options.check, item)),
  });
}

/** Written where a list of choices is to be empty; no choice itself. */
const NO_CHOICE = "none";

/**
 * Some of a few words, comma-separated, or `none` alone. The value has each word once, in the order
 * of the choices; it is an empty array without a default. The last occurrence wins.
 */
export function choiceListFlag<const C extends readonly string[]>(
  name: string,
  options: FlagOptions<readonly C[number][]> & {
    readonly choices: C;
    readonly multiple?: never;
    /** Whether `none` is an error. @default {false} */
    readonly atLeastOne?: boolean;
  },
): Flag<readonly C[number][]> {
  const { atLeastOne = false } = options;
  const choices: readonly C[number][] = options.choices;
  const none = atLeastOne ? [] : [NO_CHOICE];
  return makeListFlag<C[number]>(name, options, {
    valueName: "list",
    notes: [`${[...none, "some"].join(" or ")} of ${choices.join(", ")}`, "comma-separated"],
    choices: [...none, ...choices],
    defaultText: options.default?.length === 0 ? NO_CHOICE : options.default?.join(","),
    parse(text) {
      if (!atLeastOne && text.trim() === NO_CHOICE) return [];
      const items = itemsOf(text);
      const unknown = items.find((item) => !choices.includes(item));
      if (unknown === NO_CHOICE) {
        throw new UsageError(`${quote(NO_CHOICE)} cannot be combined with other values`);
      }
      if (unknown !== undefined) {
        throw new UsageError(`${quote(unknown)} is not one of ${choices.join(", ")}`);
      }
      return choices.filter((choice) => items.includes(choice));
    },
  });
}

/** One of a few words. */
export function choiceFlag<
  const C extends readonly string[],
  const O extends FlagOptions<C[number]>,
>(name: string, choices: C, options: O): Flag<ValueOf<C[number], O>> {
  return makeFlag<C[number], O>(name, options, {
    kind: "choice",
    valueName: choices.join("|"),
    choices,
    defaultText: options.default,
    parse(text) {
      if (!choices.includes(text)) throw new UsageError(`must be one of ${choices.join(", ")}`);
      return text;
    },
  });
}

function passing(check: FlagCheck | undefined, value: string): string {
  const reason = check?.(value);
  if (reason !== undefined) throw new UsageError(reason);
  return value;
}

type Show = (value: number) => string;

export function inRange(value: number, min: number, max: number, show: Show): number {
  if (value < min) throw new UsageError(`must be at least ${show(min)}`);
  if (value > max) throw new UsageError(`must be at most ${show(max)}`);
  return value;
}

export function rangeNotes(min: number | undefined, max: number | undefined, show: Show): string[] {
  if (min !== undefined && max !== undefined) return [`${show(min)} to ${show(max)}`];
  if (min !== undefined) return [`at least ${show(min)}`];
  return max !== undefined ? [`at most ${show(max)}`] : [];
}

/** How environment variables of this project begin. */
export const ENV_PREFIX = "QRHT_";

/** The environment variable that stands in for a flag: `QRHT_LISTEN_TCP` for `listen-tcp`. */
export function envNameOf(flagName: string): string {
  return `${ENV_PREFIX}${flagName.toUpperCase().replaceAll("-", "_")}`;
}

const help = booleanFlag("help", { help: "print this help" });
const version = booleanFlag("version", { help: "print the version" });

const shells = ["bash", "zsh", "fish"] as const;
/** A shell that completes command lines. */
export type Shell = typeof shells[number];

const completion = choiceFlag("completion", shells, {
  valueName: "shell",
  help: "print a completion script for bash, zsh or fish",
});

/**
 * The flags that every program has, beside those of its table: instead of running, it shows
 * something.
 */
export const informingFlags = { help, version, completion } as const satisfies FlagTable;

/** The flags of a table and those that every program has, by what they are called. */
function namesOf(flags: FlagTable): ReadonlyMap<string, Flag<unknown>> {
  const names = new Map<string, Flag<unknown>>([["h", help]]);
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
    if (flag === help && TRUE.test(text)) break;
  }
  return folded;
}

/**
 * Reads the values of a table of flags.
 *
 * The command line goes before the environment, which goes before a file, and that before the
 * default; an empty variable
 * counts as unset unless its flag restricts something, and one that the command line overrides is
 * not looked at. The last occurrence of a flag wins unless the flag is `multiple`, but each must be
 * valid. A variable with the prefix that is of no flag is an error.
 *
 * `--help` or `-h` ends the parsing where it stands and goes before `--version`, which goes before
 * `--completion`; with any of them nothing is required.
 *
 * @throws {UsageError} in one line: what is wrong, in which flag or variable.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { integerFlag, parseFlags } from "./flags.ts";
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
  const names = namesOf(flags);
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
  if (given.get(help) === true) return { kind: "help" };
  if (given.get(version) === true) return { kind: "version" };
  const shell = given.get(completion) as Shell | undefined;
  if (shell !== undefined) return { kind: "completion", shell };

  refuseUnknown(variables, flags, othersFlags);
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

/**
 * The value after one more occurrence of a flag.
 *
 * @param source where that is, for the error message
 * @throws {UsageError} when the text is no value of it
 */
export function addFrom(
  source: string,
  flag: Flag<unknown>,
  text: string,
  before: unknown,
): unknown {
  try {
    return flag.add(text, before);
  } catch (error) {
    if (error instanceof NamedValueError) {
      throw new UsageError(`${source}: ${oneLine(error.message)}`, { cause: error });
    }
    if (!(error instanceof UsageError)) throw error;
    const message = `invalid value ${quote(text)} for ${source}: ${error.message}`;
    throw new UsageError(message, { cause: error });
  }
}

/**
 * A misspelt variable would leave its flag at the default, which may admit everybody.
 *
 * @throws {UsageError} when a variable is of no flag
 */
function refuseUnknown(
  variables: readonly string[],
  flags: FlagTable,
  othersFlags: readonly FlagTable[],
): void {
  const own = Object.values(flags).map(({ name }) => envNameOf(name));
  const others = othersFlags.flatMap(Object.values<Flag<unknown>>).map(({ name }) =>
    envNameOf(name)
  );
  const known = new Set([...own, ...others]);
  const unknown = variables.find((name) => !known.has(name) && !isOfService(name, variables));
  if (unknown === undefined) return;
  const best = nearest(unknown.slice(ENV_PREFIX.length), known, ENV_PREFIX.length);
  const hint = best === undefined ? "; --help lists all variables" : `; did you mean ${best}?`;
  throw new UsageError(`unknown environment variable ${quote(unknown).slice(1, -1)}${hint}`);
}

/** Kubernetes describes each service of a namespace, whatever its name, in variables like these. */
function isOfService(name: string, variables: readonly string[]): boolean {
  const [, service] = /^(.+?)_(?:SERVICE_HOST|SERVICE_PORT|PORT)(?:_\w+)?$/.exec(name) ?? [];
  return service !== undefined && variables.includes(`${service}_SERVICE_HOST`);
}

function unknownFlag(name: string, known: Iterable<string>): string {
  const best = nearest(name, known);
  const hint = best === undefined ? "; --help lists all flags" : `; did you mean --${best}?`;
  return `unknown flag --${quote(name).slice(1, -1)}${hint}`;
}

/**
 * The candidate that is most like a name, if one is like it at all.
 *
 * @param skip characters of each candidate that are left out of account
 */
export function nearest(name: string, candidates: Iterable<string>, skip = 0): string | undefined {
  let best: string | undefined;
  // A third of the letters may differ; more than that is another word.
  let limit = Infinity;
  for (const candidate of candidates) {
    const text = candidate.slice(skip).toLowerCase();
    const longer = Math.max(name.length, text.length);
    // The distance is at least this: no need to compare a very long name letter by letter.
    if (longer - Math.min(name.length, text.length) > longer / 3) continue;
    const distance = levenshteinDistance(name.toLowerCase(), text);
    if (distance <= longer / 3 && distance < limit) [best, limit] = [candidate, distance];
  }
  return best;
}
