// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The head of an HTTP CONNECT request (RFC 9110 §9.3.6, RFC 9112 §2 to §5), read from bytes as they
 * come, and the answers to it.
 *
 * What is taken, where the RFCs leave a choice or this departs from them:
 *
 * - A lone LF ends a line as CRLF does (RFC 9112 §2.2 allows it, and the Go program does it). A CR
 *   that no LF follows is refused, and so is every other control character but a tab in a value.
 * - Empty lines before the request line are skipped (RFC 9112 §2.2); they count as part of the head.
 * - A folded field line (RFC 9112 §5.2) and whitespace before a field's colon (§5.1) are refused.
 * - The request target alone names where to connect. `Host` is not looked at: it may be missing,
 *   repeated or another name, against RFC 9112 §3.2, because kube-apiserver sends `127.0.0.1`.
 * - `Content-Length` and `Transfer-Encoding` mean nothing: CONNECT has no content (RFC 9110 §9.3.6),
 *   so all that follows the head belongs to the tunnel.
 * - Any HTTP/1.x will do. A version or a method of another kind is told apart from garbage only once
 *   the request line is complete; garbage is refused at the first byte that gives it away.
 *
 * @module
 */

import { type Authority, AuthorityError, parseAuthority } from "../net/authority.ts";

/**
 * What is known after a {@linkcode ConnectHeadParser.push}.
 *
 * - `incomplete`: nothing is wrong yet, more bytes are needed.
 * - `connect`: a valid head. `authority` is the request target as it was sent and `target` its parts,
 *   `version` the digits behind `HTTP/`, `headers` the fields in their order with names in their
 *   letter case, values trimmed and one character per byte, `rest` a copy of the bytes behind the head.
 * - `reject`: the status to answer with, and the cause in words fit for a reason phrase. Who sends
 *   it ends the stream; bytes already received are dropped.
 */
export type ConnectHeadResult =
  | { kind: "incomplete" }
  | {
    kind: "connect";
    target: Authority;
    authority: string;
    version: string;
    headers: [name: string, value: string][];
    rest: Uint8Array<ArrayBuffer>;
  }
  | { kind: "reject"; status: 400 | 405 | 431 | 505; reason: string };

type Reject = Extract<ConnectHeadResult, { kind: "reject" }>;

/** Bounds of a {@linkcode ConnectHeadParser}. */
export interface ConnectHeadOptions {
  /**
   * Longest head, in bytes, with its line ends and the empty line that closes it.
   *
   * @default {16384}
   */
  maxHeadBytes?: number;
}

type State =
  | "start"
  | "startLf"
  | "method"
  | "target"
  | "version"
  | "requestLf"
  | "fieldStart"
  | "fieldName"
  | "fieldValue"
  | "fieldLf"
  | "endLf";

const HTAB = 0x09;
const LF = 0x0a;
const CR = 0x0d;
const SP = 0x20;
const COLON = 0x3a;
const TLS_HANDSHAKE = 0x16;

const FIRST_CAPACITY = 256;
// The longest registered method has 17 characters: text that goes on for longer is no request.
const MAX_METHOD_LENGTH = 32;
const VERSION_LENGTH = "HTTP/1.1".length;

/**
 * Reads the head of one CONNECT request, in chunks of any size. Each byte is looked at as it comes,
 * and once more at the end, so the work is linear however the bytes are cut; what is held never
 * exceeds the limit, and the result does not depend on the cuts.
 */
export class ConnectHeadParser {
  readonly #maxHeadBytes: number;
  #buffer = new Uint8Array(0);
  #length = 0;
  #state: State = "start";
  #finished = false;
  /** Where the method, target, version or first field line begins: the one being read. */
  #partStart = 0;
  #method = "";
  #authority = "";
  #target: Authority | undefined;
  #version = "";

  /** @throws {RangeError} when `maxHeadBytes` is not a whole number from 1. */
  constructor(options: ConnectHeadOptions = {}) {
    const { maxHeadBytes = 16384 } = options;
    if (!Number.isSafeInteger(maxHeadBytes) || maxHeadBytes < 1) {
      throw new RangeError(
        `Cannot parse a head: maxHeadBytes ${maxHeadBytes} is not a whole number from 1`,
      );
    }
    this.#maxHeadBytes = maxHeadBytes;
  }

  /** Bytes taken for the head so far; stays at the length of the head once that has been read. */
  get byteLength(): number {
    return this.#length;
  }

