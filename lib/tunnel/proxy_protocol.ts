// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * HAProxy's PROXY protocol, versions 1 and 2: a header that a proxy sends before the first byte of
 * a connection, to tell whose connection it is
 * (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt).
 *
 * What is taken, where the specification leaves a choice:
 *
 * - A line of version 1 is judged at its CRLF, all else as soon as the byte that decides has come.
 * - What follows `UNKNOWN` in version 1 is ignored, but for a CR or LF that is not the end.
 * - Of a LOCAL header nothing but its length counts: the block behind it is dropped unread.
 * - Families and protocols other than TCP over IPv4 or IPv6 give a header without addresses; their
 *   address blocks must have the length that belongs to the family, so that the TLVs are found.
 * - Of the TLVs, a checksum is verified, and all else ignored but for a unique id that is too long.
 */
import {
  formatIp,
  isIpAddress,
  mapIp,
  type SocketAddress,
  socketAddress,
  unmapIp,
} from "../net/ip_address.ts";

/** The addresses of a connection. */
export interface ProxyAddresses {
  /** Who opened the connection. */
  readonly client?: SocketAddress | undefined;
  /** Where the connection was accepted. */
  readonly listener?: SocketAddress | undefined;
}

/** What a header tells of a connection. */
export interface ProxyHeader extends ProxyAddresses {
  /** 1 to 128 bytes of any kind that name the connection (version 2, §2.2.5). */
  readonly uniqueId?: Uint8Array | undefined;
}

/**
 * What is known after a {@linkcode ProxyHeaderParser.push}.
 *
 * - `more`: nothing is wrong yet, more bytes are needed.
 * - `header`: a valid header. There are both addresses or none, for instance where the proxy itself
 *   opened the connection to check on a server. `rest` is a copy of the bytes behind it.
 * - `reject`: the cause in words. Whoever sends it ends the connection (§2.1: abort it).
 */
export type ProxyHeaderResult =
  | { kind: "more" }
  | Header & { rest: Uint8Array<ArrayBuffer> }
  | Reject;

type Header = ProxyAddresses & { kind: "header" };
type Reject = { kind: "reject"; reason: string };

const LF = 0x0a;
const CR = 0x0d;

const V1_SIGNATURE = new TextEncoder().encode("PROXY ");
const V1_MAX_BYTES = 107;

const V2_SIGNATURE = new TextEncoder().encode("\r\n\r\n\0\r\nQUIT\n");
const V2_FIXED_BYTES = 16;
const V2_MAX_LENGTH = 2048;
/** Version in the high nibble, command in the low one. */
const V2_LOCAL = 0x20;
const V2_PROXY = 0x21;
/** Family in the high nibble, protocol in the low one. */
const TCP_OVER_IPV4 = 0x11;
const TCP_OVER_IPV6 = 0x21;
const LAST_PROTOCOL = 2;
/** Bytes of both addresses and ports, by family: unspecified, IPv4, IPv6, UNIX. */
const ADDRESS_BLOCK_BYTES = [0, 12, 36, 216];

const TLV_CRC32C = 0x03;
const TLV_UNIQUE_ID = 0x05;
const MAX_UNIQUE_ID_BYTES = 128;

/**
 * Writes a header. Without both addresses it says that they are unknown. Where one is IPv4 and the
 * other IPv6, the first is written as an IPv4-mapped IPv6 address. Version 1 leaves the unique id
 * out.
 */
export function formatProxyHeader(version: 1 | 2, header: ProxyHeader): Uint8Array<ArrayBuffer> {
  const { client, listener, uniqueId } = header;
  const addresses = client && listener ? [client, listener] : [];
  const known = addresses.length > 0;
  const isIpv4 = addresses.every(({ ip }) => ip.length === 4);
  const ips = addresses.map(({ ip }) => isIpv4 ? ip : mapIp(ip));
  const ports = addresses.map(({ port }) => port);
  if (version === 1) {
    const protocol = !known ? "UNKNOWN" : isIpv4 ? "TCP4" : "TCP6";
    const fields = ["PROXY", protocol, ...ips.map(formatIp), ...ports];
    return new TextEncoder().encode(`${fields.join(" ")}\r\n`);
  }
  const block = [...ips, ...ports.map(uint16)].flatMap((part) => [...part]);
  if (uniqueId !== undefined) block.push(TLV_UNIQUE_ID, ...uint16(uniqueId.length), ...uniqueId);
  const family = !known ? 0 : isIpv4 ? TCP_OVER_IPV4 : TCP_OVER_IPV6;
  return Uint8Array.of(...V2_SIGNATURE, V2_PROXY, family, ...uint16(block.length), ...block);
}

function uint16(value: number): [high: number, low: number] {
  return [value >> 8, value & 0xff];
}

/**
 * Reads one header of either version, in chunks of any size. It holds no more than the longest
 * header, 107 bytes of version 1 or 2064 of version 2, and the result does not depend on the cuts.
 */
export class ProxyHeaderParser {
  readonly #buffer = new Uint8Array(V2_FIXED_BYTES + V2_MAX_LENGTH);
  #length = 0;
  #finished = false;

