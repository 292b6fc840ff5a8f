// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Reads which target a client asks for, as its agent will, and gives back what was read. */
import { concat } from "@std/bytes/concat";
import type { Authority } from "../net/authority.ts";
import { type Duplex, prepend } from "../tunnel/duplex.ts";
import { NotConnectedError } from "../tunnel/failure.ts";
import { RequestHeadParser } from "../tunnel/http/request_head.ts";
import { SOCKS5 } from "../tunnel/socks5.ts";
import { within } from "../wait.ts";

/** A client whose target is known. */
export interface AskingClient {
  readonly target: Authority;
  /** Its bytes from the first one on. */
  readonly carrier: Duplex;
}

/** A client of SOCKS, which tells its target only after an answer that agents give. */
export class SocksRefusedError extends NotConnectedError {
  override readonly name = "SocksRefusedError";
  /** No acceptable method (RFC 1928, section 3). */
  readonly answer = Uint8Array.of(SOCKS5, 0xff);
  constructor() {
    super("bad-request", "SOCKS is not served by listeners with routes", HTTP_ERROR);
  }
}

const HTTP_ERROR = { proxyError: "http_request_error" } as const;

/** Most heads fit. */
const FIRST_BYTES = 1_024;

/** As long as agents wait. */
const HEAD_TIMEOUT_MS = 10_000;

/**
 * Reads the head of a request: CONNECT, or another method with an `http` URL.
 *
 * @param timeoutMs time for all of it
 * @returns undefined if the client leaves without a byte
 * @throws {NotConnectedError} when it is none, or late
 * @throws when the carrier fails
 */
export async function askedTarget(
  carrier: Duplex,
  timeoutMs = HEAD_TIMEOUT_MS,
): Promise<AskingClient | undefined> {
  const late = () => badRequest(`request head not complete within ${timeoutMs} ms`, 408);
  return await within(timeoutMs, read(carrier), late);
}

async function read(carrier: Duplex): Promise<AskingClient | undefined> {
  const parser = new RequestHeadParser({ forms: "both" });
  let buffer = new Uint8Array(FIRST_BYTES);
  for (let length = 0;;) {
    // The parser ends it: no head is longer than it allows.
    if (length === buffer.length) buffer = concat([buffer, new Uint8Array(length)]);
    const n = await carrier.read(buffer.subarray(length));
    if (n === null) {
      if (length === 0) return undefined;
      throw badRequest("the connection ends within the request head");
    }
    if (buffer[0] === SOCKS5) throw new SocksRefusedError();
    const result = parser.push(buffer.subarray(length, length + n));
    length += n;
    if (result.kind === "incomplete") continue;
    if (result.kind === "reject") throw badRequest(result.reason, result.status);
    const { target } = result.kind === "connect" ? result : result.request;
    return { target, carrier: prepend(buffer.subarray(0, length), carrier) };
  }
}

function badRequest(message: string, status = 400): NotConnectedError {
  return new NotConnectedError("bad-request", message, { ...HTTP_ERROR, status });
}
