// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A small HTTP/1.1 listener (RFC 9112) for requests without a body, one per connection. Unlike
 * `Deno.serve`, it continues when accepting fails, such as for want of file descriptors, and bounds
 * the number of its connections and how long each may take.
 */
import { concat } from "@std/bytes/concat";
import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { acceptEach } from "./accept.ts";

export interface HttpRequest {
  readonly method: string;
  /** The target in origin-form, such as `/metrics?x=1`. */
  readonly target: string;
  /** The Host header field; undefined if there is none, or several. */
  readonly host: string | undefined;
}

export interface HttpListenerOptions {
  readonly log: Logger;
  /** Stops listening, and closes all connections. */
  readonly signal: AbortSignal;
  /** Answers a request. */
  readonly handle: (request: HttpRequest) => Response | Promise<Response>;
  /**
   * Open connections; for a further one, the oldest that has sent no complete request, or has its
   * response, is closed, or the further one if there is none.
   *
   * @default {32}
   */
  readonly maxConnections?: number;
  /** Time for the head of a request. @default {5000} */
  readonly headTimeoutMs?: number;
  /** Time until the response has been read. @default {30000} */
  readonly responseTimeoutMs?: number;
}

const MAX_HEAD_BYTES = 16 << 10;

/** How long a client may take to close its side after the response. */
const LINGER_MS = 1_000;

const REASON_PHRASES: Readonly<Record<number, string>> = {
  200: "OK",
  400: "Bad Request",
  404: "Not Found",
  405: "Method Not Allowed",
  421: "Misdirected Request",
  431: "Request Header Fields Too Large",
  500: "Internal Server Error",
  503: "Service Unavailable",
};

/** An open connection. */
interface Client {
  readonly connection: Deno.Conn;
  /** Whether its request is not complete yet, or its response is written. */
  isIdle: boolean;
}

/**
 * Serves HTTP until the signal aborts.
 *
 * @returns resolves once all connections are closed; never rejects
 */
export async function serveHttp(
  listener: Deno.TcpListener,
  options: HttpListenerOptions,
): Promise<void> {
  const { log, signal, maxConnections = 32 } = options;
  const clients = new Set<Client>();
  const serving = new Set<Promise<void>>();
  const take = (connection: Deno.TcpConn) => {
    if (clients.size >= maxConnections) {
      const oldest = Array.from(clients).find(({ isIdle }) => isIdle);
      if (!oldest) return connection.close();
      clients.delete(oldest);
      close(oldest.connection);
    }
    const client = { connection, isIdle: true };
    clients.add(client);
    const served = serveClient(client, options).finally(() => {
      clients.delete(client);
      serving.delete(served);
    });
    serving.add(served);
  };
  const stop = () => {
    listener.close();
    for (const { connection } of clients) close(connection);
  };
  if (signal.aborted) return stop();
  signal.addEventListener("abort", stop);
  await acceptEach(listener, log, signal, take);
  await Promise.all(serving);
}

/** Serves one request. Never rejects. */
async function serveClient(client: Client, options: HttpListenerOptions): Promise<void> {
  const { log, handle, headTimeoutMs = 5_000, responseTimeoutMs = 30_000 } = options;
  const { connection } = client;
  let timer = setTimeout(() => close(connection), headTimeoutMs);
  const restart = (ms: number) => {
    clearTimeout(timer);
    timer = setTimeout(() => close(connection), ms);
  };
  try {
    const request = await readRequest(connection);
    if (request === undefined) return;
    client.isIdle = false;
    restart(responseTimeoutMs);
    const isHead = typeof request === "object" && request.method === "HEAD";
    const response = typeof request === "object" ? await handle(request) : request;
    const bytes = await formatResponse(response, isHead);
    for (let offset = 0; offset < bytes.length;) {
      offset += await connection.write(bytes.subarray(offset));
    }
    await connection.closeWrite();
    client.isIdle = true;
    // Bytes that are not read would reset the connection, and with it the response.
    restart(LINGER_MS);
    const rest = new Uint8Array(4096);
    while (await connection.read(rest) !== null);
  } catch (error) {
    log.trace("connection failed", { error: messageOf(error) });
  } finally {
    clearTimeout(timer);
    close(connection);
  }
}

/** Reads the head of a request; a status if it is invalid, undefined at the end of the bytes. */
async function readRequest(connection: Deno.Conn): Promise<HttpRequest | number | undefined> {
  const buffer = new Uint8Array(MAX_HEAD_BYTES);
  for (let length = 0; length < buffer.length;) {
    const n = await connection.read(buffer.subarray(length));
    if (n === null) return undefined;
    length += n;
    // One character a byte.
    const text = String.fromCharCode(...buffer.subarray(0, length));
    const end = /\r?\n\r?\n/.exec(text);
    if (end) return parseHead(text.slice(0, end.index));
  }
  return 431;
}

function parseHead(head: string): HttpRequest | number {
  const [first = "", ...lines] = head.split(/\r?\n/);
  const [, method, rawTarget, minor] = /^([!-~]+) ([!-~]+) HTTP\/1\.([01])$/.exec(first) ?? [];
  if (method === undefined) return 400;
  const fields = lines.map((line) => /^([^\s:]+):[ \t]*(.*?)[ \t]*$/.exec(line));
  if (fields.includes(null)) return 400;
  const hosts = fields.filter((field) => field![1]!.toLowerCase() === "host");
  if (hosts.length > 1 || (hosts.length === 0 && minor === "1")) return 400;
  // The absolute-form is for proxies, but servers have to accept it (RFC 9112 §3.2.2).
  const target = rawTarget!.replace(/^http:\/\/[^/?#]*/i, "");
  return { method, target: target === "" ? "/" : target, host: hosts[0]?.[2] };
}

async function formatResponse(response: Response | number, isHead: boolean): Promise<Uint8Array> {
  const { status, headers } = typeof response === "number"
    ? { status: response, headers: new Headers() }
    : response;
  const body = typeof response === "number"
    ? new Uint8Array()
    : new Uint8Array(await response.arrayBuffer());
  const lines = [`HTTP/1.1 ${status} ${REASON_PHRASES[status] ?? ""}`];
  for (const [name, value] of headers) lines.push(`${name}: ${value}`);
  lines.push(`date: ${new Date().toUTCString()}`);
  lines.push(`content-length: ${body.length}`, "connection: close", "", "");
  const head = new TextEncoder().encode(lines.join("\r\n"));
  return isHead ? head : concat([head, body]);
}

/** Closes a connection that may be closed already. */
function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // It was closed by its timer, or by a further client.
  }
}
