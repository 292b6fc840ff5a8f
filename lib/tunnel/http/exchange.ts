// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { concat } from "@std/bytes/concat";
import { NO_BYTES } from "../../bytes.ts";
import { formatConnectResponse, formatProxyStatus, PROXY_NAME } from "../connect_response.ts";
import { type Duplex, writeAll } from "../duplex.ts";
import { TunnelError } from "../errors.ts";
import { Body } from "./body.ts";
import { type Forwarded, forwardResponse } from "./forwarding.ts";
import { MalformedError } from "./malformed_error.ts";
import type { RequestHead } from "./request_head.ts";
import { ResponseHeadParser } from "./response_head.ts";

/**
 * One request, whose head is already known, and its response, over a connection to the target's
 * server: a carrier for the client's bytes.
 *
 * - Writes send on the content of the request, up to its end. What follows is dropped: it would be
 *   another request, perhaps for another server, and the response says that it is the last.
 * - Reads give interim responses (RFC 9110 §15.2) and the response, and then the end.
 * - A request that is malformed or incomplete resets the connection. If there is no response yet,
 *   the client gets one with status 400.
 * - A response that is not valid becomes one with status 502; one that is cut off fails the read.
 */
export class HttpExchange implements Duplex {
  readonly #upstream: Duplex;
  readonly #request: RequestHead;
  readonly #content: Body;
  #head = new ResponseHeadParser();
  /** Of the response, once its head is complete. */
  #response: Body | undefined;
  /** Bytes for the client that it has not read yet. */
  #out: Uint8Array<ArrayBufferLike> = NO_BYTES;
  #failure: TunnelError | undefined;

  constructor(upstream: Duplex, request: RequestHead, { framing }: Forwarded) {
    this.#upstream = upstream;
    this.#request = request;
    this.#content = new Body(framing);
  }

  /** Why the exchange has failed, if the client has got the proxy's own response. */
  get failure(): TunnelError | undefined {
    return this.#failure;
  }

  async write(bytes: Uint8Array): Promise<number> {
    if (this.#failure) return bytes.length;
    try {
      const n = this.#content.take(bytes);
      await writeAll(this.#upstream, bytes.subarray(0, n));
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      this.#refuse(error);
    }
    return bytes.length;
  }

  /** The response is still to come, and some servers take a half-closed client for one that left. */
  // deno-lint-ignore require-await
  async closeWrite(): Promise<void> {
    if (this.#content.isComplete || this.#failure) return;
    this.#refuse(new MalformedError("the connection ends within the content of the request"));
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    for (;;) {
      if (this.#out.length > 0) return this.#give(buffer);
      if (this.#response?.isComplete) return null;
      if (this.#failure && this.#response) throw this.#failure;
      if (this.#failure) return null;
      let n: number | null;
      try {
        n = await this.#upstream.read(buffer);
      } catch (error) {
        if (!this.#failure || this.#out.length === 0) throw error;
        continue;
      }
      if (this.#failure) continue;
      if (n === null) {
        if (this.#response?.mayEnd) return null;
        if (this.#response) throw cutOff("the response is cut off");
        this.#fail(502, cutOff("the connection ends before the response"));
      } else if (this.#response) {
        const taken = this.#takeContent(buffer.subarray(0, n));
        if (taken > 0) return taken;
      } else this.#takeHead(buffer.subarray(0, n));
    }
  }

  #give(buffer: Uint8Array): number {
    const n = Math.min(buffer.length, this.#out.length);
    buffer.set(this.#out.subarray(0, n));
    this.#out = this.#out.subarray(n);
    return n;
  }

  #takeContent(bytes: Uint8Array): number {
    try {
      return this.#response!.take(bytes);
    } catch (error) {
      throw error instanceof MalformedError ? cutOff(error.message) : error;
    }
  }

  #takeHead(bytes: Uint8Array): void {
    // Joined once: a server may send very many interim responses.
    const out = [this.#out];
    let failure: TunnelError | undefined;
    try {
      for (let rest = bytes; rest.length > 0;) {
        const parsed = this.#head.push(rest);
        if (!parsed) break;
        const { head, length } = parsed;
        rest = rest.subarray(length);
        const isInterim = head.status < 200;
        if (head.status === 101) throw new MalformedError("a change of protocol was not asked for");
        const forwarded = forwardResponse(head, this.#request);
        if (!isInterim) {
          this.#response = new Body(forwarded.framing);
          const content = rest.subarray(0, this.#response.take(rest));
          out.push(forwarded.head, content);
          break;
        }
        // Clients of HTTP/1.0 know none (RFC 9110 §15.2).
        if (this.#request.minor > 0) out.push(forwarded.head);
        this.#head = new ResponseHeadParser();
      }
    } catch (error) {
      if (!(error instanceof MalformedError)) throw error;
      this.#response = undefined;
      failure = cutOff(`no valid response: ${error.message}`);
    }
    this.#out = concat(out);
    if (failure) this.#fail(502, failure);
  }

  /** Ends a request that must not reach its target as if it were whole. */
  #refuse({ message, status }: MalformedError): void {
    const failure = new TunnelError("client", "protocol-error", message);
    if (this.#response) this.#failure = failure;
    else this.#fail(status, failure);
    this.#upstream.abort();
  }

  #fail(status: number, failure: TunnelError): void {
    this.#failure = failure;
    const error = failure.by === "client" ? "http_request_error" : "http_protocol_error";
    const details = failure.message;
    const proxyStatus = formatProxyStatus({ proxy: PROXY_NAME, error, details });
    const answer = formatConnectResponse(status, details, [["Proxy-Status", proxyStatus]]);
    this.#out = concat([this.#out, answer]);
  }

  abort(code?: number): void {
    this.#upstream.abort(code);
  }

  isReset(): boolean {
    return this.#upstream.isReset?.() ?? false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#upstream[Symbol.asyncDispose]();
  }
}

function cutOff(message: string): TunnelError {
  return new TunnelError("target", "protocol-error", message);
}
