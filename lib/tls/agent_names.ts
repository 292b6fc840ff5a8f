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
 *   like. `*` at its end, after a slash or colon, stands for whatever follows, and is not an IP
 *   address. Upper and lower case differ.
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
  return names.find(nameFilter(patterns));
}

/**
 * The same for many certificates.
 *
 * @returns whether a name is one that the patterns match
 */
export function nameFilter(patterns: readonly string[]): (name: string) => boolean {
  const table = new NameTable(patterns.map((pattern) => [pattern, true]));
  return (name) => table.find(name).length > 0;
}

/** What patterns of names stand for. A look-up takes as many steps with a thousand as with one. */
export class NameTable<T> {
  readonly #exact = new Map<string, T[]>();
  /** With `*`, under what is before it, `*`, and what is after it. */
  readonly #open = new Map<string, T[]>();
  /** Lengths of what is before `*`, in names and in what has a colon. */
  readonly #lengths = { name: new Set<number>(), uri: new Set<number>() };

  /** @param entries patterns without a fault that {@linkcode checkAgentName} knows */
  constructor(entries: Iterable<readonly [pattern: string, value: T]>) {
    for (const [pattern, value] of entries) {
      const key = canonicalAgentName(pattern);
      const end = key.lastIndexOf("*");
      if (end >= 0) this.#lengths[kindOf(key)].add(end);
      const table = end < 0 ? this.#exact : this.#open;
      const before = table.get(key);
      if (before) before.push(value);
      else table.set(key, [value]);
    }
  }

  /** The values of all patterns that match a name of a certificate. */
  find(name: string): readonly T[] {
    const kind = kindOf(name);
    const key = kind === "uri" ? name : lowerCase(name);
    const lengths = this.#lengths[kind];
    const found = [...this.#exact.get(key) ?? []];
    if (lengths.size === 0 || isIpAddress(name)) return found;
    const [label, rest] = kind === "uri" ? [key, ""] : firstLabelOf(key);
    if (kind === "name" && !/^[\w-]+$/.test(label)) return found;
    for (const length of lengths) {
      if (length >= label.length) continue;
      found.push(...this.#open.get(`${label.slice(0, length)}*${rest}`) ?? []);
    }
    return found;
  }
}

/** What a name or a pattern is compared as: those that match the same are the same. */
export function canonicalAgentName(name: string): string {
  const address = ipBytes(name);
  if (address) return formatIp(address);
  // Upper and lower case differ in URIs.
  return kindOf(name) === "uri" ? name : lowerCase(name);
}

/** The first label of a name, and the rest with its dot. */
function firstLabelOf(name: string): [string, string] {
  const dot = name.indexOf(".");
  return dot < 0 ? [name, ""] : [name.slice(0, dot), name.slice(dot)];
}

function kindOf(name: string): "name" | "uri" {
  return name.includes(":") ? "uri" : "name";
}

/** Of ASCII letters only: there are others whose lower case is an ASCII letter. */
function lowerCase(text: string): string {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}
