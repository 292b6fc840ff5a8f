// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Networks in CIDR notation: an address prefix and its length (RFC 4632 §3.1, RFC 4291 §2.3).
 *
 * IPv4 and IPv6 are apart: no IPv6 network holds an IPv4 address, not even `::/0`. What is written
 * as an IPv4-mapped IPv6 address is IPv4, so `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
 */
import { NotParsedError } from "../errors.ts";
import { formatIp, ipBytes, mapIp, unmapIp } from "./ip_address.ts";

/** A network; made by {@linkcode parseCidr}. */
export interface Cidr {
  /** 4 or 16 bytes, all bits beyond the prefix zero, never an IPv4-mapped IPv6 address. */
  readonly network: Uint8Array;
  /** Bits, 0 to 32 or 0 to 128. */
  readonly prefixLength: number;
}

const MAPPED_PREFIX_LENGTH = 96;

/**
 * Reads `10.0.0.0/8` or `2001:db8::/32`. A plain address is the network of that address alone.
 *
 * @throws {NotParsedError} when `text` is anything else, or its address has bits beyond the prefix:
 * then the message names the network that has none.
 */
export function parseCidr(text: string): Cidr {
  const slash = text.indexOf("/");
  const addressText = slash === -1 ? text : text.slice(0, slash);
  const ip = ipBytes(addressText);
  if (ip === undefined) {
    throw new NotParsedError("network", text, "no IP address before the prefix length");
  }

  // The prefix length counts the bits of the form that was written.
  const address = addressText.includes(":") ? mapIp(ip) : ip;
  const bits = address.length * 8;
  const prefixLength = slash === -1 ? bits : parsePrefixLength(text, text.slice(slash + 1), bits);
  const network = address.map((byte, i) => byte & maskByte(prefixLength, i));
  if (network.some((byte, i) => byte !== address[i])) {
    const meant = formatCidr({ network, prefixLength });
    throw new NotParsedError(
      "network",
      text,
      `host bits are set, the network is ${meant}`,
    );
  }
  // Of a mapped address, a prefix of less than 96 bits would have been refused just now.
  const unmapped = unmapIp(network);
  return unmapped.length === network.length
    ? { network, prefixLength }
    : { network: unmapped, prefixLength: prefixLength - MAPPED_PREFIX_LENGTH };
}

/** Writes `10.0.0.0/8`: the inverse of {@linkcode parseCidr}. */
export function formatCidr(cidr: Cidr): string {
  return `${formatIp(cidr.network)}/${cidr.prefixLength}`;
}

/**
 * Whether an address of 4 or 16 bytes is in a network.
 *
 * @example
 * ```ts
 * import { cidrContains, parseCidr } from "./cidr.ts";
 * import { ipBytes } from "./ip_address.ts";
 * import { assert } from "@std/assert";
 *
 * assert(cidrContains(parseCidr("10.0.0.0/8"), ipBytes("10.1.2.3")!));
 * ```
 */
export function cidrContains({ network, prefixLength }: Cidr, ip: Uint8Array): boolean {
  const address = unmapIp(ip);
  if (address.length !== network.length) return false;
  for (let i = 0; 8 * i < prefixLength; i++) {
    if (network[i] !== (address[i]! & maskByte(prefixLength, i))) return false;
  }
  return true;
}

function parsePrefixLength(text: string, lengthText: string, bits: number): number {
  if (!/^(?:0|[1-9][0-9]*)$/.test(lengthText)) {
    throw new NotParsedError(
      "network",
      text,
      "the prefix length is not a decimal number without leading zeros",
    );
  }
  const length = Number(lengthText);
  if (length > bits) {
    throw new NotParsedError("network", text, `the prefix length is not in 0 to ${bits}`);
  }
  return length;
}

/** The byte at `index` of a network mask. */
function maskByte(prefixLength: number, index: number): number {
  const bits = Math.min(8, Math.max(0, prefixLength - 8 * index));
  return (0xff00 >> bits) & 0xff;
}
