// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Rules about targets, as in `--allow`, `--deny` and `--route`.
 *
 * ```
 * rule    = host [ ":" ports ]
 * host    = "*" / [ "*." ] name / IPv4 [ "/" length ] / IPv6 [ "/" length ]
 *         / "[" IPv6 [ "/" length ] "]"
 * ports   = port [ "-" port ]
 * ```
 *
 * An IPv6 network needs brackets if ports follow. A rule without ports matches all of them.
 */

import { NotParsedError } from "../errors.ts";
import { type Authority, hostNameProblem } from "./authority.ts";
import { type Cidr, cidrContains, formatCidr, parseCidr } from "./cidr.ts";
import { formatIp, isIpAddress } from "./ip_address.ts";

/** A rule; made by {@linkcode parseRule}. */
export interface Rule {
  readonly host:
    | { readonly kind: "any" }
    /**
     * A lower-case name without a trailing dot; with `below`, all names below it instead.
     */
    | { readonly kind: "name"; readonly name: string; readonly below: boolean }
    | { readonly kind: "network"; readonly cidr: Cidr };
  /** 1 to 65535, both included; all ports when it is missing. */
  readonly ports?: { readonly first: number; readonly last: number };
}

/**
 * Reads a rule.
 *
 * @throws {NotParsedError} when `text` is none, or the network in it
 */
export function parseRule(text: string): Rule {
  const { host, ports, bracketed } = split(text);
  return {
    host: bracketed ? { kind: "network", cidr: parseCidr(host) } : parseHost(text, host),
    ...(ports !== undefined && { ports: parsePorts(text, ports) }),
  };
}

/** Writes a rule as {@linkcode parseRule} reads it, a network of one address without its length. */
export function formatRule({ host, ports }: Rule): string {
  const text = formatHost(host);
  if (!ports) return text;
  const { first, last } = ports;
  const range = first === last ? first : `${first}-${last}`;
  return `${text.includes(":") ? `[${text}]` : text}:${range}`;
}

/**
 * Whether a rule matches.
 *
 * @param ips addresses that count as the target's; without one, only names and `*` match
 */
export function ruleMatches(rule: Rule, target: Authority, ips: readonly Uint8Array[]): boolean {
  return matchesPort(rule, target.port) && matchesHost(rule.host, target.hostname, ips);
}

/** Whether a port is one of a rule's. */
export function matchesPort({ ports }: Rule, port: number): boolean {
  return !ports || (ports.first <= port && port <= ports.last);
}

function matchesHost(
  host: Rule["host"],
  hostname: string,
  ips: readonly Uint8Array[],
): boolean {
  if (host.kind === "any") return true;
  if (host.kind === "network") return ips.some((ip) => cidrContains(host.cidr, ip));
  const name = canonicalName(hostname);
  return host.below ? name.endsWith(`.${host.name}`) : name === host.name;
}

/** In lower case, without a trailing dot. */
export function canonicalName(name: string): string {
  return name.toLowerCase().replace(/\.$/, "");
}

function split(text: string): { host: string; ports?: string; bracketed?: boolean } {
  if (text === "") throw new NotParsedError("rule", text, "it is empty");
  if (text.startsWith("[")) {
    const [, host, tail] = /^\[([^\]]*)\](.*)$/s.exec(text) ?? [];
    if (host === undefined) throw new NotParsedError("rule", text, 'no "]" after the IPv6 network');
    if (!host.includes(":")) {
      throw new NotParsedError("rule", text, "not an IPv6 network in the brackets");
    }
    if (!tail) return { host, bracketed: true };
    if (!tail.startsWith(":")) {
      throw new NotParsedError("rule", text, 'only ports may follow the "]"');
    }
    return { host, bracketed: true, ports: tail.slice(1) };
  }
  const parts = text.split(":");
  if (parts.length === 2) return { host: parts[0]!, ports: parts[1]! };
  if (/\/.*:/s.test(text)) {
    throw new NotParsedError(
      "rule",
      text,
      "ports after an IPv6 network need brackets, as in [fd00::/8]:443",
    );
  }
  return { host: text };
}

function parseHost(text: string, host: string): Rule["host"] {
  if (host === "*") return { kind: "any" };
  if (host.includes("/") || host.includes(":") || isIpAddress(host) !== 0) {
    return { kind: "network", cidr: parseCidr(host) };
  }
  const below = host.startsWith("*.");
  const name = below ? host.slice(2) : host;
  if (name.includes("*")) {
    throw new NotParsedError(
      "rule",
      text,
      "* must stand alone, or for the labels before a name as in *.example",
    );
  }
  if (below && isIpAddress(canonicalName(name)) !== 0) {
    throw new NotParsedError("rule", text, "an IP address has no names below it");
  }
  const problem = hostNameProblem(name);
  if (problem !== undefined) throw new NotParsedError("rule", text, problem);
  return { kind: "name", name: canonicalName(name), below };
}

function parsePorts(text: string, ports: string): { first: number; last: number } {
  const [, low, high = low] = /^([0-9]{1,5})(?:-([0-9]{1,5}))?$/.exec(ports) ?? [];
  if (low === undefined) {
    throw new NotParsedError("rule", text, "not a port or a range like 80-90 after the colon");
  }
  const [first, last] = [Number(low), Number(high)];
  if (first < 1 || last > 65535) {
    throw new NotParsedError("rule", text, "the ports must be in 1 to 65535");
  }
  if (first > last) {
    throw new NotParsedError("rule", text, "the first port is greater than the last");
  }
  return { first, last };
}

function formatHost(host: Rule["host"]): string {
  if (host.kind === "any") return "*";
  if (host.kind === "network") return formatNetwork(host.cidr);
  return host.below ? `*.${host.name}` : host.name;
}

/** Writes a network, of one address without its length. */
export function formatNetwork(cidr: Cidr): string {
  const { network, prefixLength } = cidr;
  return prefixLength === network.length * 8 ? formatIp(network) : formatCidr(cidr);
}
