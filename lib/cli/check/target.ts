// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Steps about what an agent connects clients to. */
import { denialOf, denialOfName, type Rules } from "../../agent/acl.ts";
import { type Authority, formatAuthority } from "../../net/authority.ts";
import { dial } from "../../agent/dial.ts";
import { messageOf } from "../../errors.ts";
import { formatIp, ipBytes } from "../../net/ip_address.ts";
import { Resolver } from "../../net/resolver.ts";
import { within } from "../../wait.ts";
import { type Report, StepError } from "./report.ts";

/** Time that a step may take beyond the timeout of what it does. */
const SLACK_MS = 1_000;

/**
 * Whether a target could be connected to.
 *
 * @param what what it is to the program: the target, or the upstream
 * @param rules those of `--allow` and `--deny`, if the program has some
 */
export async function checkTarget(
  report: Report,
  what: string,
  target: Authority,
  dialTimeoutMs: number,
  rules?: Rules,
): Promise<void> {
  const label = `${what} ${formatAuthority(target)}`;
  const timeoutMs = dialTimeoutMs + SLACK_MS;
  const ips = await report.step(`${label} resolves`, async () => {
    const value = await addressesOf(target.hostname, dialTimeoutMs);
    return { found: value.map(formatIp).join(", "), value };
  }, timeoutMs);
  const allowed = rules === undefined
    ? ips
    : await report.after(ips, `${label} is allowed`, (ips) => {
      const denials = ips.map((ip) => denialOf(rules, target, ip));
      const denial = denialOfName(rules, target) ?? denials.find((denial) => denial);
      const isAllowed = !denialOfName(rules, target) && denials.includes(undefined);
      if (!isAllowed) {
        throw new StepError(
          denial!.reason,
          `change --allow and --deny so that clients may reach ${label}`,
        );
      }
      return {
        found: denial ? `some addresses only: ${denial.reason}` : "no rule denies it",
        value: ips,
      };
    });
  await report.after(allowed, `${label} answers`, async () => {
    try {
      const connection = await dial(target, { timeoutMs: dialTimeoutMs, rules });
      connection.close();
    } catch (error) {
      const fix =
        `check that ${label} is running, and that firewalls allow TCP from this machine to it`;
      throw new StepError(messageOf(error), fix);
    }
    return { found: "TCP connection established", value: true };
  }, timeoutMs);
}

/**
 * The addresses of a host.
 *
 * @throws {StepError} when there are none
 */
export async function addressesOf(hostname: string, timeoutMs: number): Promise<Uint8Array[]> {
  const own = ipBytes(hostname);
  if (own) return [own];
  const fix = `correct the name ${hostname}, or the DNS configuration of this machine`;
  const over = new AbortController();
  let found: readonly Uint8Array[];
  try {
    const late = () => new Error(`no answer within ${timeoutMs} ms`);
    found = await within(timeoutMs, new Resolver().resolve(hostname, over.signal), late);
  } catch (error) {
    throw new StepError(`cannot be resolved: ${messageOf(error)}`, fix);
  } finally {
    over.abort();
  }
  if (found.length === 0) throw new StepError("no address found", fix);
  return [...found];
}
