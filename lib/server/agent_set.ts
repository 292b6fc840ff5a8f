// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The agents that `--route` and `--listen-tcp` name: patterns as in `--agent-name`, separated by
 * commas, or `*` for all.
 */
import { NotParsedError } from "../errors.ts";
import { canonicalAgentName, checkAgentName } from "../tls/agent_names.ts";

/** Stands for every agent that is admitted. */
export const ALL_AGENTS = "*";

/** Name of the group of the agents that no other group names. */
export const DEFAULT_GROUP = "default";

/** Patterns, sorted and each once; written differently, the same agents have the same set. */
export type AgentSet = readonly string[];

/**
 * Reads a set.
 *
 * @throws {NotParsedError} when `text` is none
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { nameOfAgents, parseAgents } from "./agent_set.ts";
 *
 * assertEquals(nameOfAgents(parseAgents("DB-*, cluster-a")), "cluster-a,db-*");
 * ```
 */
export function parseAgents(text: string): AgentSet {
  const patterns = text.split(",").map((pattern) => pattern.trim());
  for (const pattern of patterns) {
    const problem = pattern === ALL_AGENTS ? undefined : problemOf(pattern);
    if (problem !== undefined) throw new NotParsedError("agent name", pattern, problem);
  }
  if (patterns.includes(ALL_AGENTS)) return [ALL_AGENTS];
  return [...new Set(patterns.map(canonicalAgentName))].sort();
}

function problemOf(pattern: string): string | undefined {
  if (pattern === "") return "it is empty";
  if (canonicalAgentName(pattern) === DEFAULT_GROUP) {
    return "it stands for the agents of no other group";
  }
  return checkAgentName(pattern);
}

/** What a set is called in logs, metrics and messages. */
export function nameOfAgents(agents: AgentSet): string {
  return agents.join(",");
}

/** The set of the agents of two. */
export function unionOfAgents(a: AgentSet, b: AgentSet): AgentSet {
  return parseAgents(nameOfAgents([...a, ...b]));
}