  /**
   * Takes the next bytes of the stream. They are copied: the caller may use `chunk` again at once.
   *
   * @throws {Error} when an earlier call has given a result other than `incomplete`.
   */
  push(chunk: Uint8Array): ConnectHeadResult {
    if (this.#finished) throw new Error("Cannot push: the CONNECT head has been judged already");
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i] as number;
      this.#append(byte);
      const verdict = this.#step(byte);
      if (verdict === "end") return this.#finish(this.#connect(chunk, i + 1));
      if (verdict !== undefined) return this.#finish(verdict);
      // A head that is full and has not ended cannot end in time: no need to wait for the next byte.
      if (this.#length === this.#maxHeadBytes) {
        return this.#finish(reject(431, `the head is longer than ${this.#maxHeadBytes} bytes`));
      }
    }
    return { kind: "incomplete" };
  }

  #append(byte: number): void {
    if (this.#length === this.#buffer.length) {
      const capacity = Math.max(FIRST_CAPACITY, this.#buffer.length * 2);
      const grown = new Uint8Array(Math.min(this.#maxHeadBytes, capacity));
      grown.set(this.#buffer);
      this.#buffer = grown;
    }
    this.#buffer[this.#length++] = byte;
  }

  #finish(result: ConnectHeadResult): ConnectHeadResult {
    this.#finished = true;
    this.#buffer = new Uint8Array(0);
    return result;
  }

  #step(byte: number): Reject | "end" | undefined {
    switch (this.#state) {
      case "start":
        return this.#onStart(byte);
      case "startLf":
        return this.#onLf(byte, "start");
      case "method":
        return this.#onMethod(byte);
      case "target":
        return this.#onTarget(byte);
      case "version":
        return this.#onVersion(byte);
      case "requestLf":
        return this.#onLf(byte, "fieldStart") ?? this.#endRequestLine();
      case "fieldStart":
        return this.#onFieldStart(byte);
      case "fieldName":
        return this.#onFieldName(byte);
      case "fieldValue":
        return this.#onFieldValue(byte);
      case "fieldLf":
        return this.#onLf(byte, "fieldStart");
      case "endLf":
        return byte === LF ? "end" : bareCr();
    }
  }

  #onLf(byte: number, next: State): Reject | undefined {
    if (byte !== LF) return bareCr();
    this.#state = next;
    return undefined;
  }

  #onStart(byte: number): Reject | undefined {
    // No text begins with this byte, every TLS ClientHello does: no need to wait for its version.
    if (byte === TLS_HANDSHAKE && this.#length === 1) {
      return reject(400, "TLS bytes where an HTTP request was expected");
    }
    if (byte === LF) return undefined;
    if (byte !== CR && !isTokenByte(byte)) {
      return reject(400, `no request begins with byte ${hex(byte)}`);
    }
    this.#state = byte === CR ? "startLf" : "method";
    this.#partStart = this.#length - 1;
    return undefined;
  }

  #onMethod(byte: number): Reject | undefined {
    if (isTokenByte(byte)) {
      return this.#length - this.#partStart > MAX_METHOD_LENGTH
        ? reject(400, `the method is longer than ${MAX_METHOD_LENGTH} bytes`)
        : undefined;
    }
    if (isLineEnd(byte)) return reject(400, "the request line has no target");
    if (byte !== SP) return reject(400, `byte ${hex(byte)} in the method`);
    this.#method = this.#takePart();
    this.#state = "target";
    return undefined;
  }

  #onTarget(byte: number): Reject | undefined {
    if (isVisible(byte)) return undefined;
    if (isLineEnd(byte)) return reject(400, "the request line has no HTTP version");
    if (byte !== SP) return reject(400, `byte ${hex(byte)} in the request target`);
    this.#authority = this.#takePart();
    if (this.#authority === "") return reject(400, "the request target is empty");
    if (this.#method === "CONNECT") {
      try {
        this.#target = parseAuthority(this.#authority);
      } catch (error) {
        if (!(error instanceof AuthorityError)) throw error;
        return reject(400, error.message);
      }
    }
    this.#state = "version";
    return undefined;
  }

  #onVersion(byte: number): Reject | undefined {
    const index = this.#length - 1 - this.#partStart;
    if (index < VERSION_LENGTH) {
      const digit = index === 5 || index === 7;
      const good = digit ? isDigit(byte) : byte === "HTTP/1.1".charCodeAt(index);
      return good ? undefined : reject(400, "the request line does not end in an HTTP version");
    }
    if (!isLineEnd(byte)) return reject(400, "more text behind the HTTP version");
    this.#version = this.#takePart().slice("HTTP/".length);
    if (byte === CR) {
      this.#state = "requestLf";
      return undefined;
    }
    this.#state = "fieldStart";
    return this.#endRequestLine();
  }

  #endRequestLine(): Reject | undefined {
    this.#partStart = this.#length;
    if (!this.#version.startsWith("1.")) {
      return reject(505, `HTTP/${this.#version} is not spoken here, only HTTP/1.x`);
    }
    if (this.#method !== "CONNECT") {
      return reject(405, `the method is ${this.#method}, only CONNECT is allowed`);
    }
    return undefined;
  }

  #onFieldStart(byte: number): Reject | "end" | undefined {
    if (byte === LF) return "end";
    if (byte === CR) {
      this.#state = "endLf";
      return undefined;
    }
    if (byte === SP || byte === HTAB) return reject(400, "a field line begins with whitespace");
    this.#state = "fieldName";
    return isTokenByte(byte) ? undefined : badNameByte(byte);
  }

  #onFieldName(byte: number): Reject | undefined {
    if (isTokenByte(byte)) return undefined;
    if (byte === SP || byte === HTAB) return reject(400, "whitespace in or after a field name");
    if (isLineEnd(byte)) return reject(400, "a field line has no colon");
    if (byte !== COLON) return badNameByte(byte);
    this.#state = "fieldValue";
    return undefined;
  }

  #onFieldValue(byte: number): Reject | undefined {
    if (byte === LF) this.#state = "fieldStart";
    else if (byte === CR) this.#state = "fieldLf";
    else if (byte !== SP && byte !== HTAB && !isVisible(byte) && byte < 0x80) {
      return reject(400, `byte ${hex(byte)} in a field value`);
    }
    return undefined;
  }

  /** The text from the start of the part to before the last byte, which ended it. */
  #takePart(): string {
    const text = toText(this.#buffer.subarray(this.#partStart, this.#length - 1));
    this.#partStart = this.#length;
    return text;
  }

  #connect(chunk: Uint8Array, restStart: number): ConnectHeadResult {
    return {
      kind: "connect",
      target: this.#target as Authority,
      authority: this.#authority,
      version: this.#version,
      headers: this.#fields(),
      // Not slice(): a node Buffer's gives a view of the caller's memory.
      rest: new Uint8Array(chunk.subarray(restStart)),
    };
  }

  // Decoded only now: until a head is complete, its peer gets no more memory than the bytes it sent.
  #fields(): [string, string][] {
    const fields: [string, string][] = [];
    for (let start = this.#partStart; start < this.#length;) {
      const end = this.#buffer.indexOf(LF, start);
      const line = toText(this.#buffer.subarray(start, end));
      const colon = line.indexOf(":");
      // trim() may take more than OWS in Latin-1 text, such as a no-break space: strip by name.
      const value = line.slice(colon + 1).replace(/^[ \t]+/, "");
      if (colon !== -1) fields.push([line.slice(0, colon), withoutTrailing(value)]);
      start = end + 1;
    }
    return fields;
  }
}

