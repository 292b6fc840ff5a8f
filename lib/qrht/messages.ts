// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The payloads of the frames (docs/protocol.md): what they say, and how that is written. */
import { NO_BYTES } from "../bytes.ts";
import { type SocketAddress, unmapIp } from "../net/ip_address.ts";
import { type FailureCode, failureCodes, failures } from "../tunnel/failure.ts";
import { ProtocolError } from "./frame.ts";
import { decodeVarint, encodeVarint, varintLength } from "../varint.ts";

/** Version of OPEN and HELLO that this end speaks; there is no other. */
const VERSION = 1;

const TUNNEL_ID_BYTES = 16;

/** Longest text of a field. */
const MAX_TEXT_BYTES = 255;

/** Most features that a HELLO may name. */
const MAX_FEATURES = 32;

/** No datagram has more (RFC 9000 §18.2, max_udp_payload_size). */
const MAX_UDP_PAYLOAD_BYTES = 65_527;

const IPV4_FIELD_BYTES = 6;
const IPV6_FIELD_BYTES = 18;

/** What the server tells of a tunnel when it opens it. */
export interface Open {
  /** 16 bytes that no other tunnel has. */
  readonly tunnelId: Uint8Array;
  /** Where the client connects from. */
  readonly client?: SocketAddress | undefined;
  /** Where it has connected to. */
  readonly listener?: SocketAddress | undefined;
}

/** How an agent's attempt to connect a tunnel ended. */
export type ResultCode = FailureCode | "connected";

/** The number of each on the wire. */
export const resultNumbers: ReadonlyMap<ResultCode, number> = new Map([
  ["connected", 0],
  ...failureCodes.map((code) => [code, failures[code].number] as const),
]);

/** How the dial of a tunnel ended. */
export interface Result {
  readonly code: ResultCode;
  /** What happened, in words for a log; cut to 255 bytes. */
  readonly text: string;
}

/** What either end tells of itself. All of it is the peer's word, for logs. */
export interface Hello {
  readonly program?: string | undefined;
  readonly version?: string | undefined;
  /** What its operator calls it. */
  readonly name?: string | undefined;
  readonly features: readonly string[];
}

const OpenField = { Client: 0x00, Listener: 0x01 } as const;
const HelloField = { Program: 0x00, Version: 0x01, Name: 0x02, Feature: 0x03 } as const;

const resultCodes = new Map(Array.from(resultNumbers, ([code, number]) => [number, code]));

/**
 * The payload of an OPEN frame.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { socketAddress } from "../net/ip_address.ts";
 * import { decodeOpen, encodeOpen } from "./messages.ts";
 *
 * const open = { tunnelId: new Uint8Array(16), client: socketAddress("192.0.2.7", 40_000)! };
 * assertEquals(decodeOpen(encodeOpen(open)), open);
 * ```
 */
export function encodeOpen({ tunnelId, client, listener }: Open): Uint8Array {
  const length = 1 + tunnelId.length + addressFieldBytes(client) + addressFieldBytes(listener);
  const bytes = new Uint8Array(length);
  bytes[0] = VERSION;
  bytes.set(tunnelId, 1);
  const at = writeAddress(bytes, 1 + tunnelId.length, OpenField.Client, client);
  writeAddress(bytes, at, OpenField.Listener, listener);
  return bytes;
}

/** @throws {ProtocolError} when the payload is none of an OPEN frame */
export function decodeOpen(payload: Uint8Array): Open {
  const reader = new Reader("OPEN", payload);
  reader.version();
  const tunnelId = reader.bytes(TUNNEL_ID_BYTES).slice();
  const open: { client?: SocketAddress; listener?: SocketAddress } = {};
  reader.fields({
    [OpenField.Client]: (value) => open.client = readAddress(reader, value),
    [OpenField.Listener]: (value) => open.listener = readAddress(reader, value),
  });
  return { tunnelId, ...open };
}

export function encodeResult({ code, text }: Result): Uint8Array {
  const words = textBytes(text);
  return Uint8Array.from([
    ...encodeVarint(resultNumbers.get(code)!),
    ...encodeVarint(words.length),
    ...words,
  ]);
}

/**
 * A code that is not known counts as `internal-error`.
 *
 * @throws {ProtocolError} when the payload is none of a RESULT frame
 */
export function decodeResult(payload: Uint8Array): Result {
  const reader = new Reader("RESULT", payload);
  const code = resultCodes.get(reader.varint()) ?? "internal-error";
  const text = reader.text(reader.bytes(reader.varint()));
  reader.fields({});
  return { code, text };
}

export function encodeHello({ program, version, name, features }: Hello): Uint8Array {
  const bytes: number[] = [VERSION];
  const write = (type: number, text: string | undefined) => {
    if (text) writeField(bytes, type, textBytes(text));
  };
  write(HelloField.Program, program);
  write(HelloField.Version, version);
  write(HelloField.Name, name);
  for (const feature of features) write(HelloField.Feature, feature);
  return Uint8Array.from(bytes);
}

