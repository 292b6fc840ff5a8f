// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { DEFAULT_TEMPLATE, templateProblem } from "../connect_udp/uri_template.ts";
import { NotParsedError } from "../errors.ts";
import { type Authority, parseAuthority } from "../net/authority.ts";

/** Where datagrams go over TCP when UDP does not get through. */
export interface Fallback {
  readonly server: Authority;
  /** What a URL adds: whose certificate it has, and where it serves CONNECT-UDP. */
  readonly url?: { readonly host: string; readonly template: string };
}

/**
 * Reads `host:port`, or an `https` URL, whose path may be a template as in RFC 9298, section 2.
 *
 * @throws {NotParsedError} when `text` is neither
 */
export function parseFallback(text: string): Fallback {
  const [, scheme, host = "", port, path = ""] =
    /^([A-Za-z][A-Za-z0-9+.-]*):\/\/(\[[^\]]*\]|[^/?#:]*)(:[^/?#]*)?(.*)$/s.exec(text) ?? [];
  if (scheme === undefined) return { server: parseAuthority(text) };
  if (scheme.toLowerCase() !== "https") {
    throw new NotParsedError("fallback", text, "neither host:port nor an https URL");
  }
  const server = parseAuthority(`${host}${port ?? ":443"}`);
  const template = path === "" || path === "/" ? DEFAULT_TEMPLATE : path;
  const problem = templateProblem(template);
  if (problem !== undefined) throw new NotParsedError("fallback", text, problem);
  return { server, url: { host: server.hostname, template } };
}