function reject(status: Reject["status"], reason: string): Reject {
  return { kind: "reject", status, reason };
}

function bareCr(): Reject {
  return reject(400, "a CR that no LF follows");
}

function badNameByte(byte: number): Reject {
  return reject(400, `byte ${hex(byte)} in a field name`);
}

function hex(byte: number): string {
  return `0x${byte.toString(16).padStart(2, "0")}`;
}

function isLineEnd(byte: number): boolean {
  return byte === CR || byte === LF;
}

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

/** VCHAR of RFC 5234 appendix B.1. */
function isVisible(byte: number): boolean {
  return byte > SP && byte < 0x7f;
}

/** RFC 9110 §5.6.2: visible characters without the delimiters. */
function isTokenByte(byte: number): boolean {
  return isVisible(byte) && !DELIMITERS.has(byte);
}

const DELIMITERS: ReadonlySet<number> = new Set(
  [...'"(),/:;<=>?@[\\]{}'].map((character) => character.charCodeAt(0)),
);

// Arguments of one call: few enough for any stack.
const TEXT_PIECE = 4096;

/** One character per byte. TextDecoder's "latin1" is windows-1252 and would change some of them. */
function toText(bytes: Uint8Array): string {
  let text = "";
  for (let start = 0; start < bytes.length; start += TEXT_PIECE) {
    text += String.fromCharCode(...bytes.subarray(start, start + TEXT_PIECE));
  }
  return text;
}

