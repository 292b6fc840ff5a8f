// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which targets are not reached through a proxy: `NO_PROXY`, as curl and Go programs read it. */
import { NotParsedError } from "../errors.ts";
import type { Authority } from "../net/authority.ts";
import { ipBytes } from "../net/ip_address.ts";
import { parseRule, type Rule, ruleMatches } from "../net/target_rule.ts";

export interface NoProxy {
  readonly rules: readonly Rule[];
  /** Entries that are not understood, and match nothing. */
  readonly invalid: readonly NotParsedError[];
}

/**
 * Reads entries between commas or spaces, each with an optional `:port`:
 *
 * - `*`: everything
 * - `example.com`: this name, and all names below it
 * - `.example.com` or `*.example.com`: all names below it
 * - an IP address, or a network such as `10.0.0.0/8`: targets that are written as an IP address
 */
export function parseNoProxy(text: string): NoProxy {
  const rules: Rule[] = [];
  const invalid: NotParsedError[] = [];
  for (const entry of text.split(/[\s,]+/).filter((entry) => entry !== "")) {
    try {
      const rule = parseRule(entry.startsWith(".") ? `*${entry}` : entry);
      rules.push(rule);
      if (rule.host.kind === "name") rules.push({ ...rule, host: { ...rule.host, below: true } });
    } catch (error) {
      if (!(error instanceof NotParsedError)) throw error;
      invalid.push(error);
    }
  }
  return { rules, invalid };
}

/** Whether a target is connected to without a proxy. Names are not resolved. */
export function bypassesProxy({ rules }: NoProxy, target: Authority): boolean {
  const ip = ipBytes(target.hostname);
  return rules.some((rule) => ruleMatches(rule, target, ip ? [ip] : []));
}
