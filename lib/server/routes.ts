// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Which agents a target belongs to: the routes of `--route`.
 *
 * The most specific one wins, whatever their order:
 *
 * 1. The longest prefix of a network, or a name itself before the longest `*.name`, and `*` last.
 * 2. Of those with the same host, the fewest ports; of as many, the lowest.
 *
 * Routes for the same target are one, with the agents of all. A name is matched as a name: it is
 * not resolved, so networks match only the addresses that clients ask for.
 */
import { NotParsedError } from "../errors.ts";
import type { Authority } from "../net/authority.ts";
import { type Cidr, cidrContains } from "../net/cidr.ts";
import { ipBytes, unmapIp } from "../net/ip_address.ts";
import { canonicalName, formatRule, parseRule, type Rule } from "../net/target_rule.ts";
import { type AgentSet, parseAgents, unionOfAgents } from "./agent_set.ts";

/** Targets, and the agents that reach them. */
export interface TargetRoute {
  readonly agents: AgentSet;
  readonly targets: readonly Rule[];
}

/** One target of a table. */
export interface TableEntry<T> {
  readonly rule: Rule;
  readonly agents: AgentSet;
  readonly value: T;
}

/**
 * Reads `AGENTS=TARGETS`, both with commas.
 *
 * @throws {NotParsedError} when `text` is anything else
 */
export function parseRoute(text: string): TargetRoute {
  // Names in certificates may have the sign, targets cannot.
  const sign = text.lastIndexOf("=");
  if (sign < 0) {
    throw new NotParsedError("route", text, "no = between the agents and their targets");
  }
  const agents = parseAgents(text.slice(0, sign));
  const targets = text.slice(sign + 1).split(",").map((rule) => parseRule(rule.trim()));
  return { agents, targets };
}

/** One target, with its text. */
interface Keyed {
  readonly key: string;
  readonly rule: Rule;
  readonly agents: AgentSet;
}

const ALL_PORTS = { first: 1, last: 65_535 };

/** What a target leads to. A look-up takes as many steps with a thousand routes as with one. */
export class RouteTable<T> {
  /** All targets, the most specific first. */
  readonly entries: readonly TableEntry<T>[];
  readonly #hosts: ReadonlyMap<string, PortTable<T>>;
  /** Lengths of prefixes that there are, the longest first, by the bytes of an address. */
  readonly #lengths: Readonly<Record<number, readonly number[]>>;

  /** @param valueOf what a set of agents stands for */
  constructor(routes: readonly TargetRoute[], valueOf: (agents: AgentSet) => T) {
    const byTarget = new Map<string, Keyed>();
    for (const { agents, targets } of routes) {
      for (const target of targets) {
        const rule = withoutAllPorts(target);
        const key = formatRule(rule);
        const before = byTarget.get(key)?.agents;
        byTarget.set(key, { key, rule, agents: before ? unionOfAgents(before, agents) : agents });
      }
    }
    this.entries = [...byTarget.values()].sort(bySpecificity)
      .map(({ rule, agents }) => ({ rule, agents, value: valueOf(agents) }));
    const ofHosts = Map.groupBy(this.entries, ({ rule }) => keyOf(rule.host));
    this.#hosts = new Map(Array.from(ofHosts, ([host, entries]) => [host, new PortTable(entries)]));
    const lengthsOf = (bytes: number) => {
      const lengths = this.entries.flatMap(({ rule: { host } }) =>
        host.kind === "network" && host.cidr.network.length === bytes
          ? [host.cidr.prefixLength]
          : []
      );
      return [...new Set(lengths)]; // as the entries are sorted
    };
    this.#lengths = { 4: lengthsOf(4), 16: lengthsOf(16) };
  }

  /** The most specific route of a target, if it has one. */
  find({ hostname, port }: Authority): TableEntry<T> | undefined {
    const bytes = ipBytes(hostname);
    return (bytes ? this.#findAddress(unmapIp(bytes), port) : this.#findName(hostname, port)) ??
      this.#at(ANY, port);
  }

  #findAddress(address: Uint8Array, port: number): TableEntry<T> | undefined {
    for (const length of this.#lengths[address.length]!) {
      const found = this.#at(networkKey(address, length), port);
      if (found) return found;
    }
    return undefined;
  }

  #findName(hostname: string, port: number): TableEntry<T> | undefined {
    const name = canonicalName(hostname);
    const found = this.#at(nameKey(name, false), port);
    if (found) return found;
    for (let dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1)) {
      const found = this.#at(nameKey(name.slice(dot + 1), true), port);
      if (found) return found;
    }
    return undefined;
  }

  #at(key: string, port: number): TableEntry<T> | undefined {
    return this.#hosts.get(key)?.find(port);
  }

  /** Those that other routes leave no target. */
  neverMatching(): readonly TableEntry<T>[] {
    const hidden: TableEntry<T>[] = [];
    for (const entry of this.entries) {
      const { first, last } = entry.rule.ports ?? ALL_PORTS;
      const ofHost = this.#hosts.get(keyOf(entry.rule.host))!;
      const inside = this.#insideOf(entry.rule.host);
      const ports = new Set([first]);
      for (const { rule } of [...inside, ...ofHost.entries]) {
        const { first: from, last: to } = rule.ports ?? ALL_PORTS;
        for (const port of [from, to + 1]) if (first < port && port <= last) ports.add(port);
      }
      const isHidden = (port: number) =>
        ofHost.find(port) !== entry || isCovered(
          entry.rule.host,
          inside.filter(({ rule }) => hasPort(rule, port)).map(({ rule }) => rule.host),
        );
      if ([...ports].every(isHidden)) hidden.push(entry);
    }
    return hidden;
  }

  /** The next less specific route of all targets of an entry, if there is one. */
  within({ rule }: TableEntry<T>): TableEntry<T> | undefined {
    const after = this.entries.indexOf(this.entries.find((entry) => entry.rule === rule)!) + 1;
    return this.entries.slice(after).find((wider) => contains(wider.rule, rule));
  }

  #insideOf(host: Rule["host"]): TableEntry<T>[] {
    if (host.kind !== "network") return [];
    return this.entries.filter(({ rule }) =>
      keyOf(rule.host) !== keyOf(host) && containsHost(host, rule.host)
    );
  }
}

