// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Environment variables that stand in for flags. */

import { UsageError } from "../errors.ts";
import { quote } from "../printable.ts";
import type { Flag, FlagTable } from "./flag.ts";
import { nearest } from "./nearest.ts";

/** How environment variables of this project begin. */
export const ENV_PREFIX = "QRHT_";

/** The environment variable that stands in for a flag: `QRHT_LISTEN_TCP` for `listen-tcp`. */
export function envNameOf(flagName: string): string {
  return `${ENV_PREFIX}${flagName.toUpperCase().replaceAll("-", "_")}`;
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

/**
 * A misspelt variable would leave its flag at the default, which may admit everybody.
 *
 * @throws {UsageError} when a variable is of no flag
 */
export function refuseUnknownVariables(
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
