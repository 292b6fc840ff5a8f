// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Flags whose values are texts, numbers, booleans, words, and lists of these. */

import { UsageError } from "../errors.ts";
import { quote } from "../printable.ts";
import {
  checked,
  type Flag,
  type FlagCheck,
  type FlagOptions,
  itemsOf,
  makeFlag,
  makeListFlag,
  type ValueOf,
} from "./flag.ts";

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
