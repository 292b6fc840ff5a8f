// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Which names in certificates are those of agents that a server admits.
 *
 * A pattern is a name as it is in the certificate, or
 * - `*.agents.example`, `db-*.example`, `db-*`: `*` stands for the first label, or for its rest,
 *   of letters, digits, hyphens and underscores, as in the names of hosts, and is not an IP address.
 *   ASCII letters match in upper and lower case.
 * - `spiffe://cluster/ns/*`, `system:node:*`: with a colon in it, a pattern is for URIs and the
 *   like. `*` at its end, after a slash or colon, stands for whatever follows. Upper and lower case
 *   differ.
 * - `10.0.0.1`, `fd00::1`: an IP address, in any notation, matches that address.
 */

import { formatIp, ipBytes, isIpAddress } from "../net/ip_address.ts";

/** What is wrong with a pattern, or `undefined`. */
export function checkAgentName(pattern: string): string | undefined {
  if (pattern !== pattern.trim()) return "must not begin or end with a space";
  if (isIpAddress(pattern)) return undefined;
  if (pattern.includes(":")) {
    return /^[^*]+(?:[/:]\*)?$/.test(pattern)
      ? undefined
      : "may have * only at the end of a URI, after a slash or colon";
  }
  return /^(?:[^*]+|\*\.[^*]+|[\w-]+\*(?:\.[^*]+)?)$/.test(pattern)
    ? undefined
    : "may have * only for the first label of a name or its end, as in *.agents.example or db-*";
}

/**
 * The first name that one of the patterns matches, if there is one.
 *
 * @param names those of a certificate: DNS names, URIs, IP addresses and common names
 * @param patterns each without a fault that {@linkcode checkAgentName} knows
 *
 * @example
 * ```ts
 * import { allowedName } from "./agent_names.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const patterns = ["*.agents.example", "spiffe://cluster/ns/*"];
 * assertEquals(allowedName(["a.agents.example", "a"], patterns), "a.agents.example");
 * assertEquals(allowedName(["a.b.agents.example"], patterns), undefined);
 * ```
 */
export function allowedName(
  names: readonly string[],
  patterns: readonly string[],
): string | undefined {
  return names.find((name) => patterns.some((pattern) => matchesName(pattern, name)));
}

function matchesName(pattern: string, name: string): boolean {
  const address = ipBytes(pattern);
  if (address) return formatIp(address) === name;
  if (pattern.includes(":")) {
    const prefix = pattern.slice(0, -1);
    return pattern.endsWith("*")
      ? name.length > prefix.length && name.startsWith(prefix)
      : name === pattern;
  }
  const [start, end] = lowerCase(pattern).split("*") as [string, string?];
  const lower = lowerCase(name);
  if (end === undefined) return lower === start;
  const rest = lower.slice(start.length, lower.length - end.length);
  return lower.startsWith(start) && lower.endsWith(end) && /^[\w-]+$/.test(rest) &&
    !isIpAddress(name);
}

/** Of ASCII letters only: there are others whose lower case is an ASCII letter. */
function lowerCase(text: string): string {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}
