// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The heads that a proxy sends on (RFC 9110 §7.6). Each connection carries one request, so that no
 * request can reach another's target.
 */
import type { Framing } from "./body.ts";
import type { FieldLine } from "./field_lines.ts";
import { MalformedError } from "./malformed_error.ts";
import type { RequestHead } from "./request_head.ts";
import type { ResponseHead } from "./response_head.ts";

/** Fields that concern one connection alone (RFC 9110 §7.6.1), or the proxy (§11.7). */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authentication-info",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "upgrade",
]);

/** Fields that no `Connection` may take away: message and target would become other ones. */
const KEPT: ReadonlySet<string> = new Set(["content-length", "host", "transfer-encoding"]);

/** Name in Via (RFC 9110 §7.6.3). */
const VIA = "quic-tunnel-agent";

/** A head to send on, and the end of the content behind it. */
export interface Forwarded {
  readonly head: Uint8Array<ArrayBuffer>;
  readonly framing: Framing;
}

/**
 * Writes the head of a request as its target's server gets it.
 *
 * @throws {MalformedError} when it is ambiguous, or invalid (RFC 9112 §3.2, §6)
 */
export function forwardRequest(request: RequestHead): Forwarded {
  const { method, path, minor, host } = request;
  const fields = endToEnd(request.fields);
  const hosts = valuesOf(fields, "host");
  if (hosts.length > 1) throw new MalformedError("more than one Host");
  if (hosts.length === 0 && minor > 0) throw new MalformedError("no Host");
  if (hosts[0] && !/^[A-Za-z0-9._:[\]-]+$/.test(hosts[0])) throw new MalformedError("invalid Host");
  const framing = framingOf(fields, minor) ?? 0;
  const expectations = valuesOf(fields, "expect");
  if (expectations.some((value) => value.toLowerCase() !== "100-continue")) {
    throw new MalformedError("unknown expectation", 417);
  }
  const lines: FieldLine[] = [
    ["Host", host],
    ...fields.filter(([name]) => !/^(?:host|max-forwards)$/i.test(name)),
    ...forwardsOf(request),
    ["Via", `1.${minor} ${VIA}`],
    ["Connection", "close"],
  ];
  // To a client of HTTP/1.0, a server of HTTP/1.1 may send chunks.
  const version = minor === 0 ? "HTTP/1.0" : "HTTP/1.1";
  return { head: format(`${method} ${path} ${version}`, lines), framing };
}

/** What `Max-Forwards` leaves (RFC 9110 §7.6.2). */
function forwardsOf({ method, fields }: RequestHead): FieldLine[] {
  const [value, ...more] = valuesOf(fields, "max-forwards");
  if (value === undefined) return [];
  if (method !== "OPTIONS") return [["Max-Forwards", value]];
  if (more.length > 0 || !/^[0-9]{1,9}$/.test(value)) {
    throw new MalformedError("invalid Max-Forwards");
  }
  if (Number(value) === 0) throw new MalformedError("Max-Forwards is 0");
  return [["Max-Forwards", `${Number(value) - 1}`]];
}

/**
 * Writes the head of a response as the client gets it.
 *
 * @param request that it answers
 * @throws {MalformedError} when it is ambiguous, or invalid
 */
export function forwardResponse(
  response: ResponseHead,
  request: Pick<RequestHead, "method" | "minor">,
): Forwarded {
  const { status, reason, minor } = response;
  const fields = endToEnd(response.fields);
  const isInterim = status < 200;
  const hasNoContent = isInterim || status === 204 || status === 304 || request.method === "HEAD";
  const framing = framingOf(fields, minor);
  if (framing === "chunked" && request.minor === 0) {
    throw new MalformedError("a client of HTTP/1.0 cannot read chunks");
  }
  const lines: FieldLine[] = [...fields, ["Via", `1.${minor} ${VIA}`]];
  if (!isInterim) lines.push(["Connection", "close"]);
  return {
    head: format(`HTTP/1.1 ${status} ${reason}`, lines),
    framing: hasNoContent ? 0 : framing ?? "close",
  };
}

/** The fields that are sent on. */
function endToEnd(fields: readonly FieldLine[]): FieldLine[] {
  const named = valuesOf(fields, "connection")
    .flatMap((value) => value.split(","))
    .map((option) => option.trim().toLowerCase());
  const kept = named.find((name) => KEPT.has(name));
  if (kept) throw new MalformedError(`Connection names ${kept}`);
  const dropped = new Set(named);
  return fields.filter(([name]) => {
    const lower = name.toLowerCase();
    return !HOP_BY_HOP.has(lower) && !dropped.has(lower);
  });
}

/** How the content is delimited (RFC 9112 §6); undefined if the head does not say. */
function framingOf(fields: readonly FieldLine[], minor: number): Framing | undefined {
  const codings = valuesOf(fields, "transfer-encoding");
  const lengths = valuesOf(fields, "content-length");
  if (codings.length > 0 && lengths.length > 0) {
    throw new MalformedError("both Transfer-Encoding and Content-Length");
  }
  if (codings.length > 0) {
    if (minor === 0) throw new MalformedError("Transfer-Encoding in HTTP/1.0");
    if (codings.length > 1) throw new MalformedError("more than one Transfer-Encoding");
    if (codings[0]!.toLowerCase() === "chunked") return "chunked";
    throw new MalformedError("unknown Transfer-Encoding, only chunked is supported", 501);
  }
  if (lengths.length === 0) return undefined;
  if (lengths.length > 1) throw new MalformedError("more than one Content-Length");
  const length = Number(lengths[0]);
  if (!/^[0-9]+$/.test(lengths[0]!) || !Number.isSafeInteger(length)) {
    throw new MalformedError("invalid Content-Length");
  }
  return length;
}

function valuesOf(fields: readonly FieldLine[], name: string): string[] {
  return fields.filter((field) => field[0].toLowerCase() === name).map((field) => field[1]);
}

function format(startLine: string, fields: readonly FieldLine[]): Uint8Array<ArrayBuffer> {
  const lines = [startLine, ...fields.map(([name, value]) => `${name}: ${value}`)];
  const text = `${lines.join("\r\n")}\r\n\r\n`;
  // A character stands for a byte.
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}
