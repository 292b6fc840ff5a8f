// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NotParsedError } from "../errors.ts";
import { type Authority, formatAuthority, parseAuthority } from "../net/authority.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import type { ResponseHead } from "../tunnel/http/response_head.ts";
import { AnswerError, exchange, quotedStatus } from "./exchange.ts";

/** An HTTP proxy, through which a carrier goes by CONNECT (RFC 9110 §9.3.6). */
export class HttpProxy {
  readonly address: Authority;
  readonly user: string | undefined;
  readonly #password: string;

  constructor(address: Authority, user?: string, password = "") {
    this.address = address;
    this.user = user;
    this.#password = password;
  }

  /** Value of `Proxy-Authorization` (RFC 7617), if there is a user name. Not to be shown. */
  get authorization(): string | undefined {
    if (this.user === undefined) return undefined;
    return `Basic ${new TextEncoder().encode(`${this.user}:${this.#password}`).toBase64()}`;
  }

  /** As a URL, with `***` for the password. */
  toString(): string {
    const user = this.user === undefined ? "" : `${encodeURIComponent(this.user)}:***@`;
    return `http://${user}${formatAuthority(this.address)}`;
  }
}

/**
 * Reads `http://[user:password@]host:port`, as in `HTTPS_PROXY`; `http://` may be missing. In user
 * name and password, reserved characters are percent-encoded.
 *
 * @throws {NotParsedError} when `text` is anything else, without what stands before the `@`
 */
export function parseHttpProxy(text: string): HttpProxy {
  const [, scheme = "http", userInfo, host = ""] =
    /^(?:([A-Za-z][A-Za-z0-9+.-]*):\/\/)?(?:(.*)@)?([^@]*?)\/?$/s.exec(text) ?? [];
  const shown = text.replace(/^([A-Za-z][A-Za-z0-9+.-]*:\/\/)?.*@/s, "$1***@");
  const notParsed = (problem: string) => new NotParsedError("proxy", shown, problem);
  if (text === "") throw notParsed("it is empty");
  if (scheme.toLowerCase() !== "http") {
    throw notParsed(`${scheme}:// is not supported, only http://`);
  }
  const address = parseAuthority(host);
  if (userInfo === undefined) return new HttpProxy(address);
  const colon = userInfo.indexOf(":");
  const parts = colon < 0 ? [userInfo, ""] : [userInfo.slice(0, colon), userInfo.slice(colon + 1)];
  let user, password;
  try {
    [user, password] = parts.map(decodeURIComponent);
  } catch {
    throw notParsed("user name or password is not percent-encoded UTF-8");
  }
  // RFC 7617, section 2
  if (user!.includes(":")) throw notParsed("a colon in the user name");
  if (/\p{Cc}/u.test(user! + password!)) {
    throw notParsed("a control character in user name or password");
  }
  return new HttpProxy(address, user, password);
}

/**
 * Has a proxy connect to the server (RFC 9110 §9.3.6).
 *
 * @param connection to the proxy, which leads to the server after that
 * @throws {AnswerError} when it does not
 */
export async function requestTunnel(
  connection: Pick<Duplex, "read" | "write">,
  server: Authority,
  proxy: HttpProxy,
): Promise<void> {
  const to = formatAuthority(server);
  const { authorization } = proxy;
  const fields = [["Host", to], ...(authorization ? [["Proxy-Authorization", authorization]] : [])];
  const { head, rest } = await exchange(connection, `CONNECT ${to} HTTP/1.1`, fields);
  if (head.status < 200 || head.status > 299) {
    throw new AnswerError(`${quotedStatus(head)} to CONNECT ${to}`, hintForProxy(head, proxy));
  }
  if (rest.length > 0) throw new AnswerError("bytes of its own after the answer to CONNECT");
}

function hintForProxy({ status, fields }: ResponseHead, { user }: HttpProxy): string | undefined {
  if (status === 403) return "the proxy does not allow CONNECT to this host and port";
  // tinyproxy answers a wrong password with 401.
  if (status !== 407 && status !== 401) return undefined;
  if (user === undefined) {
    return "the proxy wants a user name and password: http://user:password@host:port";
  }
  const schemes = fields.filter(([name]) => /^(?:proxy|www)-authenticate$/i.test(name))
    .map(([, value]) => value.split(" ", 1)[0]!.toLowerCase());
  return schemes.length === 0 || schemes.includes("basic")
    ? "the proxy does not accept the user name and password"
    : `the proxy does not take Basic authentication, but ${schemes.join(", ")}`;
}
