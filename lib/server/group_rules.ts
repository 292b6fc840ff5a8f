// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the flags say of groups: which there are, and who is of which. */
import { UsageError } from "../errors.ts";
import type { Authority } from "../net/authority.ts";
import { nameFilter, NameTable } from "../tls/agent_names.ts";
import { type AgentSet, ALL_AGENTS, DEFAULT_GROUP, nameOfAgents } from "./agent_set.ts";
import type { FrontMode } from "./front.ts";
import { RouteTable, type TableEntry, type TargetRoute } from "./routes.ts";

/** An agent that may belong to groups. */
export interface Entitled {
  /** All names in its certificate. */
  readonly names: readonly string[];
  /** Those of them that say which groups. */
  readonly entitled: readonly string[];
}

export interface GroupRulesOptions {
  /** Patterns of the names of agents that may be in any; if empty, all may. */
  readonly agentNames: readonly string[];
  readonly routes: readonly TargetRoute[];
  /** Agents of the fronts, undefined for those without a group. */
  readonly fronts: readonly (AgentSet | undefined)[];
  readonly mode?: FrontMode | undefined;
}

/** Name of the group of all agents where there are no others. */
export const NAMELESS = "";

/** Groups by name. */
export class GroupRules {
  /** All names. */
  readonly names: readonly string[];
  /** Of the fronts without a group, which are of the agents of no other; none if there are routes. */
  readonly #open: string | undefined;
  readonly #named: NameTable<string>;
  readonly #routes: RouteTable<string> | undefined;
  /** Tells of a name; missing where every agent is admitted. */
  readonly #isAdmitted: ((name: string) => boolean) | undefined;
  readonly #ofAgent = new WeakMap<Entitled, readonly string[]>();

  /** @throws {UsageError} when the options contradict each other */
  constructor({ agentNames, routes, fronts, mode }: GroupRulesOptions) {
    const hasOpen = fronts.includes(undefined);
    if (routes.length > 0) {
      if (!hasOpen) throw new UsageError("--route needs a listener without a group");
      if (mode === "raw") throw new UsageError("--route cannot be combined with --mode=raw");
    }
    this.#isAdmitted = agentNames.length > 0 ? nameFilter(agentNames) : undefined;
    const named = new Map<string, AgentSet>();
    const nameOf = (agents: AgentSet) => {
      const name = nameOfAgents(agents);
      named.set(name, agents);
      return name;
    };
    for (const agents of fronts) if (agents) nameOf(agents);
    this.#routes = routes.length > 0 ? new RouteTable(routes, nameOf) : undefined;
    if (hasOpen && !this.#routes) this.#open = named.size > 0 ? DEFAULT_GROUP : NAMELESS;
    this.names = this.#open === undefined ? [...named.keys()] : [...named.keys(), this.#open];
    this.#named = new NameTable(
      Array.from(named).flatMap(([name, agents]) =>
        name === ALL_AGENTS ? [] : agents.map((pattern) => [pattern, name] as const)
      ),
    );
  }

  /** All routes, the most specific first. */
  get routes(): readonly TableEntry<string>[] {
    return this.#routes?.entries ?? [];
  }

  /**
   * The group of a client, if it has one yet.
   *
   * @param front the group of its front
   * @param target what it asks for, if that is known
   */
  ofClient(front: string | undefined, target?: Authority): string | undefined {
    return front ?? this.#open ?? (target && this.#routes?.find(target)?.value);
  }

  /** Those that an agent belongs to, by its certificate. */
  ofAgent(agent: Entitled): readonly string[] {
    const known = this.#ofAgent.get(agent);
    if (known) return known;
    const found = this.#find(agent);
    this.#ofAgent.set(agent, found);
    return found;
  }

  #find({ names, entitled }: Entitled): readonly string[] {
    if (this.#isAdmitted && !names.some(this.#isAdmitted)) return [];
    const named = new Set(entitled.flatMap((name) => this.#named.find(name)));
    const groups = [...named].sort();
    if (this.names.includes(ALL_AGENTS)) groups.unshift(ALL_AGENTS);
    return named.size === 0 && this.#open !== undefined ? [...groups, this.#open] : groups;
  }
}
