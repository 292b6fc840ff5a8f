// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What a client of proxy-agent asks for, in the protocol that its first byte belongs to. */
import { NO_BYTES } from "../bytes.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import type { ClientProtocol } from "../tunnel/client_protocol.ts";
import { CONNECT_OK, formatRefusal } from "../tunnel/connect_response.ts";
import { type Duplex, prepend, writeAll } from "../tunnel/duplex.ts";
import { NotConnectedError } from "../tunnel/failure.ts";
import { HttpExchange } from "../tunnel/http/exchange.ts";
import { forwardRequest } from "../tunnel/http/forwarding.ts";
import { MalformedError } from "../tunnel/http/malformed_error.ts";
import { type RequestHead, RequestHeadParser } from "../tunnel/http/request_head.ts";
import { formatSocks5Reply, SOCKS5, Socks5Parser } from "../tunnel/socks5.ts";
import type { IncomingTunnel } from "../qrht/tunnel.ts";
import { type Awaitable, within } from "../wait.ts";

/** A valid request, which waits for its target to be connected. */
export interface ClientRequest {
  readonly via: ClientProtocol;
  readonly target: Authority;
  /** What the log calls the target. */
  readonly name: string;
  /** Gives the client's bytes behind what was read. */
  readonly client: Duplex;
  /** What the client gets before the target's bytes. */
  readonly answer?: Uint8Array;
  /** What the target gets before the client's bytes. */
  readonly header?: Uint8Array;
  /** Makes a connection to the target one that speaks what the client does. */
  readonly exchange?: (upstream: Duplex) => HttpExchange;
}

export interface ReadRequestOptions {
  /** Which protocols are served. */
  readonly protocols: readonly ClientProtocol[];
  /** Time for the whole request. */
  readonly timeoutMs: number;
}

/** A client whose request is not served, and what it is answered. */
export class RequestError extends NotConnectedError {
  override readonly name = "RequestError";
  constructor(message: string, readonly answer: Uint8Array) {
    super("bad-request", message, { proxyError: "http_request_error" });
  }
}

const READ_BYTES = 4_096;

/**
 * Reads what a client asks for.
 *
 * @param tunnel whose server passes bytes on to the client once it was told that the target is
 * connected; SOCKS needs that before
 * @returns undefined when the client leaves before its first byte
 * @throws {RequestError} when it asks for something else, or is late
 * @throws when the carrier fails
 */
export async function readRequest(
  { carrier, connected }: Pick<IncomingTunnel, "carrier" | "connected">,
  { protocols, timeoutMs }: ReadRequestOptions,
): Promise<ClientRequest | undefined> {
  const buffer = new Uint8Array(READ_BYTES);
  const giveUpAt = performance.now() + timeoutMs;
  let isSocks = false;
  let received = 0;
  const inTime = <T>(awaited: Awaitable<T>) => within(giveUpAt - performance.now(), awaited, late);
  const late = () => {
    const text = `not complete within ${timeoutMs} ms`;
    return isSocks ? socksError(`SOCKS request ${text}`) : httpError(`request head ${text}`, 408);
  };
  const next = async () => {
    const n = await inTime(carrier.read(buffer));
    received += n ?? 0;
    if (n !== null) return buffer.subarray(0, n);
    if (received === 0) return undefined;
    const text = "the connection ends within the";
    throw isSocks ? socksError(`${text} SOCKS request`) : httpError(`${text} request head`);
  };
  const first = await next();
  if (!first) return undefined;
  isSocks = first[0] === SOCKS5 && protocols.includes("socks5");
  return isSocks
    ? await readSocksRequest(carrier, first, next, (bytes) => {
      // Until there is a result, the server passes nothing on.
      connected();
      return inTime(writeAll(carrier, bytes));
    })
    : await readHttpRequest(carrier, first, next, protocols);
}

type Next = () => Promise<Uint8Array | undefined>;

async function readHttpRequest(
  carrier: Duplex,
  first: Uint8Array,
  next: Next,
  protocols: readonly ClientProtocol[],
): Promise<ClientRequest> {
  const hasConnect = protocols.includes("connect");
  const hasHttp = protocols.includes("http");
  const forms = hasConnect && hasHttp ? "both" : hasHttp ? "http" : "connect";
  const parser = new RequestHeadParser({ forms });
  for (let bytes = first;; bytes = (await next())!) {
    const result = parser.push(bytes);
    switch (result.kind) {
      case "connect": {
        const { target, authority: name, rest } = result;
        const client = prepend(rest, carrier);
        return { via: "connect", target, name, client, answer: CONNECT_OK };
      }
      case "request":
        return plainRequest(result.request, prepend(result.rest, carrier));
      case "reject":
        throw httpError(result.reason, result.status);
    }
  }
}

function plainRequest(request: RequestHead, client: Duplex): ClientRequest {
  const { target } = request;
  try {
    const forwarded = forwardRequest(request);
    return {
      via: "http",
      target,
      name: formatAuthority(target),
      client,
      header: forwarded.head,
      exchange: (upstream) => new HttpExchange(upstream, request, forwarded),
    };
  } catch (error) {
    throw error instanceof MalformedError ? httpError(error.message, error.status) : error;
  }
}

async function readSocksRequest(
  carrier: Duplex,
  first: Uint8Array,
  next: Next,
  reply: (bytes: Uint8Array) => Awaitable<void>,
): Promise<ClientRequest> {
  const parser = new Socks5Parser();
  for (let bytes = first;;) {
    const result = parser.push(bytes);
    switch (result.kind) {
      case "greeting":
        await reply(result.reply);
        // The request may have come with the greeting.
        bytes = NO_BYTES;
        continue;
      case "connect": {
        const { target, rest } = result;
        const client = prepend(rest, carrier);
        const answer = formatSocks5Reply();
        return { via: "socks5", target, name: formatAuthority(target), client, answer };
      }
      case "reject":
        throw new RequestError(result.reason, result.reply);
      case "incomplete":
        bytes = (await next())!;
    }
  }
}

/** What a client is answered whose request is valid and whose target is not connected. */
export function formatFailure(error: NotConnectedError, via: ClientProtocol): Uint8Array {
  return via === "socks5" ? formatSocks5Reply(error.code) : formatRefusal(error);
}

function httpError(message: string, status = 400): RequestError {
  const proxyError = "http_request_error";
  const cause = new NotConnectedError("bad-request", message, { status, proxyError });
  return new RequestError(message, formatRefusal(cause));
}

function socksError(message: string): RequestError {
  return new RequestError(message, formatSocks5Reply("bad-request"));
}
