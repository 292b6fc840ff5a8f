// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Which destinations may be dialled: the rules of `--allow` and `--deny`.
 *
 * A name rule is matched with the requested name, a network rule with the address to be dialled,
 * whether the client requested it or the name resolves to it; `*` matches both.
 *
 * The first of these that holds decides:
 *
 * 1. A `--deny` rule matches: denied. Its networks also match an IPv6 address that leads to an IPv4
 *    address in them (NAT64, 6to4 and the like).
 * 2. The address is in a network that is denied by default: denied, unless an `--allow` rule
 *    matches whose network is that network or a part of it. Neither a name, nor `*`, nor a wider
 *    network lifts it, and nothing lifts it from an IPv6 address that merely leads into such a
 *    network. The same applies to listeners of the agent itself and to debuggers on its machine,
 *    but the rule must also name their port, alone.
 * 3. There are `--allow` rules and none matches: denied.
 * 4. Allowed.
 */

import type { Authority } from "../net/authority.ts";
import { type Cidr, cidrContains, parseCidr } from "../net/cidr.ts";
import { formatIp, ipBytes } from "../net/ip_address.ts";
import {
  formatNetwork,
  formatRule,
  matchesPort,
  type Rule,
  ruleMatches,
} from "../net/target_rule.ts";

/** The rules of an agent. */
export interface Rules {
  readonly allow: readonly Rule[];
  readonly deny: readonly Rule[];
  /** IP addresses and ports that the agent itself listens on. @default {[]} */
  readonly own?: readonly Authority[] | undefined;
}

/** Why a destination is denied. */
export interface Denial {
  /** Names the rule, fit for a reason phrase: `denied by --deny 10.0.0.0/8:22`. */
  readonly reason: string;
  /** Whether it is the address that is denied, whatever name it was found by. */
  readonly byAddress: boolean;
}

/**
 * Networks that are denied by default: who may use the agent need not get at the credentials of the
 * machine it runs on. Those of IPv4 are link-local in all clouds but Azure, and Alibaba's
 * 100.100.100.200, which is left out as many clusters have their pods around it.
 */
const DENIED_BY_DEFAULT = ([
  ["link-local", "169.254.0.0/16"],
  ["link-local", "fe80::/10"],
  ["cloud metadata", "fd00:ec2::/32"], // Amazon: metadata, pod identity
  ["cloud metadata", "fd20:ce::254"], // Google
  ["cloud metadata", "168.63.129.16"], // Azure
  ["cloud metadata", "fd00:c1::a9fe:a9fe"], // Oracle
  ["cloud metadata", "fd00:42::42"], // Scaleway
] as const).map(([what, network]) => ({ what, cidr: parseCidr(network) }));

const LOOPBACK = ["127.0.0.0/8", "::1"].map(parseCidr);

/** Where the debuggers of Deno and Node listen, which read and run everything. */
const DEBUGGER_PORT = 9229;

/** IPv6 networks whose addresses lead to an IPv4 address, and at which byte that is in them. */
const LEADING_TO_IPV4 = ([
  ["64:ff9b::/96", 12], // NAT64, RFC 6052 §2.1
  ["2002::/16", 2], // 6to4, RFC 3056 §2
  ["::ffff:0:0:0/96", 12], // IPv4-translated, RFC 2765 §2.1
  ["::/96", 12], // IPv4-compatible, RFC 4291 §2.5.5.1
] as const).map(([network, at]) => ({ cidr: parseCidr(network), at }));

/** What systems connect to when they are given the unspecified address. */
const UNSPECIFIED: Readonly<Record<string, Uint8Array | undefined>> = {
  "0.0.0.0": ipBytes("127.0.0.1"),
  "::": ipBytes("::1"),
};

const LOOPBACK_IPV6 = "::1";

/**
 * Decides by the name, before it is resolved. If this does not deny it, call {@linkcode denialOf}
 * with each of its addresses.
 *
 * @returns why it is denied with any address, or `undefined` when its address decides
 */
export function denialOfName({ allow, deny }: Rules, target: Authority): Denial | undefined {
  const denying = deny.find((rule) => ruleMatches(rule, target, []));
  if (denying) return deniedBy(denying);
  const possible = (rule: Rule) =>
    rule.host.kind === "network" ? matchesPort(rule, target.port) : ruleMatches(rule, target, []);
  return allow.length === 0 || allow.some(possible) ? undefined : NOT_ALLOWED;
}

