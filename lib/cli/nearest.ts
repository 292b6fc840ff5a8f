// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which name was meant. */

import { levenshteinDistance } from "@std/text/levenshtein-distance";

/**
 * The candidate that is most like a name, if one is like it at all.
 *
 * @param skip characters of each candidate that are left out of account
 */
export function nearest(name: string, candidates: Iterable<string>, skip = 0): string | undefined {
  let best: string | undefined;
  // A third of the letters may differ; more than that is another word.
  let limit = Infinity;
  for (const candidate of candidates) {
    const text = candidate.slice(skip).toLowerCase();
    const longer = Math.max(name.length, text.length);
    // The distance is at least this: no need to compare a very long name letter by letter.
    if (longer - Math.min(name.length, text.length) > longer / 3) continue;
    const distance = levenshteinDistance(name.toLowerCase(), text);
    if (distance <= longer / 3 && distance < limit) [best, limit] = [candidate, distance];
  }
  return best;
}
