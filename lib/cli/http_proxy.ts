// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type HttpProxy, parseHttpProxy } from "../connect_udp/http_proxy.ts";
import { type NoProxy, parseNoProxy } from "../connect_udp/no_proxy.ts";
import { NotParsedError } from "../errors.ts";
import type { CarrierConfig } from "../agent/carrier.ts";
import type { Logger } from "../log.ts";
import { NO_HTTP_PROXY } from "./address_flags.ts";
import type { Env } from "./environment.ts";
import type { AgentFlagValues } from "./program_flags.ts";

/** The HTTP proxy to use. */
export interface ProxyChoice {
  readonly proxy?: HttpProxy;
  /** What is connected to without it. */
  readonly noProxy?: NoProxy;
  /** Why the one of the environment is not used, or not for what it seems to be for. */
  readonly problem?: string;
}

/** The variables that other programs read as well, upper case first. */
export const PROXY_VARIABLES = ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] as const;

/**
 * The HTTP proxy of `--proxy`, else that of the environment. What is wrong with the environment is
 * no error, because it was not made for this program.
 */
export function chooseProxy(
  { httpProxy }: Pick<AgentFlagValues, "httpProxy">,
  env: Env,
): ProxyChoice {
  if (httpProxy === NO_HTTP_PROXY) return {};
  if (httpProxy) return { proxy: httpProxy };
  const [name, text] = firstOf(env, "HTTPS_PROXY", "https_proxy");
  if (!text) return {};
  const [noName, noText] = firstOf(env, "NO_PROXY", "no_proxy");
  try {
    const noProxy = parseNoProxy(noText ?? "");
    const problem = noProxy.invalid[0] && `${noName}: ${noProxy.invalid[0].message}`;
    return { proxy: parseHttpProxy(text), noProxy, ...(problem !== undefined && { problem }) };
  } catch (error) {
    if (!(error instanceof NotParsedError)) throw error;
    return { problem: `${name}: ${error.message}` };
  }
}

/** The same, for the log of a program that runs. */
export function proxyOf(
  values: Pick<AgentFlagValues, "httpProxy" | "transport">,
  env: Env,
  log: Logger,
): Pick<CarrierConfig, "proxy" | "noProxy"> {
  const { problem, proxy, noProxy } = chooseProxy(values, env);
  if (values.transport === "udp") return { proxy: undefined };
  if (problem !== undefined) log.warn("proxy of the environment", { problem });
  return { proxy, noProxy };
}

function firstOf(env: Env, ...names: readonly string[]): [name: string, value?: string] {
  const name = names.find((name) => env(name)) ?? names[0]!;
  const value = env(name);
  return value === undefined ? [name] : [name, value];
}
