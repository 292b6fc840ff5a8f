// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The server's part of an upgrade to CONNECT-UDP over HTTP/1.1 (RFC 9298 §3.2 and §3.3). The server
 * forwards to its own QUIC endpoint alone, so the form of the target is checked, and the target
 * otherwise not used.
 */
import type { Authority } from "../net/authority.ts";
import { hex, isTextByte, isTokenByte, LF } from "../tunnel/http/characters.ts";
import { type FieldLine, FieldLinesParser } from "../tunnel/http/field_lines.ts";
import { MAX_DATAGRAM_BYTES } from "./capsule.ts";
import { targetOfPath } from "./uri_template.ts";

/** Longest head, in bytes: load balancers add to it. */
const MAX_HEAD_BYTES = 16_384;

/**
 * Field of a 101 that tells the largest datagram the server takes and sends, in bytes. Servers of
 * other projects do not send it.
 */
export const MAX_DATAGRAM_SIZE = "Max-Datagram-Size";

/** Paths for the health checks of load balancers. */
const HEALTH_PATHS = ["/", "/livez"];

/**
 * What is known after a {@linkcode UpgradeRequestParser.push}.
 *
 * - `incomplete`: nothing is wrong yet, more bytes are needed.
 * - `upgrade`: capsules follow `answer`; `rest` is a copy of those that came already.
 * - `answer`: anything else, a health check or a refusal; the connection is to be closed after it.
 */
export type UpgradeResult =
  | { readonly kind: "incomplete" }
  | {
    readonly kind: "upgrade";
    readonly target: Authority;
    readonly answer: Uint8Array<ArrayBuffer>;
    readonly rest: Uint8Array<ArrayBuffer>;
  }
  | Answer;

export interface Answer {
  readonly kind: "answer";
  readonly status: keyof typeof PHRASES;
  /** In words: the content of the answer. */
  readonly text: string;
  readonly answer: Uint8Array<ArrayBuffer>;
}

const PHRASES = {
  200: "OK",
  400: "Bad Request",
  404: "Not Found",
  405: "Method Not Allowed",
  426: "Upgrade Required",
  431: "Request Header Fields Too Large",
  505: "HTTP Version Not Supported",
} as const;

/** Reads the head of one request, in chunks of any size. A lone LF ends a line as CRLF does. */
export class UpgradeRequestParser {
  #line = "";
  #requestLine: string | undefined;
  #length = 0;
  readonly #fields = new FieldLinesParser(true);

  /** Takes the next bytes. Not to be called again once it has a result. */
  push(bytes: Uint8Array): UpgradeResult {
    for (let i = 0; i < bytes.length; i++) {
      if (++this.#length > MAX_HEAD_BYTES) {
        return refuse(431, `the head is longer than ${MAX_HEAD_BYTES} bytes`);
      }
      if (this.#requestLine === undefined) {
        const problem = this.#onRequestLine(bytes[i]!);
        if (problem) return refuse(400, problem);
        continue;
      }
      const verdict = this.#fields.step(bytes[i]!);
      if (verdict === "end") return judge(this.#requestLine, this.#fields.lines, bytes, i + 1);
      if (verdict) return refuse(400, verdict.problem);
    }
    return { kind: "incomplete" };
  }

  #onRequestLine(byte: number): string | undefined {
    if (byte === LF) {
      const line = this.#line.replace(/\r$/, "");
      // Empty lines before it are skipped (RFC 9112 §2.2).
      if (line !== "") this.#requestLine = line;
      this.#line = "";
      return undefined;
    }
    const isFirst = this.#line === "" && byte !== CR;
    if (isFirst ? !isTokenByte(byte) : byte !== CR && !isTextByte(byte)) {
      return `not an HTTP request: byte ${hex(byte)}`;
    }
    this.#line += String.fromCharCode(byte);
    return undefined;
  }
}

