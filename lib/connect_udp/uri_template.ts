// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Where a server serves CONNECT-UDP: a URI template (RFC 6570) with the variables `target_host` and
 * `target_port` (RFC 9298 §2, §3), without the part that names the server.
 */
import { NotParsedError } from "../errors.ts";
import { type Authority, hostNameProblem } from "../net/authority.ts";
import { isIpAddress } from "../net/ip_address.ts";

/** The default (RFC 9298 §2). */
export const DEFAULT_TEMPLATE = "/.well-known/masque/udp/{target_host}/{target_port}/";

/** `{name}`, `{?name,name}` or `{&name}`. */
const EXPRESSION = /\{([?&]?)([^{}]*)\}/g;

/**
 * The path and query for a target. Colons of an IPv6 address are percent-encoded (RFC 9298 §3).
 *
 * @throws {NotParsedError} when `template` is none, as {@linkcode templateProblem} tells
 *
 * @example
 * ```ts
 * import { expandTemplate } from "./uri_template.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const target = { hostname: "2001:db8::1", port: 443 };
 * assertEquals(
 *   expandTemplate("/udp{?target_host,target_port}", target),
 *   "/udp?target_host=2001%3Adb8%3A%3A1&target_port=443",
 * );
 * ```
 */
export function expandTemplate(template: string, { hostname, port }: Authority): string {
  const problem = templateProblem(template);
  if (problem) throw new NotParsedError("URI template", template, problem);
  const values: Readonly<Record<string, string>> = {
    target_host: encodeURIComponent(hostname),
    target_port: `${port}`,
  };
  return template.replace(EXPRESSION, (_, operator: string, names: string) => {
    if (operator === "") return values[names]!;
    const pairs = names.split(",").map((name) => `${name}=${values[name]}`);
    return `${operator}${pairs.join("&")}`;
  });
}

/** What is wrong with a template; nothing when it will do. */
export function templateProblem(template: string): string | undefined {
  if (!template.startsWith("/")) return "it does not begin with /";
  const literal = template.replace(EXPRESSION, "");
  if (/[{}]/.test(literal)) return "an expression is not complete";
  if (!/^(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*$/.test(literal)) {
    return "a character that is not allowed in paths";
  }
  const names: string[] = [];
  for (const [, operator, list] of template.matchAll(EXPRESSION)) {
    const inOne = list!.split(",");
    if (operator === "" && inOne.length > 1) return "several variables without ? or &";
    names.push(...inOne);
  }
  const other = names.find((name) => !["target_host", "target_port"].includes(name));
  if (other !== undefined) return `unknown variable {${other}}`;
  for (const name of ["target_host", "target_port"]) {
    if (names.filter((each) => each === name).length !== 1) return `not exactly one {${name}}`;
  }
  return undefined;
}

/**
 * Reads a path of the default template.
 *
 * @returns the target, what is wrong with it, or undefined for another path
 */
export function targetOfPath(path: string): Authority | { readonly problem: string } | undefined {
  const [, encoded, portText] =
    /^\/\.well-known\/masque\/udp\/([^/?#]*)\/([^/?#]*)\/$/.exec(path) ??
      [];
  if (encoded === undefined || portText === undefined) return undefined;
  let hostname;
  try {
    hostname = decodeURIComponent(encoded);
  } catch {
    return { problem: "target_host is not percent-encoded UTF-8" };
  }
  const problem = isIpAddress(hostname) ? undefined : hostNameProblem(hostname);
  if (problem) return { problem: `target_host: ${problem}` };
  const port = Number(portText);
  if (!/^[0-9]{1,5}$/.test(portText) || port < 1 || port > 65535) {
    return { problem: "target_port is not in 1 to 65535" };
  }
  return { hostname, port };
}
