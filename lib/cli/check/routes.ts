// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Steps about the groups of agents, and the routes to them. */
import { UsageError } from "../../errors.ts";
import { formatRule } from "../../net/target_rule.ts";
import { nameOfAgents } from "../../server/agent_set.ts";
import { GroupRules, type GroupRulesOptions } from "../../server/group_rules.ts";
import { RouteTable } from "../../server/routes.ts";
import { type Report, StepError } from "./report.ts";

/** Reports the routing table as it is understood, the most specific targets first. */
export async function checkRoutes(report: Report, options: GroupRulesOptions): Promise<void> {
  const isGrouped = options.routes.length > 0 || options.fronts.some((agents) => agents);
  if (!isGrouped) return;
  const named = await report.step("groups of agents", () => {
    try {
      const value = new GroupRules(options).names;
      return { found: value.join("; "), value };
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      throw new StepError(error.message, error.message, { cause: error });
    }
  });
  if (!named) return;
  const table = new RouteTable(options.routes, nameOfAgents);
  const hidden = new Set(table.neverMatching());
  for (const entry of table.entries) {
    await report.step(`route ${formatRule(entry.rule)}`, () => {
      const wider = table.within(entry);
      const overlap = wider && wider.value !== entry.value
        ? `, before ${formatRule(wider.rule)} of ${wider.value}`
        : "";
      const isWarning = hidden.has(entry);
      const never = isWarning ? "; never matches: more specific routes have all of it" : "";
      return { found: `${entry.value}${overlap}${never}`, value: true, isWarning };
    });
  }
}
