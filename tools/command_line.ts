// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { parseArgs } from "@std/cli/parse-args";
import { UsageError } from "../lib/errors.ts";

/** Flags of a command, without their dashes; `--help` is one of every command. */
export interface CommandFlags<Text extends string, List extends string, Switch extends string> {
  /** Flags that take a value; the last one counts. */
  readonly text?: readonly Text[];
  /** Flags that take a value and may be repeated. */
  readonly list?: readonly List[];
  /** Flags that take no value. */
  readonly switches?: readonly Switch[];
}

/**
 * Parses the command line of a development command: `--flag`, `--flag value` and `--flag=value`.
 *
 * @returns what was given: undefined, an empty list or false for a flag that was not
 * @throws {UsageError} when an argument is unknown, a value is missing, or a switch is given one
 */
export function parseCommandLine<
  Text extends string = never,
  List extends string = never,
  Switch extends string = never,
>(
  args: readonly string[],
  { text = [], list = [], switches = [] }: CommandFlags<Text, List, Switch>,
):
  & { [name in Text]: string | undefined }
  & { [name in List]: string[] }
  & {
    [name in Switch | "help"]: boolean;
  } {
  const boolean = [...switches, "help"];
  const unknown: string[] = [];
  const { _: more, ...values } = parseArgs(args, {
    string: [...text, ...list],
    collect: list,
    boolean,
    unknown: (argument) => {
      unknown.push(argument);
      return false;
    },
  });
  unknown.push(...more.map(String));
  if (unknown.length > 0) throw new UsageError(`unknown arguments: ${unknown.join(" ")}`);
  for (const [name, value] of Object.entries(values)) {
    const isMissing = Array.isArray(value) ? value.includes("") : value === "";
    if (isMissing) throw new UsageError(`--${name} needs a value`);
  }
  const full = boolean.find((name) => args.some((arg) => arg.startsWith(`--${name}=`)));
  if (full !== undefined) throw new UsageError(`--${full} takes no value`);
  return values as ReturnType<typeof parseCommandLine<Text, List, Switch>>;
}
