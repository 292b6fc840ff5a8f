// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Flags whose values are addresses, networks and rules. */
import { type Fallback, parseFallback } from "../agent/fallback.ts";
import { type HttpProxy, parseHttpProxy } from "../connect_udp/http_proxy.ts";
import { NotParsedError, UsageError } from "../errors.ts";
import { type Authority, parseAuthority, type ParseAuthorityOptions } from "../net/authority.ts";
import { type Cidr, parseCidr } from "../net/cidr.ts";
import { parseRule, type Rule } from "../net/target_rule.ts";
import { parseAgents } from "../server/agent_set.ts";
import type { TcpAddress } from "../server/front.ts";
import { parseRoute, type TargetRoute } from "../server/routes.ts";
import {
  type Flag,
  type FlagOptions,
  itemsOf,
  makeFlag,
  makeListFlag,
  NamedValueError,
  type ValueOf,
} from "./flag.ts";

/** A parser whose errors, which name the part of a value that is wrong, become those of a flag. */
function named<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      if (!(error instanceof NotParsedError)) throw error;
      throw new NamedValueError(error.message, { cause: error });
    }
  };
}

/** `host:port`, as `parseAuthority()` takes it. The default is written the same way. */
export function addressFlag<const O extends FlagOptions<string> & Readonly<ParseAuthorityOptions>>(
  name: string,
  options: O,
): Flag<ValueOf<Authority, O>> {
  return makeFlag<Authority, O>(name, options, {
    kind: "address",
    valueName: "host:port",
    defaultText: options.default,
    parse: named((text) => parseAuthority(text, options)),
  });
}

/** `--x` alone, whose value is `true`, or with a `host:port`, as `parseAuthority()` takes it. */
export function optionalAddressFlag(
  name: string,
  options: { readonly help: string; readonly commandLineOnly?: boolean },
): Flag<Authority | true | undefined> {
  return {
    ...makeFlag<Authority | true, FlagOptions<string>>(name, options, {
      kind: "address",
      valueName: "[host:port]",
      defaultText: undefined,
      parse: named((text) => parseAuthority(text)),
    }),
    alone: true,
    commandLineOnly: options.commandLineOnly ?? false,
  };
}

/**
 * `host:port`, or `host:port@agents` as `parseAgents()` takes them. The value has those of all
 * occurrences.
 */
export function listenFlag(
  name: string,
  options:
    & Readonly<ParseAuthorityOptions>
    & { readonly help: string; readonly dependentDefault: string; readonly restricts: boolean },
): Flag<readonly TcpAddress[]> {
  const several = { ...options, multiple: true } as const;
  return makeFlag<TcpAddress, typeof several>(name, several, {
    kind: "address",
    valueName: "host:port[@agents]",
    defaultText: undefined,
    parse: named((text) => {
      const at = text.indexOf("@");
      if (at < 0) return parseAuthority(text, options);
      const address = parseAuthority(text.slice(0, at), options);
      return { ...address, agents: parseAgents(text.slice(at + 1)) };
    }),
  });
}

/** `agents=targets`, as `parseRoute()` takes it. The value has those of all occurrences. */
export function routeFlag(
  name: string,
  options: { readonly help: string },
): Flag<readonly TargetRoute[]> {
  const several = { ...options, multiple: true, restricts: true } as const;
  return makeFlag<TargetRoute, typeof several>(name, several, {
    kind: "list",
    valueName: "agents=targets",
    defaultText: undefined,
    parse: named(parseRoute),
  });
}

/** `host:port` or an `https` URL, as `parseFallback()` takes it. */
export function fallbackFlag(
  name: string,
  options: { readonly help: string },
): Flag<Fallback | undefined> {
  return makeFlag<Fallback, FlagOptions<string>>(name, options, {
    kind: "address",
    valueName: "host:port",
    defaultText: undefined,
    parse: named(parseFallback),
  });
}

/** Written where no HTTP proxy is to be used. */
export const NO_HTTP_PROXY = "none";

/** An HTTP proxy, as `parseHttpProxy()` takes it, or `none`. Errors do not contain the password. */
export function httpProxyFlag(
  name: string,
  options: { readonly help: string },
): Flag<HttpProxy | typeof NO_HTTP_PROXY | undefined> {
  return makeFlag<HttpProxy | typeof NO_HTTP_PROXY, FlagOptions<string>>(name, options, {
    kind: "string",
    valueName: "url",
    defaultText: undefined,
    parse: named((text) => text === NO_HTTP_PROXY ? text : parseHttpProxy(text)),
  });
}

/** Permissions of a file in octal, such as `0660`. */
export function fileModeFlag<const O extends FlagOptions<string>>(
  name: string,
  options: O,
): Flag<ValueOf<number, O>> {
  return makeFlag<number, O>(name, options, {
    kind: "string",
    valueName: "octal",
    defaultText: options.default,
    parse(text) {
      if (!/^0?[0-7]{3}$/.test(text)) throw new UsageError("not permissions in octal like 0660");
      return Number.parseInt(text, 8);
    },
  });
}

/**
 * Comma separated `host:port`, as `parseAuthority()` takes them. The default is written the same
 * way. Otherwise like `listFlag()`.
 */
export function addressListFlag(
  name: string,
  options: FlagOptions<readonly string[]> & Readonly<ParseAuthorityOptions>,
): Flag<readonly Authority[]> {
  return makeListFlag<Authority>(name, options, {
    valueName: "host:port",
    defaultText: options.default?.join(","),
    parse: named((text) => itemsOf(text).map((item) => parseAuthority(item, options))),
  });
}

/**
 * Comma separated networks, as `parseCidr()` takes them. The default is written the same way.
 * Otherwise like `listFlag()`.
 */
export function cidrListFlag(
  name: string,
  options: FlagOptions<readonly string[]>,
): Flag<readonly Cidr[]> {
  return makeListFlag<Cidr>(name, options, {
    valueName: "cidrs",
    defaultText: options.default?.join(","),
    parse: named((text) => itemsOf(text).map(parseCidr)),
  });
}

/**
 * Comma separated rules about destinations, as `parseRule()` takes them, of all occurrences
 * together. The value is an empty array without any.
 */
export function ruleListFlag(
  name: string,
  options: { readonly help: string },
): Flag<readonly Rule[]> {
  return makeListFlag<Rule>(name, { ...options, multiple: true, restricts: true }, {
    valueName: "rules",
    defaultText: undefined,
    parse: named((text) => itemsOf(text).map(parseRule)),
  });
}
