// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * IP addresses as bytes: 4 for IPv4, 16 for IPv6, in network byte order.
 *
 * An address has one form only: an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) is its IPv4
 * address, or whoever compares addresses would take one host for two.
 */

/** What an IPv4-mapped IPv6 address begins with. */
const MAPPED_PREFIX = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);

/** Four numbers without leading zeros. */
const IPV4 = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/;

/** An IP address and a TCP or UDP port. */
export interface SocketAddress {
  /** 4 or 16 bytes, never an IPv4-mapped IPv6 address. */
  readonly ip: Uint8Array;
  /** 0 to 65535. */
  readonly port: number;
}

/**
 * Reads an IPv4 or IPv6 address (RFC 4291 §2.2) without brackets or zone id. IPv4 has four decimal
 * parts without leading zeros.
 *
 * @returns 4 or 16 bytes, 4 for an IPv4-mapped IPv6 address, or `undefined` when `text` is no IP
 * address.
 */
export function ipBytes(text: string): Uint8Array | undefined {
  const bytes = ipv4Bytes(text) ?? ipv6Bytes(text);
  return bytes && unmapIp(bytes);
}

/**
 * Tells an IP address, as {@linkcode ipBytes} reads it, from a name.
 *
 * @returns 4 or 6, the version of the notation, or 0 when `hostname` is no IP address.
 */
export function isIpAddress(hostname: string): 4 | 6 | 0 {
  if (ipv4Bytes(hostname)) return 4;
  return ipv6Bytes(hostname) ? 6 : 0;
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
    throw new RangeError(`an IP address of ${bytes.length} bytes`);
  }
  if (isMapped(bytes)) return `::ffff:${bytes.subarray(12).join(".")}`;
  const groups = groupsOf(bytes);
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

/**
 * The address of an end of a connection. A zone id, which the system adds to some IPv6 addresses and
 * no other machine understands, is dropped.
 *
 * @throws {TypeError} when `hostname` is no IP address
 */
export function socketAddressOf(
  { hostname, port }: { readonly hostname: string; readonly port: number },
): SocketAddress {
  const address = socketAddress(hostname.replace(/%.*$/, ""), port);
  if (!address) throw new TypeError(`${hostname} is not an IP address`);
  return address;
}

function isMapped(bytes: Uint8Array): boolean {
  return bytes.length === 16 && MAPPED_PREFIX.every((byte, i) => bytes[i] === byte);
}

function ipv4Bytes(text: string): Uint8Array | undefined {
  const parts = IPV4.exec(text);
  if (!parts) return undefined;
  const bytes = new Uint8Array(4);
  for (let i = 0; i < bytes.length; i++) {
    const value = Number(parts[i + 1]);
    if (value > 255) return undefined;
    bytes[i] = value;
  }
  return bytes;
}

/** Eight groups, one run of them as `::`, the last two perhaps in IPv4 notation. */
function ipv6Bytes(text: string): Uint8Array | undefined {
  const parts = text.split("::").map((part) => part === "" ? [] : part.split(":"));
  const last = parts.at(-1)!;
  const ipv4 = ipv4Bytes(last.at(-1) ?? "");
  if (ipv4) last.splice(-1, 1, ...groupsOf(ipv4).map((group) => group.toString(16)));

  const [head = [], tail] = parts;
  const missing = 8 - head.length - (tail?.length ?? 0);
  if (parts.length > 2 || (tail ? missing < 1 : missing !== 0)) return undefined;
  const groups = [...head, ...Array<string>(missing).fill("0"), ...(tail ?? [])];
  if (!groups.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return undefined;
  return Uint8Array.from(groups.flatMap((group) => {
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  }));
}

/** Each two bytes as a number. */
function groupsOf(bytes: Uint8Array): number[] {
  return Array.from(
    { length: bytes.length / 2 },
    (_, i) => (bytes[2 * i]! << 8) | bytes[2 * i + 1]!,
  );
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
