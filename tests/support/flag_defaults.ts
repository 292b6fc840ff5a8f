// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { FlagTable, FlagValues } from "../../lib/cli/flag.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";

/** What a program is given by the flags of its table when only those that it must have are set. */
export function defaultsOf<T extends FlagTable>(flags: T): FlagValues<T> {
  const required = Object.values(flags).filter((flag) => flag.required || flag.requiredUnless)
    .map(({ name, kind }) => `--${name}=${kind === "address" ? "127.0.0.1:1" : "unused"}`);
  const parsed = parseFlags(flags, required, { get: () => undefined });
  if (parsed.kind !== "run") throw new Error(`Expected values, got ${parsed.kind}`);
  return parsed.values;
}