function judge(
  requestLine: string,
  fields: readonly FieldLine[],
  bytes: Uint8Array,
  length: number,
): UpgradeResult {
  const [, method, rawTarget, version] = /^([!-~]+) ([!-~]+) HTTP\/([0-9]\.[0-9])$/
    .exec(requestLine) ?? [];
  if (method === undefined || rawTarget === undefined) return refuse(400, "no valid request line");
  if (!version!.startsWith("1.")) return refuse(505, `HTTP/${version} is not supported`);
  const hosts = valuesOf(fields, "host");
  if (hosts.length > 1) return refuse(400, "more than one Host");
  if (hosts.length === 0 && version !== "1.0") return refuse(400, "no Host");
  const hasContent = valuesOf(fields, "transfer-encoding").length > 0 ||
    valuesOf(fields, "content-length").some((value) => value !== "0");
  if (hasContent) return refuse(400, "a request with content");

  // The absolute-form is for proxies, but servers have to accept it (RFC 9112 §3.2.2).
  const path = rawTarget.replace(/^https?:\/\/[^/?#]*/i, "") || "/";
  if (HEALTH_PATHS.includes(path)) {
    if (method === "GET" || method === "HEAD") return answer(200, "CONNECT-UDP is served", method);
    return refuse(405, `the method is ${method}, only GET and HEAD are allowed`);
  }
  const target = targetOfPath(path);
  if (!target) return refuse(404, "not the path of CONNECT-UDP");
  if (method !== "GET") return refuse(405, `the method is ${method}, only GET is allowed`);
  if ("problem" in target) return refuse(400, target.problem);
  // RFC 9110 §7.8: in HTTP/1.0, Upgrade is ignored.
  const isUpgrade = version !== "1.0" && tokensOf(fields, "connection").includes("upgrade") &&
    tokensOf(fields, "upgrade").includes(PROTOCOL);
  if (!isUpgrade) return refuse(426, `an upgrade to ${PROTOCOL} is required`);
  // Not slice(): a node Buffer's gives a view of the caller's memory.
  const rest = new Uint8Array(bytes.subarray(length));
  return { kind: "upgrade", target, answer: SWITCHING, rest };
}

/** The upgrade token (RFC 9298 §3.2). */
export const PROTOCOL = "connect-udp";

const CR = 0x0d;

const SWITCHING = format("HTTP/1.1 101 Switching Protocols", [
  ["Connection", "Upgrade"],
  ["Upgrade", PROTOCOL],
  ["Capsule-Protocol", "?1"],
  [MAX_DATAGRAM_SIZE, `${MAX_DATAGRAM_BYTES}`],
]);

function refuse(status: Answer["status"], text: string): Answer {
  return answer(status, text, "GET");
}

function answer(status: Answer["status"], text: string, method: "GET" | "HEAD"): Answer {
  const content = `${text}\n`;
  const fields: FieldLine[] = [
    ["Content-Type", "text/plain; charset=utf-8"],
    ["Content-Length", `${content.length}`],
    ["Connection", status === 426 ? "close, Upgrade" : "close"],
  ];
  if (status === 426) fields.push(["Upgrade", PROTOCOL]);
  if (status === 405) fields.push(["Allow", text.includes("HEAD") ? "GET, HEAD" : "GET"]);
  const head = `HTTP/1.1 ${status} ${PHRASES[status]}`;
  return {
    kind: "answer",
    status,
    text,
    answer: format(head, fields, method === "HEAD" ? "" : content),
  };
}

function format(
  startLine: string,
  fields: readonly FieldLine[],
  content = "",
): Uint8Array<ArrayBuffer> {
  const lines = [startLine, ...fields.map(([name, value]) => `${name}: ${value}`)];
  return new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n${content}`);
}

function valuesOf(fields: readonly FieldLine[], name: string): string[] {
  return fields.filter((field) => field[0].toLowerCase() === name).map((field) => field[1]);
}

/** The members of a list (RFC 9110 §5.6.1), in lower case. */
export function tokensOf(fields: readonly FieldLine[], name: string): string[] {
  return valuesOf(fields, name).flatMap((value) => value.split(","))
    .map((token) => token.trim().toLowerCase());
}
