// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Runs of a property test: the usual number, or `FUZZ_FACTOR` times as many (`deno task fuzz`). */
export function runs(usual: number): { numRuns: number } {
  return { numRuns: usual * Number(Deno.env.get("FUZZ_FACTOR") ?? 1) };
}