/**
 * Judges a destination.
 *
 * @param target what was asked for
 * @param ip the address that is to be dialled, 4 or 16 bytes, no IPv4-mapped IPv6 address
 * @param isThisMachine whether it is known to be an address of this machine, apart from loopback
 * @returns why it is denied, or `undefined` when it is allowed
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { ipBytes } from "../net/ip_address.ts";
 * import { parseRule } from "../net/target_rule.ts";
 * import { denialOf } from "./acl.ts";
 *
 * const rules = { allow: [parseRule("10.0.0.0/8:443")], deny: [parseRule("10.9.0.0/16")] };
 * const target = { hostname: "10.9.0.1", port: 443 };
 * const denial = denialOf(rules, target, ipBytes("10.9.0.1")!);
 * assertEquals(denial?.reason, "denied by --deny 10.9.0.0/16");
 * ```
 */
export function denialOf(
  { allow, deny, own = [] }: Rules,
  target: Authority,
  ip: Uint8Array,
  isThisMachine = false,
): Denial | undefined {
  const reached = [ip, ...destinationsOf(ip)];
  const denying = deny.find((rule) => ruleMatches(rule, target, reached));
  if (denying) return deniedBy(denying);
  const byDefault = DENIED_BY_DEFAULT.find(({ cidr }) =>
    reached.some((address) => cidrContains(cidr, address))
  );
  if (byDefault && !allow.some((rule) => lifts(rule, byDefault.cidr, target, ip))) {
    const { what, cidr } = byDefault;
    return { reason: `denied by default rule ${what} ${formatNetwork(cidr)}`, byAddress: true };
  }
  const what = listenerAt(own, target.port, reached, isThisMachine);
  if (what && !allow.some((rule) => liftsPort(rule, target, ip))) {
    return { reason: `denied by default rule ${what}`, byAddress: true };
  }
  const isAllowed = allow.length === 0 || allow.some((rule) => ruleMatches(rule, target, [ip]));
  return isAllowed ? undefined : NOT_ALLOWED;
}

const NOT_ALLOWED: Denial = { reason: "denied: no --allow rule matches", byAddress: false };

function deniedBy(rule: Rule): Denial {
  return {
    reason: `denied by --deny ${formatRule(rule)}`,
    byAddress: rule.host.kind === "network",
  };
}

function lifts(rule: Rule, denied: Cidr, target: Authority, ip: Uint8Array): boolean {
  const { host } = rule;
  return host.kind === "network" && ruleMatches(rule, target, [ip]) &&
    host.cidr.prefixLength >= denied.prefixLength && cidrContains(denied, host.cidr.network);
}

/** What listens there that no client should reach. */
function listenerAt(
  own: readonly Authority[],
  port: number,
  ips: readonly Uint8Array[],
  isThisMachine: boolean,
): string | undefined {
  const onLoopback = ips.some((ip) => LOOPBACK.some((cidr) => cidrContains(cidr, ip)));
  if (onLoopback && port === DEBUGGER_PORT) return `debugger ${DEBUGGER_PORT}`;
  const isOwn = own.some((listener) =>
    listener.port === port &&
    (UNSPECIFIED[listener.hostname]
      ? onLoopback || isThisMachine
      : ips.some((ip) => formatIp(ip) === listener.hostname))
  );
  return isOwn ? `own listener ${port}` : undefined;
}

/** Whether a rule is about exactly this address, or addresses of this machine, and this port. */
function liftsPort(rule: Rule, target: Authority, ip: Uint8Array): boolean {
  const { host, ports } = rule;
  if (host.kind !== "network" || ports?.first !== ports?.last) return false;
  const { network, prefixLength } = host.cidr;
  const isNarrow = prefixLength === network.length * 8 ||
    LOOPBACK.some((cidr) => prefixLength >= cidr.prefixLength && cidrContains(cidr, network));
  return ports !== undefined && isNarrow && ruleMatches(rule, target, [ip]);
}

/** Other addresses that a connection to this one ends up at. */
function destinationsOf(ip: Uint8Array): Uint8Array[] {
  const text = formatIp(ip);
  const unspecified = UNSPECIFIED[text];
  if (unspecified) return [unspecified];
  if (ip.length === 4 || text === LOOPBACK_IPV6) return [];
  return LEADING_TO_IPV4.filter(({ cidr }) => cidrContains(cidr, ip))
    .map(({ at }) => ip.slice(at, at + 4));
}