// A regular expression for trailing whitespace takes quadratic time on a value full of spaces.
function withoutTrailing(text: string): string {
  let end = text.length;
  while (end > 0 && " \t\r".includes(text.charAt(end - 1))) end--;
  return text.slice(0, end);
}

/** The answer to a CONNECT whose target has been reached. Shared: not to be written to. */
export const CONNECT_OK: Uint8Array<ArrayBuffer> = new TextEncoder().encode(
  "HTTP/1.1 200 OK\r\n\r\n",
);

const MAX_REASON_LENGTH = 256;
const MAX_DETAILS_LENGTH = 256;
const FRAMING_FIELDS = ["content-length", "transfer-encoding", "connection"];

/**
 * Writes an answer to a CONNECT. One that is not 2xx says that it has no content and closes the
 * connection; a 2xx carries no framing (RFC 9110 §9.3.6). A 405 names the allowed method (§15.5.6).
 *
 * @param status 200 to 599
 * @param reason any text: characters that a reason phrase cannot have (RFC 9112 §4), and those beyond
 * ASCII, become spaces, and it is cut to 256 characters
 * @param fields header fields to add; their values are cleaned in the same way, but not cut
 * @throws {RangeError} when `status` is out of range.
 * @throws {TypeError} when a field's name is no token, or the field would change the framing.
 */
export function formatConnectResponse(
  status: number,
  reason: string,
  fields: readonly (readonly [name: string, value: string])[] = [],
): Uint8Array<ArrayBuffer> {
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new RangeError(`Cannot answer a CONNECT: status ${status} is not in 200 to 599`);
  }
  const names = fields.map(([name]) => name.toLowerCase());
  const bad = names.find((name) => !isToken(name) || FRAMING_FIELDS.includes(name));
  if (bad !== undefined) {
    throw new TypeError(
      `Cannot answer a CONNECT: field name ${JSON.stringify(bad)} is no token, or sets the framing`,
    );
  }
  const lines = [`HTTP/1.1 ${status} ${toPhrase(reason.slice(0, MAX_REASON_LENGTH))}`];
  for (const [name, value] of fields) lines.push(`${name}: ${toPhrase(value)}`);
  if (status === 405 && !names.includes("allow")) lines.push("Allow: CONNECT");
  if (status >= 300) lines.push("Content-Length: 0", "Connection: close");
  return new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`);
}

/** The members of a Proxy-Status field that a tunnel has to tell. */
export interface ProxyStatus {
  /** Who answers, such as `quic-tunnel-agent`. */
  proxy: string;
  /** A proxy error type of RFC 9209 §2.3, such as `connection_refused`. */
  error?: string;
  /** The cause in words; cut to 256 characters. */
  details?: string;
}

/**
 * Writes the value of a Proxy-Status field (RFC 9209 §2) with one member. What a structured field
 * (RFC 9651) cannot hold in a string, all but visible ASCII and spaces, becomes a space.
 *
 * @throws {TypeError} when `error` is not a token of a structured field.
 */
export function formatProxyStatus(params: ProxyStatus): string {
  const { proxy, error, details } = params;
  let value = isStructuredToken(proxy) ? proxy : toStructuredString(proxy);
  if (error !== undefined) {
    if (!isStructuredToken(error)) {
      throw new TypeError(`Cannot write Proxy-Status: error ${JSON.stringify(error)} is no token`);
    }
    value += `; error=${error}`;
  }
  if (details !== undefined) {
    value += `; details=${toStructuredString(details.slice(0, MAX_DETAILS_LENGTH))}`;
  }
  return value;
}

function toPhrase(text: string): string {
  return text.replace(/[^\t\x20-\x7e]/g, " ");
}

function isToken(text: string): boolean {
  return text !== "" && [...text].every((character) => isTokenByte(character.codePointAt(0) ?? 0));
}

/** RFC 9651 §3.3.4. */
function isStructuredToken(text: string): boolean {
  return /^[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*$/.test(text);
}

/** RFC 9651 §3.3.3. */
function toStructuredString(text: string): string {
  return `"${text.replace(/[^\x20-\x7e]/g, " ").replace(/["\\]/g, "\\$&")}"`;
}
