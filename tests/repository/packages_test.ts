// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The packages of the two configurations. Deno downloads every package that a configuration names, used or not: `deno.json`
 * names those that the programs and the demo import, `tests/deno.json` those as well, and what only tests and releases need.
 */

import { assertEquals, assertNotEquals } from "@std/assert";
import programs from "../../deno.json" with { type: "json" };
import { npmPackagesOf } from "../../release/npm_packages.ts";
import { read } from "../support/repository.ts";
import tests from "../deno.json" with { type: "json" };

type Packages = Readonly<Record<string, unknown>>;

function lockedIn(path: string): Packages {
  return JSON.parse(read(path)).npm;
}

/** The entries of one table that another one does not have, or has with another value. */
function missing(from: Packages, entries: Packages): string[] {
  return Object.entries(entries)
    .filter(([key, value]) => JSON.stringify(from[key]) !== JSON.stringify(value))
    .map(([key]) => key);
}

Deno.test("deno.json has no package that neither a program nor the demo needs", async () => {
  const entries = ["server.ts", "agent.ts", "passthrough.ts", "certs/make.ts", "demo/main.ts"];
  const needed = [...(await npmPackagesOf(entries)).keys()];
  assertEquals(Object.keys(lockedIn("deno.lock")).sort(), needed.sort());
});

Deno.test("tests/deno.json has what deno.json has, in the same versions", () => {
  assertEquals(missing(tests.imports, programs.imports), []);
  assertEquals(missing(lockedIn("tests/deno.lock"), lockedIn("deno.lock")), []);
  assertNotEquals(missing(programs.imports, tests.imports), [], "the comparison finds something");
});

Deno.test("tests/deno.json has the settings of deno.json", () => {
  const types = programs.compilerOptions.types.map((path) => path.replace("./", "../"));
  const { unstable, lock, fmt, lint, test } = programs;
  const { imports: _, ...settings } = tests;
  assertEquals(settings, {
    ...{ unstable, lock, fmt, lint, test },
    compilerOptions: { ...programs.compilerOptions, types },
  });
});
