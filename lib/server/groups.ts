// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Groups: agents that serve the same clients. Their certificates decide, they claim nothing. */
import { UsageError } from "../errors.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { formatRule } from "../net/target_rule.ts";
import type { GroupFacts } from "../observe/monitor.ts";
import { shorten } from "../printable.ts";
import { TunnelError } from "../tunnel/errors.ts";
import { type AgentSet, ALL_AGENTS, DEFAULT_GROUP, hasAgent, nameOfAgents } from "./agent_set.ts";
import type { Front, FrontMode } from "./front.ts";
import { type Agent, AgentRegistry, type RegistryOptions } from "./registry.ts";
import { RouteTable, type TargetRoute } from "./routes.ts";

/** An agent that may belong to groups. */
export interface Entitled {
  /** Names in its certificate that say which. */
  readonly entitled: readonly string[];
}

/** Some agents, and the clients that wait for them. */
export interface Group<A extends Agent<Stream>, Stream> {
  /** Undefined where there are no others. */
  readonly name: string | undefined;
  readonly registry: AgentRegistry<A, Stream>;
}

interface Named<A extends Agent<Stream>, Stream> {
  readonly agents: AgentSet;
  readonly group: Group<A, Stream>;
}

export interface GroupsOptions extends RegistryOptions {
  readonly routes: readonly TargetRoute[];
  /** Agents of the fronts, undefined for those without a group. */
  readonly fronts: readonly (AgentSet | undefined)[];
  readonly mode?: FrontMode | undefined;
}

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
  /** By name. */
  #named = new Map<string, Named<A, Stream>>();
  /** Of the agents that no other group names. */
  #default: Group<A, Stream> | undefined;
  #routes: RouteTable<Group<A, Stream>> | undefined;
  #groupsOf = new WeakMap<Entitled, readonly Group<A, Stream>[]>();
  readonly #active = new Set<A>();
  readonly #options: GroupsOptions;

  /** @throws {UsageError} when the options contradict each other */
  constructor(options: GroupsOptions) {
    this.#options = options;
    this.#set(options);
  }

  /**
   * Goes on with other groups. Those whose name stays keep their waiting clients; those of the
   * others are refused. Agents move to what they are in now; in none, they get no more tunnels.
   *
   * @param isAdmitted whether an agent may be in any
   * @throws {UsageError} when the options contradict each other: then nothing has changed
   */
  change(
    options: Pick<GroupsOptions, "routes" | "fronts">,
    isAdmitted: (agent: A) => boolean,
  ): void {
    const before = this.#all;
    const moves = Array.from(this.#active, (agent) => ({ agent, from: this.ofAgent(agent) }));
    this.#set(options);
    const admitted = moves.filter(({ agent }) => isAdmitted(agent));
    const stays = (agent: A, group: Group<A, Stream>) =>
      isAdmitted(agent) && this.ofAgent(agent).includes(group);
    // No client that waits gets an agent that is about to leave its group.
    for (const { agent, from } of moves) {
      for (const group of from) if (!stays(agent, group)) group.registry.remove(agent);
      if (!isAdmitted(agent) || this.ofAgent(agent).length === 0) this.#active.delete(agent);
    }
    for (const { agent, from } of admitted) {
      for (const group of this.ofAgent(agent)) if (!from.includes(group)) group.registry.add(agent);
    }
    const after = this.#all;
    for (const group of before) if (!after.includes(group)) group.registry.stopWaiting();
  }

  #set({ routes, fronts }: Pick<GroupsOptions, "routes" | "fronts">): void {
    const hasOpen = fronts.includes(undefined);
    if (routes.length > 0) {
      if (!hasOpen) throw new UsageError("--route needs a listener without a group");
      if (this.#options.mode === "raw") {
        throw new UsageError("--route cannot be combined with --mode=raw");
      }
    }
    const before = new Map(this.#all.map((group) => [group.name, group]));
    const named = new Map<string, Named<A, Stream>>();
    const create = (name: string | undefined): Group<A, Stream> =>
      before.get(name) ??
        { name, registry: new AgentRegistry({ ...this.#options, group: name }) };
    const groupOf = (agents: AgentSet) => {
      const name = nameOfAgents(agents);
      const group = named.get(name)?.group ?? create(name);
      named.set(name, { agents, group });
      return group;
    };
    for (const agents of fronts) if (agents) groupOf(agents);
    this.#routes = routes.length > 0 ? new RouteTable(routes, groupOf) : undefined;
    this.#default = hasOpen && routes.length === 0
      ? create(named.size > 0 ? DEFAULT_GROUP : undefined)
      : undefined;
    this.#named = named;
    this.#groupsOf = new WeakMap();
  }

  /** Those with a name. */
  get named(): readonly Group<A, Stream>[] {
    const named = Array.from(this.#named.values(), ({ group }) => group);
    return this.#default?.name === undefined ? named : [...named, this.#default];
  }

  /** @returns what tells the facts of the groups with a name, as they are then */
  factsWith(
    fronts: readonly Pick<Front, "address" | "group">[],
  ): () => readonly GroupFacts[] {
    const listeners = Map.groupBy(fronts, ({ group }) => this.ofFront(group));
    const routes = Map.groupBy(this.#routes?.entries ?? [], ({ value }) => value);
    const groups = this.named.map((group) => ({
      registry: group.registry,
      name: group.name!,
      listeners: (listeners.get(group) ?? []).map(({ address }) => address),
      routes: (routes.get(group) ?? []).map(({ rule }) => formatRule(rule)),
    }));
    return () => groups.map(({ registry, ...facts }) => ({ ...facts, waiting: registry.pending }));
  }

  get #all(): readonly Group<A, Stream>[] {
    return this.#default && this.#default.name === undefined ? [this.#default] : this.named;
  }

  /** The group of a front, if all its clients have the same. */
  ofFront(group: string | undefined): Group<A, Stream> | undefined {
    return group === undefined ? this.#default : this.#named.get(group)!.group;
  }

  /** @throws {NoRouteError} when there is no route */
  ofTarget(target: Authority): Group<A, Stream> {
    const entry = this.#routes?.find(target);
    if (!entry) throw new NoRouteError(target);
    return entry.value;
  }

  /** Those that an agent belongs to, by its certificate. */
  ofAgent(agent: Entitled): readonly Group<A, Stream>[] {
    const known = this.#groupsOf.get(agent);
    if (known) return known;
    const found = this.#find(agent);
    this.#groupsOf.set(agent, found);
    return found;
  }

  #find({ entitled }: Entitled): readonly Group<A, Stream>[] {
    const groups = [...this.#named.values()].filter(({ agents }) => hasAgent(agents, entitled))
      .map(({ group }) => group);
    const isOther = groups.every(({ name }) => name === ALL_AGENTS);
    return isOther && this.#default ? [...groups, this.#default] : groups;
  }

  /** Whether a front may lead to an agent. */
  reaches(group: string | undefined, agent: Entitled): boolean {
    const groups = this.ofAgent(agent);
    const front = this.ofFront(group);
    if (front) return groups.includes(front);
    return this.#routes!.entries.some(({ value }) => groups.includes(value));
  }

  /** Agents that accept tunnels. */
  get size(): number {
    return this.#active.size;
  }

  /** Clients that wait, of all groups. */
  get pending(): number {
    return this.#all.reduce((sum, { registry }) => sum + registry.pending, 0);
  }

  add(agent: A): void {
    this.#active.add(agent);
    for (const { registry } of this.ofAgent(agent)) registry.add(agent);
  }

  remove(agent: A): void {
    this.#active.delete(agent);
    for (const { registry } of this.ofAgent(agent)) registry.remove(agent);
  }

  /** Whether another agent could take a tunnel now, in all groups of this one. */
  hasAnother(than: A): boolean {
    return this.ofAgent(than).every(({ registry }) => registry.hasAnother(than));
  }

  /** See {@linkcode AgentRegistry.seal}. */
  seal(): Promise<unknown> {
    return Promise.all(this.#all.map(({ registry }) => registry.seal()));
  }

  /** See {@linkcode AgentRegistry.stopWaiting}. */
  stopWaiting(): void {
    for (const { registry } of this.#all) registry.stopWaiting();
  }
}
