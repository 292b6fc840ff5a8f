// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Addresses written `host:port`: the target of a CONNECT request (authority-form, RFC 9112 §3.2.3)
 * and the address flags of the programs.
 *
 * @module
 */

import { quote } from "../printable.ts";

/** A host and a port. */
export interface Authority {
  /** An IPv4 address, an IPv6 address without brackets, or a name, in the letter case it came in. */
  hostname: string;
  /** TCP or UDP port, 1 to 65535; 0 only where it was allowed. */
  port: number;
}

/** What {@linkcode parseAuthority} takes beyond an address that can be dialled. */
export interface ParseAuthorityOptions {
  /**
   * Take port 0, "any free port" in a listen address.
   *
   * @default {false}
   */
  allowPortZero?: boolean;
  /**
   * Take `:8443`, Go's form for every interface: the hostname becomes `0.0.0.0`.
   *
   * @default {false}
   */
  allowEmptyHost?: boolean;
}

/** A text is no `host:port`. The message names the text, shortened where it is long, and what is wrong. */
export class AuthorityError extends Error {
  override readonly name = "AuthorityError";

  constructor(text: string, problem: string) {
    // User information may be a password, and the message goes into logs.
    super(`bad address ${quote(text.replace(/^.*@/s, "***@"))}: ${problem}`);
  }
}

const MAX_HOST_LENGTH = 255;
const MAX_LABEL_LENGTH = 63;

/**
 * Reads `host:port`, where host is an IPv4 address, an IPv6 address in brackets, or a name of letters,
 * digits, `-`, `_` and `.` (RFC 3986 §3.2, narrowed: no user information, no percent-encoding, no zone ids).
 *
 * A name made of nothing but numbers must be an IPv4 address of four decimal parts, because resolvers
 * read `127.1`, `0177.0.0.1` and `0x7f000001` as addresses, which would slip past a check by text.
 *
 * @throws {AuthorityError} when `text` is anything else.
 */
export function parseAuthority(text: string, options: ParseAuthorityOptions = {}): Authority {
  if (text === "") throw new AuthorityError(text, "it is empty");
  if (text.includes("@")) throw new AuthorityError(text, "user information is not allowed");
  if (/[/?#]/.test(text)) throw new AuthorityError(text, "a URL or path, not host:port");

  const bracketed = text.startsWith("[");
  const [host, portText] = bracketed ? splitBracketed(text) : splitPlain(text);

  const port = Number(portText);
  if (portText === "") throw new AuthorityError(text, "no port");
  if (!/^[0-9]+$/.test(portText)) throw new AuthorityError(text, "the port is not a number");
  const lowest = options.allowPortZero ? 0 : 1;
  if (portText.length > 5 || port < lowest || port > 65535) {
    throw new AuthorityError(text, `the port is not in ${lowest} to 65535`);
  }

  if (!bracketed && host === "" && options.allowEmptyHost) return { hostname: "0.0.0.0", port };
  const problem = bracketed ? ipv6Problem(host) : hostNameProblem(host);
  if (problem !== undefined) throw new AuthorityError(text, problem);
  return { hostname: host, port };
}

/** Writes `host:port`, with brackets around an IPv6 address: the inverse of {@linkcode parseAuthority}. */
export function formatAuthority(authority: Authority): string {
  const { hostname, port } = authority;
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/**
 * Tells an IP address, without brackets, from a name.
 *
 * @returns 4 or 6, the address's version, or 0 when `hostname` is no IP address.
 */
export function isIpAddress(hostname: string): 4 | 6 | 0 {
  if (isIpv4(hostname)) return 4;
  return isIpv6(hostname) ? 6 : 0;
}

function splitBracketed(text: string): [host: string, port: string] {
  const close = text.indexOf("]");
  if (close === -1) throw new AuthorityError(text, 'no "]" after the IPv6 address');
  const tail = text.slice(close + 1);
  if (tail !== "" && !tail.startsWith(":")) {
    throw new AuthorityError(text, 'only a port may follow the "]"');
  }
  return [text.slice(1, close), tail.slice(1)];
}

function splitPlain(text: string): [host: string, port: string] {
  const colon = text.indexOf(":");
  if (colon === -1) return [text, ""];
  if (colon !== text.lastIndexOf(":")) {
    throw new AuthorityError(text, "too many colons, an IPv6 address needs brackets");
  }
  return [text.slice(0, colon), text.slice(colon + 1)];
}

function ipv6Problem(host: string): string | undefined {
  if (host.includes("%")) return "zone ids are not supported";
  return isIpv6(host) ? undefined : "not an IPv6 address in the brackets";
}

/** Says what is wrong with a name, or IPv4 address, in an address; nothing when it will do. */
export function hostNameProblem(host: string): string | undefined {
  if (host === "") return "no host";
  if (host.includes("%")) return "percent-encoding is not allowed";
  if (!/^[A-Za-z0-9._-]+$/.test(host)) return "a character that no host name has";
  if (host.length > MAX_HOST_LENGTH) return `the host is longer than ${MAX_HOST_LENGTH} characters`;

  const labels = (host.endsWith(".") ? host.slice(0, -1) : host).split(".");
  if (labels.includes("")) return "an empty label in the host name";
  if (labels.some((label) => label.length > MAX_LABEL_LENGTH)) {
    return `a label of the host name is longer than ${MAX_LABEL_LENGTH} characters`;
  }
  const numeric = labels.every((label) => /^(?:[0-9]+|0[xX][0-9a-fA-F]*)$/.test(label));
  return numeric && !isIpv4(host) ? "not an IPv4 address" : undefined;
}

function isIpv4(text: string): boolean {
  const parts = text.split(".");
  return parts.length === 4 &&
    parts.every((part) => /^(?:0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255);
}

/** RFC 4291 §2.2: eight groups, one run of them as `::`, the last two perhaps in IPv4 notation. */
function isIpv6(text: string): boolean {
  const halves = text.split("::");
  if (halves.length > 2) return false;
  const parts = halves.map((half) => half === "" ? [] : half.split(":"));
  const last = parts.at(-1);
  if (last !== undefined && isIpv4(last.at(-1) ?? "")) last.splice(-1, 1, "0", "0");

  const groups = parts.flat();
  if (!groups.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return false;
  return halves.length === 2 ? groups.length <= 7 : groups.length === 8;
}
