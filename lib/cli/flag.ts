// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What a flag is: how a table declares it, and how it reads one occurrence. */

import { UsageError } from "../errors.ts";
import { oneLine, quote } from "../printable.ts";

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

/**
 * An invalid value. The message names the part of it that is wrong.
 */
export class NamedValueError extends Error {
  override readonly name = "NamedValueError";
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

/** Finds a default that its own flag rejects when the table is built, not when a user starts. */
export function checked<V>(flag: Flag<V>): Flag<V> {
  if (flag.defaultText !== undefined) flag.add(flag.defaultText, flag.initial);
  return flag;
}

/** The items between the commas, without space around them. */
export function itemsOf(text: string): string[] {
  const items = text.split(",").map((item) => item.trim());
  if (items.includes("")) throw new UsageError("has an empty item");
  return items;
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