/** @throws {ProtocolError} when the payload is none of a HELLO frame */
export function decodeHello(payload: Uint8Array): Hello {
  const reader = new Reader("HELLO", payload);
  reader.version();
  const hello: { program?: string; version?: string; name?: string } = {};
  const features: string[] = [];
  reader.fields({
    [HelloField.Program]: (value) => hello.program = reader.text(value),
    [HelloField.Version]: (value) => hello.version = reader.text(value),
    [HelloField.Name]: (value) => hello.name = reader.text(value),
    [HelloField.Feature]: (value) => features.push(reader.text(value)),
  }, HelloField.Feature);
  if (features.length > MAX_FEATURES) throw reader.error(`names ${features.length} features`);
  return { ...hello, features };
}

/** Nothing yet: only fields that a later version may add. */
export function encodeDrain(): Uint8Array {
  return NO_BYTES;
}

/** @throws {ProtocolError} when the payload is none of a DRAIN frame */
export function decodeDrain(payload: Uint8Array): void {
  new Reader("DRAIN", payload).fields({});
}

/** @param bytes UDP payload of the largest datagram that has come, authentic, on this connection */
export function encodeArrived(bytes: number): Uint8Array {
  return Uint8Array.from(encodeVarint(bytes));
}

/** @throws {ProtocolError} when the payload is none of an ARRIVED frame */
export function decodeArrived(payload: Uint8Array): number {
  const reader = new Reader("ARRIVED", payload);
  const bytes = reader.varint();
  reader.fields({});
  if (bytes > MAX_UDP_PAYLOAD_BYTES) throw reader.error(`has a datagram of ${bytes} bytes`);
  return bytes;
}

/** The payload of a PING frame. */
export function encodePing(): Uint8Array {
  return NO_BYTES;
}

/** @throws {ProtocolError} when the payload is none of a PING frame */
export function decodePing(payload: Uint8Array): void {
  new Reader("PING", payload).fields({});
}

/** The payload of a PONG frame. @param streams tunnel streams that the sender has open */
export function encodePong(streams: number): Uint8Array {
  return Uint8Array.from(encodeVarint(streams));
}

/** @throws {ProtocolError} when the payload is none of a PONG frame */
export function decodePong(payload: Uint8Array): number {
  const reader = new Reader("PONG", payload);
  const streams = reader.varint();
  reader.fields({});
  return streams;
}

function writeField(to: number[], type: number, value: ArrayLike<number>): void {
  to.push(...encodeVarint(type), ...encodeVarint(value.length), ...Array.from(value));
}

function addressFieldBytes(address: SocketAddress | undefined): number {
  return address ? 2 + address.ip.length + 2 : 0;
}

/** Type and length have a byte each. Returns where the next field begins. */
function writeAddress(
  to: Uint8Array,
  at: number,
  type: number,
  address: SocketAddress | undefined,
): number {
  if (!address) return at;
  const { ip, port } = address;
  to.set([type, ip.length + 2], at);
  to.set(ip, at + 2);
  to.set([port >> 8, port & 0xff], at + 2 + ip.length);
  return at + addressFieldBytes(address);
}

function readAddress(reader: Reader, value: Uint8Array): SocketAddress {
  if (value.length !== IPV4_FIELD_BYTES && value.length !== IPV6_FIELD_BYTES) {
    throw reader.error(`has an address of ${value.length} bytes`);
  }
  const end = value.length - 2;
  return { ip: unmapIp(value.slice(0, end)), port: value[end]! * 256 + value[end + 1]! };
}

/** The text in UTF-8, cut between two characters when it is too long. */
function textBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(MAX_TEXT_BYTES);
  return bytes.subarray(0, new TextEncoder().encodeInto(text, bytes).written);
}

/** Takes a payload apart, from the front. */
class Reader {
  readonly #frame: string;
  readonly #payload: Uint8Array;
  #at = 0;

  constructor(frame: string, payload: Uint8Array) {
    this.#frame = frame;
    this.#payload = payload;
  }

  error(problem: string): ProtocolError {
    return new ProtocolError(`${this.#frame} ${problem}`);
  }

  bytes(count: number): Uint8Array {
    if (count > this.#payload.length - this.#at) throw this.error("ends too early");
    return this.#payload.subarray(this.#at, this.#at += count);
  }

  varint(): number {
    const first = this.#payload[this.#at];
    return decodeVarint(this.bytes(first === undefined ? 1 : varintLength(first)));
  }

  version(): void {
    const [version] = this.bytes(1);
    if (version !== VERSION) throw this.error(`has version ${version}, not ${VERSION}`);
  }

  text(bytes: Uint8Array): string {
    if (bytes.length > MAX_TEXT_BYTES) throw this.error(`has a text of ${bytes.length} bytes`);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw this.error("has a text that is not UTF-8");
    }
  }

  /**
   * The rest: fields, of which unknown ones are skipped.
   *
   * @param handlers what to do with the value of each type that is known
   * @param repeatable the type that may come more than once
   */
  fields(handlers: Record<number, (value: Uint8Array) => void>, repeatable?: number): void {
    const seen = new Set<number>();
    while (this.#at < this.#payload.length) {
      const type = this.varint();
      const value = this.bytes(this.varint());
      const handle = handlers[type];
      if (!handle) continue;
      if (seen.has(type) && type !== repeatable) throw this.error(`has field ${type} twice`);
      seen.add(type);
      handle(value);
    }
  }
}
