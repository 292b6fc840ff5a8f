// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The head of a request to a proxy: CONNECT (RFC 9110 §9.3.6), or any other method with an `http`
 * URL as its target (absolute-form, RFC 9112 §3.2.2), read from bytes as they come.
 *
 * What is taken, where the RFCs leave a choice or this departs from them:
 *
 * - A lone LF ends a line as CRLF does (RFC 9112 §2.2 allows it, and the Go program does it). A CR
 *   that no LF follows is refused, and so is every other control character but a tab in a value.
 * - Empty lines before the request line are skipped (RFC 9112 §2.2); they count as part of the
 *   head.
 * - A folded field line (RFC 9112 §5.2) and whitespace before a field's colon (§5.1) are refused.
 * - The request target alone names where to connect. `Host` is not looked at: in a CONNECT it may
 *   be missing, repeated or another name, against RFC 9112 §3.2, because kube-apiserver sends
 *   `127.0.0.1`.
 * - In a CONNECT, `Content-Length` and `Transfer-Encoding` mean nothing: it has no content (RFC
 *   9110 §9.3.6), so all that follows the head belongs to the tunnel. Its fields are held to their
 *   grammar, and ignored.
 * - Any HTTP/1.x will do. A version or a method of another kind is told apart from garbage only
 *   once the request line is complete; garbage is refused at the first byte that gives it away.
 */
import { NotParsedError } from "../../errors.ts";
import { type Authority, parseAuthority } from "../../net/authority.ts";
import { CR, hex, isDigit, isLineEnd, isTokenByte, isVisible, LF, SP } from "./characters.ts";
import { BARE_CR, type FieldLine, FieldLinesParser, type Malformed } from "./field_lines.ts";

/** A request for the resource that an `http` URL names. */
export interface RequestHead {
  /** A token, such as `GET`. */
  readonly method: string;
  /** Where its server is. */
  readonly target: Authority;
  /** The URL's host and port as they were sent: the value of `Host`. */
  readonly host: string;
  /** Path and query (origin-form, RFC 9112 §3.2.1), or `*`. */
  readonly path: string;
  /** Minor version of HTTP/1. */
  readonly minor: number;
  readonly fields: readonly FieldLine[];
}

/**
 * What is known after a {@linkcode RequestHeadParser.push}.
 *
 * - `incomplete`: nothing is wrong yet, more bytes are needed.
 * - `connect`: a valid head. `authority` is the request target as it was sent and `target` its
 *   parts, `rest` a copy of the bytes behind the head.
 * - `request`: a valid head of another method, and the same `rest`.
 * - `reject`: the status to answer with, and the cause in words fit for a reason phrase. Who sends
 *   it ends the stream; bytes already received are dropped.
 */
export type RequestHeadResult =
  | { kind: "incomplete" }
  | {
    kind: "connect";
    target: Authority;
    authority: string;
    rest: Uint8Array<ArrayBuffer>;
  }
  | { kind: "request"; request: RequestHead; rest: Uint8Array<ArrayBuffer> }
  | { kind: "reject"; status: 400 | 405 | 431 | 505; reason: string };

type Reject = Extract<RequestHeadResult, { kind: "reject" }>;

/** Bounds of a {@linkcode RequestHeadParser}. */
export interface RequestHeadOptions {
  /**
   * Longest head, in bytes, with its line ends and the empty line that closes it.
   *
   * @default {16384}
   */
  readonly maxHeadBytes?: number;
  /** Which requests are taken. @default {"connect"} */
  readonly forms?: RequestForms;
}

/** CONNECT, requests with an `http` URL, or both. */
export type RequestForms = "connect" | "http" | "both";

type State =
  | "start"
  | "startLf"
  | "method"
  | "target"
  | "version"
  | "requestLf"
  | "fields";

const TLS_HANDSHAKE = 0x16;

const decoder = new TextDecoder();

const FIRST_CAPACITY = 256;
// The longest registered method has 17 characters: text that goes on for longer is no request.
const MAX_METHOD_LENGTH = 32;
const VERSION_LENGTH = "HTTP/1.1".length;

/**
 * Reads the head of one request, in chunks of any size. Each byte is looked at once, as it
 * comes, so the work is linear however the bytes are cut, and the result does not depend on the
 * cuts. Of a CONNECT, no more than a part of
 * the request line is held.
 *
 * @example
 * ```ts
 * import { RequestHeadParser } from "./request_head.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const parser = new RequestHeadParser();
 * const push = (text: string) => parser.push(new TextEncoder().encode(text)).kind;
 * assertEquals(push("CONNECT example.com:443 HTTP/1.1\r\n"), "incomplete");
 * assertEquals(push("Host: example.com\r\n\r\n"), "connect");
 * ```
 */
export class RequestHeadParser {
  readonly #maxHeadBytes: number;
  readonly #forms: RequestForms;
  #length = 0;
  #state: State = "start";
  #finished = false;
  /** The method, target or version: the one being read. */
  #part = new Uint8Array(FIRST_CAPACITY);
  #partLength = 0;
  #method = "";
  /** The request target, or the host of its URL. */
  #authority = "";
  #path = "";
  #target: Authority | undefined;
  #version = "";
  #fields: FieldLinesParser | undefined;