/** The routes of one host, by port. */
class PortTable<T> {
  #changes: readonly PortChange<T>[] | undefined;

  /** @param entries the most specific first */
  constructor(readonly entries: readonly TableEntry<T>[]) {}

  find(port: number): TableEntry<T> | undefined {
    const changes = this.#changes ??= this.#findChanges();
    let [low, high] = [0, changes.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (changes[middle]!.from <= port) low = middle;
      else high = middle;
    }
    return changes[low]!.entry;
  }

  /** Made at the first look-up, so that a long table is there at once. */
  #findChanges(): readonly PortChange<T>[] {
    const { entries } = this;
    const starts = new Set([1]);
    for (const { rule: { ports = ALL_PORTS } } of entries) {
      starts.add(ports.first).add(ports.last + 1);
    }
    return [...starts].toSorted((a, b) => a - b).map((from) => ({
      from,
      entry: entries.find(({ rule }) => hasPort(rule, from)),
    }));
  }
}

/** A port from which on another route counts, or none. */
interface PortChange<T> {
  readonly from: number;
  readonly entry: TableEntry<T> | undefined;
}

function withoutAllPorts({ host, ports }: Rule): Rule {
  const { first, last } = ports ?? ALL_PORTS;
  return first === ALL_PORTS.first && last === ALL_PORTS.last ? { host } : { host, ports: ports! };
}

function hasPort({ ports = ALL_PORTS }: Rule, port: number): boolean {
  return ports.first <= port && port <= ports.last;
}

const ANY = "*";

function keyOf(host: Rule["host"]): string {
  switch (host.kind) {
    case "any":
      return ANY;
    case "name":
      return nameKey(host.name, host.below);
    case "network":
      return networkKey(host.cidr.network, host.cidr.prefixLength);
  }
}

function nameKey(name: string, below: boolean): string {
  return below ? `*.${name}` : name;
}

/** No name has a slash. */
function networkKey(address: Uint8Array, length: number): string {
  const masked = address.map((byte, i) =>
    byte & (0xff00 >> Math.min(8, Math.max(0, length - 8 * i)))
  );
  return `${masked.toHex()}/${length}`;
}

function bySpecificity({ rule: a, key }: Keyed, { rule: b, key: other }: Keyed): number {
  const [ofA, ofB] = [a.ports ?? ALL_PORTS, b.ports ?? ALL_PORTS];
  return rankOf(b.host) - rankOf(a.host) || ofA.last - ofA.first - (ofB.last - ofB.first) ||
    ofA.first - ofB.first || (key < other ? -1 : 1);
}

/** Of hosts that match the same target, the more specific one has the higher rank. */
function rankOf(host: Rule["host"]): number {
  if (host.kind === "any") return -1;
  if (host.kind === "network") return host.cidr.prefixLength;
  return host.below ? host.name.length : Infinity;
}

function contains(wide: Rule, narrow: Rule): boolean {
  const { first, last } = narrow.ports ?? ALL_PORTS;
  return hasPort(wide, first) && hasPort(wide, last) && containsHost(wide.host, narrow.host);
}

function containsHost(wide: Rule["host"], narrow: Rule["host"]): boolean {
  if (wide.kind === "any") return true;
  if (wide.kind === "network") {
    return narrow.kind === "network" && narrow.cidr.prefixLength >= wide.cidr.prefixLength &&
      cidrContains(wide.cidr, narrow.cidr.network);
  }
  if (narrow.kind !== "name") return false;
  return nameKey(wide.name, wide.below) === nameKey(narrow.name, narrow.below) ||
    (wide.below && narrow.name.endsWith(`.${wide.name}`));
}

/** Whether networks inside of one leave no address of it. */
function isCovered(host: Rule["host"], inside: readonly Rule["host"][]): boolean {
  if (host.kind !== "network") return false;
  const cidrs = inside.flatMap((host): Cidr[] => host.kind === "network" ? [host.cidr] : []);
  const widest = cidrs.filter((cidr) =>
    !cidrs.some((other) =>
      other.prefixLength < cidr.prefixLength && cidrContains(other, cidr.network)
    )
  );
  const bits = BigInt(host.cidr.network.length * 8);
  const sizeOf = ({ prefixLength }: Cidr) => 1n << (bits - BigInt(prefixLength));
  // Those of several ports are the same network more than once.
  const sizes = new Map(widest.map((cidr) => [networkKey(cidr.network, cidr.prefixLength), cidr]));
  return [...sizes.values()].reduce((sum, cidr) => sum + sizeOf(cidr), 0n) === sizeOf(host.cidr);
}
