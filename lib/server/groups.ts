// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Groups: agents that serve the same clients. Their certificates decide, they claim nothing. */
import { type Authority, formatAuthority } from "../net/authority.ts";
import { formatRule } from "../net/target_rule.ts";
import type { GroupFacts } from "../observe/monitor.ts";
import { shorten } from "../printable.ts";
import { TunnelError } from "../tunnel/errors.ts";
import type { Front } from "./front.ts";
import { type Entitled, GroupRules, type GroupRulesOptions, NAMELESS } from "./group_rules.ts";
import { type Agent, AgentRegistry, type RegistryOptions } from "./registry.ts";

/** Some agents, and the clients that wait for them. */
export interface Group<A extends Agent<Stream>, Stream> {
  /** Undefined where there are no others. */
  readonly name: string | undefined;
  readonly registry: AgentRegistry<A, Stream>;
}

export interface GroupsOptions extends RegistryOptions, GroupRulesOptions {}

/** No route leads to the target that a client asks for. */
export class NoRouteError extends TunnelError {
  override readonly name = "NoRouteError";
  constructor(target: Authority) {
    super("self", "no-route", `no route to ${shorten(formatAuthority(target), MAX_TARGET_LENGTH)}`);
  }
}

const MAX_TARGET_LENGTH = 200;

/** All groups of a server. */
export class AgentGroups<A extends Agent<Stream> & Entitled, Stream> {
  #rules: GroupRules;
  /** By name. */
  #groups: ReadonlyMap<string, Group<A, Stream>> = new Map();
  readonly #active = new Set<A>();
  readonly #options: RegistryOptions;

  /** @throws {UsageError} when the options contradict each other */
  constructor(options: GroupsOptions) {
    this.#options = options;
    this.#rules = new GroupRules(options);
    this.#groups = this.#groupsOf(this.#rules);
  }

  /**
   * Goes on by other rules. Groups whose name stays keep their waiting clients; those of the others
   * are refused. Agents move to what they are in now; in none, they get no more tunnels.
   */
  change(rules: GroupRules): void {
    const before = this.#groups;
    const moves = Array.from(this.#active, (agent) => ({
      agent,
      from: this.#rules.ofAgent(agent),
      to: rules.ofAgent(agent),
    }));
    this.#groups = this.#groupsOf(rules);
    this.#rules = rules;
    // No client that waits gets an agent that is about to leave its group.
    for (const { agent, from, to } of moves) {
      for (const name of from) if (!to.includes(name)) before.get(name)!.registry.remove(agent);
      if (to.length === 0) this.#active.delete(agent);
    }
    for (const { agent, from, to } of moves) {
      for (const name of to) if (!from.includes(name)) this.#registryOf(name).add(agent);
    }
    for (const [name, { registry }] of before) if (!this.#groups.has(name)) registry.stopWaiting();
  }

  #groupsOf({ names }: GroupRules): ReadonlyMap<string, Group<A, Stream>> {
    const create = (group: string): Group<A, Stream> => {
      const name = group === NAMELESS ? undefined : group;
      return { name, registry: new AgentRegistry({ ...this.#options, group: name }) };
    };
    return new Map(names.map((name) => [name, this.#groups.get(name) ?? create(name)]));
  }

  #registryOf(name: string): AgentRegistry<A, Stream> {
    return this.#groups.get(name)!.registry;
  }

  /** Those with a name. */
  get named(): readonly Group<A, Stream>[] {
    return [...this.#groups.values()].filter(({ name }) => name !== undefined);
  }

  /** @returns what tells the facts of the groups with a name, as they are then */
  factsWith(
    fronts: readonly Pick<Front, "address" | "group">[],
  ): () => readonly GroupFacts[] {
    const { named } = this;
    const rules = this.#rules;
    const listenersOf = Map.groupBy(fronts, ({ group }) => rules.ofClient(group));
    const find = () => {
      const routesOf = Map.groupBy(rules.routes, ({ value }) => value);
      return named.map(({ name, registry }) => ({
        registry,
        name: name!,
        listeners: (listenersOf.get(name) ?? []).map(({ address }) => address),
        routes: (routesOf.get(name!) ?? []).map(({ rule }) => formatRule(rule)),
      }));
    };
    let groups: ReturnType<typeof find> | undefined;
    return () =>
      (groups ??= find()).map(({ registry, ...facts }) => ({
        ...facts,
        waiting: registry.pending,
      }));
  }

  /**
   * The group of a client by the rules of now, if it has one yet.
   *
   * @param front the group of its front
   * @param target what it asks for, if that is known
   */
  ofClient(front: string | undefined, target?: Authority): Group<A, Stream> | undefined {
    const name = this.#rules.ofClient(front, target);
    return name === undefined ? undefined : this.#groups.get(name);
  }

  /** Those that an agent belongs to, by its certificate. */
  ofAgent(agent: Entitled): readonly Group<A, Stream>[] {
    return this.#rules.ofAgent(agent).map((name) => this.#groups.get(name)!);
  }

  /** Whether a front may lead to an agent. */
  reaches(front: string | undefined, agent: Entitled): boolean {
    const groups = this.#rules.ofAgent(agent);
    const group = this.#rules.ofClient(front);
    if (group !== undefined) return groups.includes(group);
    return this.#rules.routes.some(({ value }) => groups.includes(value));
  }

  /** Agents that accept tunnels. */
  get size(): number {
    return this.#active.size;
  }

  /** Clients that wait, of all groups. */
  get pending(): number {
    return this.#registries.reduce((sum, { pending }) => sum + pending, 0);
  }

  add(agent: A): void {
    this.#active.add(agent);
    for (const name of this.#rules.ofAgent(agent)) this.#registryOf(name).add(agent);
  }

  remove(agent: A): void {
    this.#active.delete(agent);
    for (const name of this.#rules.ofAgent(agent)) this.#registryOf(name).remove(agent);
  }

  /** Whether another agent could take a tunnel now, in all groups of this one. */
  hasAnother(than: A): boolean {
    return this.#rules.ofAgent(than).every((name) => this.#registryOf(name).hasAnother(than));
  }

  /** See {@linkcode AgentRegistry.seal}. */
  seal(): Promise<unknown> {
    return Promise.all(this.#registries.map((registry) => registry.seal()));
  }

  /** See {@linkcode AgentRegistry.stopWaiting}. */
  stopWaiting(): void {
    for (const registry of this.#registries) registry.stopWaiting();
  }

  get #registries(): readonly AgentRegistry<A, Stream>[] {
    return Array.from(this.#groups.values(), ({ registry }) => registry);
  }
}
