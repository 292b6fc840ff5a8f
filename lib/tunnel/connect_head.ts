// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The head of an HTTP CONNECT request (RFC 9110 §9.3.6, RFC 9112 §2 to §5), read from bytes as they
 * come.
 *
 * What is taken, where the RFCs leave a choice or this departs from them:
 *
 * - A lone LF ends a line as CRLF does (RFC 9112 §2.2 allows it, and the Go program does it). A CR
 *   that no LF follows is refused, and so is every other control character but a tab in a value.
 * - Empty lines before the request line are skipped (RFC 9112 §2.2); they count as part of the
 *   head.
 * - A folded field line (RFC 9112 §5.2) and whitespace before a field's colon (§5.1) are refused.
 * - The request target alone names where to connect. `Host` is not looked at: it may be missing,
 *   repeated or another name, against RFC 9112 §3.2, because kube-apiserver sends `127.0.0.1`.
 * - `Content-Length` and `Transfer-Encoding` mean nothing: CONNECT has no content (RFC 9110
 *   §9.3.6), so all that follows the head belongs to the tunnel.
 * - Any HTTP/1.x will do. A version or a method of another kind is told apart from garbage only
 *   once the request line is complete; garbage is refused at the first byte that gives it away.
 * - Fields are held to their grammar, and ignored.
 */
import { NotParsedError } from "../errors.ts";
import { type Authority, parseAuthority } from "../net/authority.ts";

/**
 * What is known after a {@linkcode ConnectHeadParser.push}.
 *
 * - `incomplete`: nothing is wrong yet, more bytes are needed.
 * - `connect`: a valid head. `authority` is the request target as it was sent and `target` its
 *   parts, `rest` a copy of the bytes behind the head.
 * - `reject`: the status to answer with, and the cause in words fit for a reason phrase. Who sends
 *   it ends the stream; bytes already received are dropped.
 */
export type ConnectHeadResult =
  | { kind: "incomplete" }
  | {
    kind: "connect";
    target: Authority;
    authority: string;
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
  readonly maxHeadBytes?: number;
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
 * Reads the head of one CONNECT request, in chunks of any size. Each byte is looked at once, as it
 * comes, so the work is linear however the bytes are cut, and the result does not depend on the
 * cuts. Of the bytes no more than a part of the request line is held.
 *
 * @example
 * ```ts
 * import { ConnectHeadParser } from "./connect_head.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const parser = new ConnectHeadParser();
 * const push = (text: string) => parser.push(new TextEncoder().encode(text)).kind;
 * assertEquals(push("CONNECT example.com:443 HTTP/1.1\r\n"), "incomplete");
 * assertEquals(push("Host: example.com\r\n\r\n"), "connect");
 * ```
 */
export class ConnectHeadParser {
  readonly #maxHeadBytes: number;
  #length = 0;
  #state: State = "start";
  #finished = false;
  /** The method, target or version: the one being read. */
  #part = new Uint8Array(FIRST_CAPACITY);
  #partLength = 0;
  #method = "";
  #authority = "";
  #target: Authority | undefined;
  #version = "";

  constructor({ maxHeadBytes = 16384 }: ConnectHeadOptions = {}) {
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
    if (this.#finished) throw new Error("the CONNECT head is already parsed");
    for (let i = 0; i < chunk.length; i++) {
      this.#length++;
      const verdict = this.#step(chunk[i]!);
      if (verdict === "end") return this.#finish(this.#connect(chunk.subarray(i + 1)));
      if (verdict !== undefined) return this.#finish(verdict);
      // A head that is full and has not ended cannot end in time: no need to wait for the next
      // byte.
      if (this.#length === this.#maxHeadBytes) {
        return this.#finish(reject(431, `the head is longer than ${this.#maxHeadBytes} bytes`));
      }
    }
    return { kind: "incomplete" };
  }

  #finish(result: ConnectHeadResult): ConnectHeadResult {
    this.#finished = true;
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
      return reject(400, `not an HTTP request: it begins with byte ${hex(byte)}`);
    }
    if (byte === CR) this.#state = "startLf";
    else {
      this.#state = "method";
      this.#keep(byte);
    }
    return undefined;
  }

  #onMethod(byte: number): Reject | undefined {
    if (isTokenByte(byte)) {
      return this.#partLength < MAX_METHOD_LENGTH
        ? this.#keep(byte)
        : reject(400, `the method is longer than ${MAX_METHOD_LENGTH} bytes`);
    }
    if (isLineEnd(byte)) return reject(400, "the request line has no target");
    if (byte !== SP) return reject(400, `byte ${hex(byte)} in the method`);
    this.#method = this.#takePart();
    this.#state = "target";
    return undefined;
  }

  #onTarget(byte: number): Reject | undefined {
    if (isVisible(byte)) return this.#keep(byte);
    if (isLineEnd(byte)) return reject(400, "the request line has no HTTP version");
    if (byte !== SP) return reject(400, `byte ${hex(byte)} in the request target`);
    this.#authority = this.#takePart();
    if (this.#authority === "") return reject(400, "the request target is empty");
    if (this.#method === "CONNECT") {
      try {
        this.#target = parseAuthority(this.#authority);
      } catch (error) {
        if (!(error instanceof NotParsedError)) throw error;
        return reject(400, error.message);
      }
    }
    this.#state = "version";
    return undefined;
  }

  #onVersion(byte: number): Reject | undefined {
    const index = this.#partLength;
    if (index < VERSION_LENGTH) {
      const digit = index === 5 || index === 7;
      const good = digit ? isDigit(byte) : byte === "HTTP/1.1".charCodeAt(index);
      return good
        ? this.#keep(byte)
        : reject(400, "the request line does not end in an HTTP version");
    }
    if (!isLineEnd(byte)) return reject(400, "text after the HTTP version");
    this.#version = this.#takePart().slice("HTTP/".length);
    if (byte === CR) {
      this.#state = "requestLf";
      return undefined;
    }
    this.#state = "fieldStart";
    return this.#endRequestLine();
  }

  #endRequestLine(): Reject | undefined {
    if (!this.#version.startsWith("1.")) {
      return reject(505, `HTTP/${this.#version} is not supported, only HTTP/1.x`);
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

  #keep(byte: number): undefined {
    if (this.#partLength === this.#part.length) {
      const grown = new Uint8Array(this.#part.length * 2);
      grown.set(this.#part);
      this.#part = grown;
    }
    this.#part[this.#partLength++] = byte;
  }

  /** The text of the part that has ended, which is ASCII. */
  #takePart(): string {
    const text = new TextDecoder().decode(this.#part.subarray(0, this.#partLength));
    this.#partLength = 0;
    return text;
  }

  #connect(rest: Uint8Array): ConnectHeadResult {
    return {
      kind: "connect",
      target: this.#target!,
      authority: this.#authority,
      // Not slice(): a node Buffer's gives a view of the caller's memory.
      rest: new Uint8Array(rest),
    };
  }
}

function reject(status: Reject["status"], reason: string): Reject {
  return { kind: "reject", status, reason };
}

function bareCr(): Reject {
  return reject(400, "a CR without LF");
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
