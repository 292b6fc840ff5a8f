// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The command line of the benchmark. */
import { parseArgs } from "node:util";
import { messageOf, UsageError } from "../lib/errors.ts";

export const rowNames = [
  "bulk",
  "fairness",
  "gets",
  "clients",
  "memory",
  "idle",
  "restart",
  "lossy",
] as const;
export type RowName = typeof rowNames[number];

export interface Options {
  readonly isShort: boolean;
  readonly rows: readonly RowName[];
  /** Where the results go besides. */
  readonly json: string | undefined;
  /** Whether a bar that is missed fails all. */
  readonly fails: boolean;
  readonly help: boolean;
}

export const HELP =
  `Measures the tunnel beside no tunnel, beside the QUIC library in memory, and beside its own portable path.

Usage: deno task bench [options]

  --short        less of everything, in about a minute
  --only ROWS    some of ${rowNames.join(",")}
  --json FILE    write all figures there too
  --fail         exit with 1 when a bar is missed
  --help         show this`;

/** @throws {UsageError} */
export function parseOptions(args: readonly string[]): Options {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        short: { type: "boolean", default: false },
        only: { type: "string", default: rowNames.join(",") },
        json: { type: "string" },
        fail: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
    const named = values.only.split(",");
    const unknown = named.find((name) => !(rowNames as readonly string[]).includes(name));
    if (unknown !== undefined) throw new Error(`--only has no row ${JSON.stringify(unknown)}`);
    return {
      isShort: values.short,
      rows: rowNames.filter((name) => named.includes(name)),
      json: values.json,
      fails: values.fail,
      help: values.help,
    };
  } catch (error) {
    throw new UsageError(messageOf(error), { cause: error });
  }
}
