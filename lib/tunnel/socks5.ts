// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The server's side of SOCKS version 5 (RFC 1928): CONNECT, without authentication. */
import { hex } from "./http/characters.ts";
import { type Authority, hostNameProblem } from "../net/authority.ts";
import { formatIp, isIpAddress } from "../net/ip_address.ts";
import { type FailureCode, failures } from "./failure.ts";

/** The version, and the first byte of what every client sends. */
export const SOCKS5 = 0x05;

/** Reply to a greeting: no authentication (§3). */
const NO_AUTHENTICATION = 0x00;
const NO_ACCEPTABLE_METHOD = 0xff;

/** Replies to a request (§6) that no failure of a dial stands for. */
const COMMAND_NOT_SUPPORTED = 0x07;
const ADDRESS_TYPE_NOT_SUPPORTED = 0x08;

const CONNECT = 0x01;
const IPV4 = 0x01;
const NAME = 0x03;
const IPV6 = 0x04;

/** The longest request: a name of 255 bytes. */
const MAX_REQUEST_BYTES = 4 + 1 + 255 + 2;

/**
 * What is known after a {@linkcode Socks5Parser.push}.
 *
 * - `incomplete`: more bytes are needed.
 * - `greeting`: the client waits for `reply`.
 * - `connect`: a valid request, `rest` a copy of the bytes behind it. The client waits for
 *   {@linkcode formatSocks5Reply}.
 * - `reject`: what to answer with, and the cause in words.
 */
export type Socks5Result =
  | { kind: "incomplete" }
  | { kind: "greeting"; reply: Uint8Array<ArrayBuffer> }
  | { kind: "connect"; target: Authority; rest: Uint8Array<ArrayBuffer> }
  | { kind: "reject"; reply: Uint8Array<ArrayBuffer>; reason: string };

/**
 * Reads the greeting and the request of one client, in chunks of any size. At most one message is
 * held.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { Socks5Parser } from "./socks5.ts";
 *
 * const parser = new Socks5Parser();
 * assertEquals(parser.push(Uint8Array.of(5, 1, 0)).kind, "greeting");
 * assertEquals(parser.push(Uint8Array.of(5, 1, 0, 1, 192, 0, 2, 1, 0, 80)).kind, "connect");
 * ```
 */
export class Socks5Parser {
  readonly #held = new Uint8Array(MAX_REQUEST_BYTES);
  #length = 0;
  /** Bytes that came with the greeting. */
  #waiting: Uint8Array<ArrayBuffer> | undefined;
  #isGreeted = false;

  /** Takes the next bytes of the client. After a greeting, an empty chunk may have a result, too. */
  push(chunk: Uint8Array): Socks5Result {
    let bytes = chunk;
    if (this.#waiting) {
      bytes = new Uint8Array(this.#waiting.length + chunk.length);
      bytes.set(this.#waiting);
      bytes.set(chunk, this.#waiting.length);
      this.#waiting = undefined;
    }
    for (let i = 0; i < bytes.length; i++) {
      this.#held[this.#length++] = bytes[i]!;
      const result = this.#isGreeted
        ? this.#request(bytes.subarray(i + 1))
        : this.#greeting(bytes.subarray(i + 1));
      if (result) return result;
    }
    return { kind: "incomplete" };
  }

  #greeting(behind: Uint8Array): Socks5Result | undefined {
    const [version, count] = this.#held;
    if (version !== SOCKS5) return wrongVersion(version!);
    if (this.#length < 2 || this.#length < 2 + count!) return undefined;
    const methods = this.#held.subarray(2, this.#length);
    if (!methods.includes(NO_AUTHENTICATION)) {
      const reply = Uint8Array.of(SOCKS5, NO_ACCEPTABLE_METHOD);
      return {
        kind: "reject",
        reply,
        reason: "the client does not offer SOCKS without a password",
      };
    }
    this.#isGreeted = true;
    this.#length = 0;
    this.#waiting = new Uint8Array(behind);
    return { kind: "greeting", reply: Uint8Array.of(SOCKS5, NO_AUTHENTICATION) };
  }

  #request(behind: Uint8Array): Socks5Result | undefined {
    const [version, command, reserved, type, nameLength] = this.#held;
    if (version !== SOCKS5) return wrongVersion(version!);
    if (this.#length < 5) return undefined;
    if (command !== CONNECT) {
      return reject(COMMAND_NOT_SUPPORTED, `SOCKS command ${command}, only CONNECT is supported`);
    }
    if (reserved !== 0) return reject(badRequest, `reserved SOCKS byte ${hex(reserved!)}`);
    const addressBytes = type === IPV4
      ? 4
      : type === IPV6
      ? 16
      : type === NAME
      ? 1 + nameLength!
      : undefined;
    if (addressBytes === undefined) {
      return reject(ADDRESS_TYPE_NOT_SUPPORTED, `SOCKS address type ${type}`);
    }
    const end = 4 + addressBytes;
    if (this.#length < end + 2) return undefined;
    const address = this.#held.subarray(4, end);
    const port = this.#held[end]! << 8 | this.#held[end + 1]!;
    const hostname = type === NAME ? latin1(address.subarray(1)) : formatIp(address.slice());
    const problem = isIpAddress(hostname) ? undefined : hostNameProblem(hostname);
    if (problem) return reject(badRequest, `invalid SOCKS address: ${problem}`);
    if (port === 0) return reject(badRequest, "invalid SOCKS address: port 0");
    return { kind: "connect", target: { hostname, port }, rest: new Uint8Array(behind) };
  }
}

const badRequest = failures["bad-request"].socksReply;

function wrongVersion(byte: number): Socks5Result {
  return reject(badRequest, `SOCKS version ${byte}, only 5 is supported`);
}

function reject(code: number, reason: string): Socks5Result {
  return { kind: "reject", reply: formatReply(code), reason };
}

/** Reply to a request whose target is connected, or not, for that cause. */
export function formatSocks5Reply(failure?: FailureCode): Uint8Array<ArrayBuffer> {
  return formatReply(failure ? failures[failure].socksReply : 0);
}

/** The bound address is left out: it says nothing to a client on another machine. */
function formatReply(code: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.of(SOCKS5, code, 0, IPV4, 0, 0, 0, 0, 0, 0);
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}
