// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import project from "../deno.json" with { type: "json" };

/** A program as users know it. */
export type ProgramName = "proxy-server" | "proxy-agent" | "proxy-passthrough";

/** Version of the programs: the one in `deno.json`. */
export const version: string = project.version;

/** Where `deno task compile` writes the commit that it compiles, to be embedded in the programs. */
export const COMMIT_FILE = "dist/commit";

/**
 * The version, and what a compiled program contains:
 * `0.1.0 (commit 9371349…, Deno 2.9.6, x86_64-…)`.
 */
export function describeVersion(): string {
  if (!Deno.build.standalone) return version;
  return `${version} (commit ${commit()}, Deno ${Deno.version.deno}, ${Deno.build.target})`;
}

function commit(): string {
  try {
    return Deno.readTextFileSync(new URL(`../${COMMIT_FILE}`, import.meta.url)).trim();
  } catch {
    // Compiled without the task.
    return "unknown";
  }
}
