// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * IP addresses as bytes: 4 for IPv4, 16 for IPv6, in network byte order.
 *
 * An address has one form only: an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) is its IPv4 address,
 * or whoever compares addresses would take one host for two.
 *
 * @module
 */

import { formatAuthority, isIpAddress } from "./authority.ts";

/** What an IPv4-mapped IPv6 address begins with. */
const MAPPED_PREFIX = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);

/** An IP address and a TCP or UDP port. */
export interface SocketAddress {
  /** 4 or 16 bytes, never an IPv4-mapped IPv6 address. */
  readonly ip: Uint8Array;
  /** 0 to 65535. */
  readonly port: number;
}

/**
 * Reads an IPv4 or IPv6 address (RFC 4291 §2.2) without brackets or zone id, as `isIpAddress()` takes it.
 *
 * @returns 4 or 16 bytes, 4 for an IPv4-mapped IPv6 address, or `undefined` when `text` is no IP address.
 */
export function ipBytes(text: string): Uint8Array | undefined {
  const version = isIpAddress(text);
  if (version === 0) return undefined;
  return version === 4 ? ipv4Bytes(text) : unmapIp(ipv6Bytes(text));
}

/**
 * Writes 4 bytes in dotted decimal and 16 bytes in the canonical form of RFC 5952, an IPv4-mapped
 * IPv6 address with its last part in dotted decimal (§5).
 *
 * @throws {RangeError} when there are neither 4 nor 16 bytes.
 */
export function formatIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  if (bytes.length !== 16) {
    throw new RangeError(`Cannot write an IP address of ${bytes.length} bytes`);
  }
  if (isMapped(bytes)) return `::ffff:${bytes.subarray(12).join(".")}`;
  const groups = Array.from({ length: 8 }, (_, i) => (bytes[2 * i]! << 8) | bytes[2 * i + 1]!);
  const { start, length } = longestZeros(groups);
  const text = (part: readonly number[]) => part.map((group) => group.toString(16)).join(":");
  if (length < 2) return text(groups);
  return `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`;
}

/** The 4 bytes of an IPv4-mapped IPv6 address; any other address as it is. */
export function unmapIp(bytes: Uint8Array): Uint8Array {
  return isMapped(bytes) ? bytes.slice(MAPPED_PREFIX.length) : bytes;
}

/** The 16 bytes of an IPv4-mapped IPv6 address for 4 bytes; any other address as it is. */
export function mapIp(bytes: Uint8Array): Uint8Array {
  return bytes.length === 4 ? Uint8Array.of(...MAPPED_PREFIX, ...bytes) : bytes;
}

/**
 * Reads the address of a socket from the parts that Deno and Node give.
 *
 * @returns `undefined` when `hostname` is no IP address, for instance a name or one with a zone id,
 * or `port` is not in 0 to 65535.
 */
export function socketAddress(hostname: string, port: number): SocketAddress | undefined {
  const ip = ipBytes(hostname);
  if (ip === undefined || !Number.isInteger(port) || port < 0 || port > 65535) return undefined;
  return { ip, port };
}

/** Writes `1.2.3.4:80` or `[::1]:80`. */
export function formatSocketAddress(address: SocketAddress): string {
  return formatAuthority({ hostname: formatIp(address.ip), port: address.port });
}

function isMapped(bytes: Uint8Array): boolean {
  return bytes.length === 16 && MAPPED_PREFIX.every((byte, i) => bytes[i] === byte);
}

function ipv4Bytes(text: string): Uint8Array {
  return Uint8Array.from(text.split("."), Number);
}

function ipv6Bytes(text: string): Uint8Array {
  const [head = [], tail = []] = text.split("::").map(groupBytes);
  const bytes = new Uint8Array(16);
  bytes.set(head);
  bytes.set(tail, 16 - tail.length);
  return bytes;
}

/** The bytes of groups on one side of `::`, the last two perhaps in IPv4 notation. */
function groupBytes(half: string): number[] {
  if (half === "") return [];
  return half.split(":").flatMap((group) => {
    if (group.includes(".")) return [...ipv4Bytes(group)];
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  });
}

/** Where the longest run of zeros is, the first one of several (RFC 5952 §4.2.3). */
function longestZeros(groups: readonly number[]): { start: number; length: number } {
  let longest = { start: 0, length: 0 };
  for (let start = 0; start < groups.length; start++) {
    let end = start;
    while (groups[end] === 0) end++;
    if (end - start > longest.length) longest = { start, length: end - start };
  }
  return longest;
}