  constructor({ maxHeadBytes = 16384, forms = "connect" }: RequestHeadOptions = {}) {
    this.#maxHeadBytes = maxHeadBytes;
    this.#forms = forms;
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
  push(chunk: Uint8Array): RequestHeadResult {
    if (this.#finished) throw new Error("the head is already parsed");
    for (let i = 0; i < chunk.length; i++) {
      this.#length++;
      const verdict = this.#step(chunk[i]!);
      if (verdict === "end") return this.#finish(this.#result(chunk.subarray(i + 1)));
      if (verdict !== undefined) return this.#finish(verdict);
      // A head that is full and has not ended cannot end in time: no need to wait for the next
      // byte.
      if (this.#length === this.#maxHeadBytes) {
        return this.#finish(reject(431, `the head is longer than ${this.#maxHeadBytes} bytes`));
      }
    }
    return { kind: "incomplete" };
  }

  #finish(result: RequestHeadResult): RequestHeadResult {
    this.#finished = true;
    return result;
  }

  #step(byte: number): Reject | "end" | undefined {
    switch (this.#state) {
      case "start":
        return this.#onStart(byte);
      case "startLf":
        if (byte !== LF) return rejectMalformed(BARE_CR);
        this.#state = "start";
        return undefined;
      case "method":
        return this.#onMethod(byte);
      case "target":
        return this.#onTarget(byte);
      case "version":
        return this.#onVersion(byte);
      case "requestLf":
        return byte === LF ? this.#endRequestLine() : rejectMalformed(BARE_CR);
      case "fields": {
        const verdict = this.#fields!.step(byte);
        return verdict === undefined || verdict === "end" ? verdict : rejectMalformed(verdict);
      }
    }
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
    this.#state = "version";
    return this.#readTarget(this.#takePart());
  }

  #readTarget(text: string): Reject | undefined {
    if (text === "") return reject(400, "the request target is empty");
    const isConnect = this.#method === "CONNECT";
    const url = isConnect ? undefined : HTTP_URL.exec(text);
    // What is wrong with the method, the target or the version is told when all of them are there.
    if (!isConnect && (!url || this.#forms === "connect")) return undefined;
    this.#authority = url ? url[1]! : text;
    try {
      this.#target = parseAuthority(url ? withPort(this.#authority) : text);
    } catch (error) {
      if (!(error instanceof NotParsedError)) throw error;
      return reject(400, error.message);
    }
    if (url) this.#path = pathOf(this.#method, url[2]!);
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
    return this.#endRequestLine();
  }

  #endRequestLine(): Reject | undefined {
    if (!this.#version.startsWith("1.")) {
      return reject(505, `HTTP/${this.#version} is not supported, only HTTP/1.x`);
    }
    const isConnect = this.#method === "CONNECT";
    if (isConnect && this.#forms === "http") return reject(405, "CONNECT is not allowed");
    if (!isConnect && this.#forms === "connect") {
      return reject(405, `the method is ${this.#method}, only CONNECT is allowed`);
    }
    // It would show the client what the target gets (RFC 9110 §9.3.8).
    if (this.#method === "TRACE") return reject(405, "the method TRACE is not allowed");
    if (!this.#target) {
      return reject(405, `${this.#method} needs an http URL as its target: this is a proxy`);
    }
    this.#state = "fields";
    this.#fields = new FieldLinesParser(!isConnect);
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
    const text = decoder.decode(this.#part.subarray(0, this.#partLength));
    this.#partLength = 0;
    return text;
  }

  #result(behind: Uint8Array): RequestHeadResult {
    // Not slice(): a node Buffer's gives a view of the caller's memory.
    const rest = new Uint8Array(behind);
    const target = this.#target!;
    if (this.#method === "CONNECT") {
      return { kind: "connect", target, authority: this.#authority, rest };
    }
    const request = {
      method: this.#method,
      target,
      host: this.#authority,
      path: this.#path,
      minor: Number(this.#version.slice("1.".length)),
      fields: this.#fields!.lines,
    };
    return { kind: "request", request, rest };
  }
}

/** An `http` URL without a fragment: its host and port, its path and query. */
const HTTP_URL = /^http:\/\/([^/?#]*)([^#]*)$/i;

const HTTP_PORT = 80;

function withPort(host: string): string {
  return /:[0-9]*$/.test(host.replace(/^.*\]/, "")) ? host : `${host}:${HTTP_PORT}`;
}

/** The target to send to the URL's server (RFC 9112 §3.2.1, §3.2.4). */
function pathOf(method: string, text: string): string {
  if (text === "" && method === "OPTIONS") return "*";
  return text.startsWith("/") ? text : `/${text}`;
}

function reject(status: Reject["status"], reason: string): Reject {
  return { kind: "reject", status, reason };
}

function rejectMalformed({ problem }: Malformed): Reject {
  return reject(400, problem);
}
