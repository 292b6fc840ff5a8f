// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Addresses written `host:port`: the target of a CONNECT request (authority-form, RFC 9112 §3.2.3)
 * and the address flags of the programs.
 */
import { NotParsedError } from "../errors.ts";
import { formatIp, isIpAddress, type SocketAddress } from "./ip_address.ts";

/** A host and a port. */
export interface Authority {
  /**
   * An IPv4 address, an IPv6 address without brackets, or a name, in the letter case it came in.
   */
  readonly hostname: string;
  /** TCP or UDP port, 1 to 65535; 0 only where it was allowed. */
  readonly port: number;
}

/** What {@linkcode parseAuthority} takes beyond an address that can be dialled. */
export interface ParseAuthorityOptions {
  /**
   * Take port 0, "any free port" in a listen address.
   *
   * @default {false}
   */
  readonly allowPortZero?: boolean;
  /**
   * Take `:8443`, Go's form for every interface, of both families: the hostname is empty.
   *
   * @default {false}
   */
  readonly allowEmptyHost?: boolean;
}

const MAX_HOST_LENGTH = 255;
const MAX_LABEL_LENGTH = 63;

/**
 * Reads `host:port`, where host is an IPv4 address, an IPv6 address in brackets, or a name of
 * letters, digits, `-`, `_` and `.` (RFC 3986 §3.2, narrowed: no user information, no
 * percent-encoding, no zone ids).
 *
 * A name made of nothing but numbers must be an IPv4 address of four decimal parts, because
 * resolvers read `127.1`, `0177.0.0.1` and `0x7f000001` as addresses, which would slip past a check
 * by text.
 *
 * @throws {NotParsedError} when `text` is anything else.
 */
export function parseAuthority(text: string, options: ParseAuthorityOptions = {}): Authority {
  if (text === "") throw notParsed(text, "it is empty");
  if (text.includes("@")) throw notParsed(text, "user information is not allowed");
  if (/[/?#]/.test(text)) throw notParsed(text, "a URL or path, not host:port");

  const bracketed = text.startsWith("[");
  const [host, portText] = bracketed ? splitBracketed(text) : splitPlain(text);

  const port = Number(portText);
  if (portText === "") throw notParsed(text, "no port");
  if (!/^[0-9]+$/.test(portText)) throw notParsed(text, "the port is not a number");
  const lowest = options.allowPortZero ? 0 : 1;
  if (portText.length > 5 || port < lowest || port > 65535) {
    throw notParsed(text, `the port is not in ${lowest} to 65535`);
  }

  if (!bracketed && host === "" && options.allowEmptyHost) return { hostname: "", port };
  const problem = bracketed ? ipv6Problem(host) : hostNameProblem(host);
  if (problem !== undefined) throw notParsed(text, problem);
  return { hostname: host, port };
}

/**
 * Writes `host:port`, with brackets around an IPv6 address: the inverse of
 * {@linkcode parseAuthority}.
 *
 * @example
 * ```ts
 * import { formatAuthority, parseAuthority } from "./authority.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const authority = parseAuthority("[::1]:443");
 * assertEquals(authority, { hostname: "::1", port: 443 });
 * assertEquals(formatAuthority(authority), "[::1]:443");
 * ```
 */
export function formatAuthority(authority: Authority): string {
  const { hostname, port } = authority;
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/** Writes `1.2.3.4:80` or `[::1]:80`. */
export function formatSocketAddress({ ip, port }: SocketAddress): string {
  return formatAuthority({ hostname: formatIp(ip), port });
}

function notParsed(text: string, problem: string): NotParsedError {
  // User information may be a password, a query a token, and the message goes into logs.
  const shown = text.replace(/([?#]).*$/s, "$1***").replace(/^.*@/s, "***@");
  return new NotParsedError("address", shown, problem);
}

function splitBracketed(text: string): [host: string, port: string] {
  const close = text.indexOf("]");
  if (close === -1) throw notParsed(text, 'no "]" after the IPv6 address');
  const tail = text.slice(close + 1);
  if (tail !== "" && !tail.startsWith(":")) {
    throw notParsed(text, 'only a port may follow the "]"');
  }
  return [text.slice(1, close), tail.slice(1)];
}

function splitPlain(text: string): [host: string, port: string] {
  const colon = text.indexOf(":");
  if (colon === -1) return [text, ""];
  if (colon !== text.lastIndexOf(":")) {
    throw notParsed(text, "too many colons, an IPv6 address needs brackets");
  }
  return [text.slice(0, colon), text.slice(colon + 1)];
}

function ipv6Problem(host: string): string | undefined {
  if (host.includes("%")) return "zone ids are not supported";
  return isIpAddress(host) === 6 ? undefined : "not an IPv6 address in the brackets";
}

/** What is wrong with a name, or IPv4 address, in an address; nothing when it will do. */
export function hostNameProblem(host: string): string | undefined {
  if (host === "") return "no host";
  if (host.includes("%")) return "percent-encoding is not allowed";
  if (!/^[A-Za-z0-9._-]+$/.test(host)) return "a character that is not allowed in host names";
  if (host.length > MAX_HOST_LENGTH) return `the host is longer than ${MAX_HOST_LENGTH} characters`;

  const labels = (host.endsWith(".") ? host.slice(0, -1) : host).split(".");
  if (labels.includes("")) return "an empty label in the host name";
  if (labels.some((label) => label.length > MAX_LABEL_LENGTH)) {
    return `a label of the host name is longer than ${MAX_LABEL_LENGTH} characters`;
  }
  const numeric = labels.every((label) => /^(?:[0-9]+|0[xX][0-9a-fA-F]*)$/.test(label));
  return numeric && isIpAddress(host) !== 4 ? "not an IPv4 address" : undefined;
}
