// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

// Read at once: tests that use it may do without permissions.
const factor = Number(Deno.env.get("FUZZ_FACTOR") ?? 1);

/** Runs of a property test: the usual number, or `FUZZ_FACTOR` times as many (`deno task fuzz`). */
export function runs(usual: number): { numRuns: number } {
  return { numRuns: usual * factor };
}