  /**
   * Takes the next bytes of the connection. They are copied: the caller may use `chunk` again at
   * once.
   *
   * @throws {TypeError} when an earlier call has given a result other than `more`.
   */
  push(chunk: Uint8Array): ProxyHeaderResult {
    if (this.#finished) {
      throw new TypeError("the PROXY header is already parsed");
    }
    for (let i = 0; i < chunk.length; i++) {
      this.#buffer[this.#length++] = chunk[i]!;
      const verdict = judge(this.#buffer.subarray(0, this.#length));
      if (verdict === undefined) continue;
      this.#finished = true;
      if (verdict.kind === "reject") return verdict;
      // Not slice(): a node Buffer's gives a view of the caller's memory.
      return { ...verdict, rest: new Uint8Array(chunk.subarray(i + 1)) };
    }
    return { kind: "more" };
  }
}

/** Judges the last byte, all before it having been found good; `undefined` asks for one more. */
function judge(bytes: Uint8Array): Header | Reject | undefined {
  const isV1 = bytes[0] === V1_SIGNATURE[0];
  const signature = isV1 ? V1_SIGNATURE : V2_SIGNATURE;
  if (bytes.length > signature.length) return isV1 ? judgeV1(bytes) : judgeV2(bytes);
  const last = bytes.length - 1;
  return bytes[last] === signature[last] ? undefined : reject("no PROXY header");
}

function judgeV1(bytes: Uint8Array): Header | Reject | undefined {
  const afterCr = bytes.at(-2) === CR;
  if ((bytes.at(-1) === LF) !== afterCr) return reject("a CR or LF on its own in the PROXY line");
  if (afterCr) return parseV1(bytes.subarray(V1_SIGNATURE.length, -2));
  // A line that is full and has not ended cannot end in time: no need to wait for the next byte.
  if (bytes.length < V1_MAX_BYTES) return undefined;
  return reject(`the PROXY line is longer than ${V1_MAX_BYTES} bytes`);
}

function parseV1(line: Uint8Array): Header | Reject {
  const fields = String.fromCharCode(...line).split(" ");
  const [protocol, sourceIp = "", destinationIp = "", sourcePort = "", destinationPort = ""] =
    fields;
  if (protocol === "UNKNOWN") return { kind: "header" };
  if (protocol !== "TCP4" && protocol !== "TCP6") {
    return reject("the PROXY line names no known protocol");
  }
  if (fields.length !== 5) return reject("the PROXY line does not have 5 fields");
  const version = protocol === "TCP4" ? 4 : 6;
  const client = v1Address(sourceIp, sourcePort, version);
  if (client === undefined) return reject("an invalid source address or port in the PROXY line");
  const listener = v1Address(destinationIp, destinationPort, version);
  if (listener === undefined) {
    return reject("an invalid destination address or port in the PROXY line");
  }
  return { kind: "header", client, listener };
}

function v1Address(ip: string, port: string, version: 4 | 6): SocketAddress | undefined {
  if (isIpAddress(ip) !== version || !/^(?:0|[1-9][0-9]{0,4})$/.test(port)) return undefined;
  return socketAddress(ip, Number(port));
}

function judgeV2(bytes: Uint8Array): Header | Reject | undefined {
  const [command, family = 0] = bytes.subarray(V2_SIGNATURE.length);
  const local = command === V2_LOCAL;
  if (!local && command !== V2_PROXY) return reject("an unknown PROXY version or command");
  const addressBytes = local ? 0 : ADDRESS_BLOCK_BYTES[family >> 4];
  if (addressBytes === undefined || (!local && (family & 0xf) > LAST_PROTOCOL)) {
    return reject("an unknown PROXY address family or protocol");
  }
  if (bytes.length < V2_FIXED_BYTES) return undefined;
  const length = viewOf(bytes).getUint16(V2_FIXED_BYTES - 2);
  if (length > V2_MAX_LENGTH) return reject(`a PROXY header longer than ${V2_MAX_LENGTH} bytes`);
  if (length < addressBytes) return reject("a PROXY header too short for its addresses");
  if (bytes.length < V2_FIXED_BYTES + length) return undefined;
  if (local) return { kind: "header" };
  return parseV2(bytes, family, V2_FIXED_BYTES + addressBytes);
}

function parseV2(bytes: Uint8Array, family: number, tlvStart: number): Header | Reject {
  const view = viewOf(bytes);
  let checksumAt: number | undefined;
  for (let at = tlvStart, end; at < bytes.length; at = end) {
    const [type, high = 0, low = 0] = bytes.subarray(at);
    const length = high << 8 | low;
    end = at + 3 + length;
    if (end > bytes.length) return reject("a PROXY header that ends within a TLV");
    if (type === TLV_CRC32C) {
      if (length !== 4) return reject("a PROXY checksum that does not have 4 bytes");
      checksumAt = at + 3;
    } else if (type === TLV_UNIQUE_ID && length > MAX_UNIQUE_ID_BYTES) {
      return reject("a PROXY unique ID that is too long");
    }
  }
  // Only now, so that it is computed once however many there are.
  if (checksumAt !== undefined) {
    const zeroed = bytes.slice().fill(0, checksumAt, checksumAt + 4);
    if (crc32c(zeroed) !== view.getUint32(checksumAt)) {
      return reject("a PROXY header with a wrong checksum");
    }
  }
  if (family !== TCP_OVER_IPV4 && family !== TCP_OVER_IPV6) return { kind: "header" };
  const ports = tlvStart - 4;
  const middle = (V2_FIXED_BYTES + ports) / 2;
  const ip = (start: number, end: number) => unmapIp(bytes.slice(start, end));
  const client = { ip: ip(V2_FIXED_BYTES, middle), port: view.getUint16(ports) };
  const listener = { ip: ip(middle, ports), port: view.getUint16(ports + 2) };
  return { kind: "header", client, listener };
}

/** RFC 3720 appendix B.4, bit by bit: the polynomial 0x1edc6f41, reflected. */
function crc32c(bytes: Uint8Array): number {
  let sum = -1;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0x82f63b78 : 0);
  }
  return ~sum >>> 0;
}

function reject(reason: string): Reject {
  return { kind: "reject", reason };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
