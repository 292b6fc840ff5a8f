// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertThrows } from "@std/assert";
import { addressFlag, cidrListFlag } from "../../lib/cli/address_flags.ts";
import { durationFlag } from "../../lib/cli/duration.ts";
import type { FlagTable, FlagValues } from "../../lib/cli/flag.ts";
import {
  booleanFlag,
  choiceFlag,
  choiceListFlag,
  integerFlag,
  listFlag,
  stringFlag,
} from "../../lib/cli/flag_kinds.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { UsageError } from "../../lib/errors.ts";

/** A table with a flag of every kind. */
export const flags = {
  listenTcp: addressFlag("listen-tcp", {
    default: "0.0.0.0:8443",
    allowPortZero: true,
    allowEmptyHost: true,
    help: "where to listen",
  }),
  upstream: addressFlag("upstream", { help: "where to connect to" }),
  name: stringFlag("name", { default: "n", help: "a name" }),
  title: stringFlag("title", { allowEmpty: true, help: "may be empty" }),
  rules: stringFlag("rule", { multiple: true, help: "a rule" }),
  retries: integerFlag("retries", { default: 3, min: -1, max: 10, help: "how often" }),
  size: integerFlag("size", { help: "how large" }),
  dryRun: booleanFlag("dry-run", { help: "do nothing" }),
  color: booleanFlag("color", { default: true, help: "use colors" }),
  waitMs: durationFlag("wait", { default: "1m30s", help: "how long" }),
  offsetMs: durationFlag("offset", { minMs: -1000, help: "how much earlier or later" }),
  alpn: listFlag("alpn", { default: ["a", "b"], help: "names" }),
  tags: listFlag("tag", { multiple: true, help: "tags" }),
  format: choiceFlag("log-format", ["text", "json"], { default: "text", help: "log format" }),
  allowed: cidrListFlag("allow", { default: ["10.0.0.0/8", "::1"], help: "networks" }),
  denied: cidrListFlag("deny", { multiple: true, help: "networks" }),
  fields: choiceListFlag("fields", {
    choices: ["client", "listener", "id"],
    default: ["client"],
    help: "what to tell",
  }),
  extras: choiceListFlag("extras", { choices: ["a", "b"], default: [], help: "more" }),
  others: choiceListFlag("others", { choices: ["a", "b"], help: "others" }),
} as const satisfies FlagTable;

/** An empty environment. */
export const noEnv = { get: () => undefined };

/** Variables of the environment. */
export type Variables = Readonly<Record<string, string>>;

/** The values that a command line and the environment give to the flags of a table. */
export function valuesOf<T extends FlagTable>(
  table: T,
  args: readonly string[],
  env: Variables = {},
): FlagValues<T> {
  const parsed = parseFlags(table, args, { get: (name) => env[name], names: Object.keys(env) });
  if (parsed.kind !== "run") throw new Error(`Expected values, got ${parsed.kind}`);
  return parsed.values;
}

/** Those of {@linkcode flags}. */
export const run = (args: readonly string[], env?: Variables) => valuesOf(flags, args, env);

/** What is wrong with a command line or the environment. */
export function messageFor(
  args: readonly string[],
  env: Variables = {},
  table: FlagTable = flags,
): string {
  return assertThrows(() => valuesOf(table, args, env), UsageError).message;
}
