// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { createHash } from "node:crypto";
import { type Authority, formatAuthority } from "../lib/net/authority.ts";
import { dial } from "../lib/agent/dial.ts";
import { type Duplex, writeAll } from "../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../lib/tunnel/tcp_duplex.ts";
import { reprDigest } from "./digest.ts";

/** A request of the demo. */
export interface HttpRequest {
  /** Where the TCP connection goes. */
  readonly via: Authority;
  /** Target of a CONNECT that is sent first. @default none is sent */
  readonly tunnelTo?: Authority;
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly body?: Uint8Array;
}

/** What came back: the proxy's answer if it refused the tunnel, else the origin's. */
export interface HttpResponse {
  readonly status: number;
  readonly reason: string;
  /** Values by the names in lower case. */
  readonly fields: ReadonlyMap<string, string>;
  /** Bytes of the body. */
  readonly length: number;
  /** `Repr-Digest` that belongs to the body. */
  readonly digest: string;
  /** From the start of the dial to the first bytes of the answer. */
  readonly firstByteMs: number;
  /** From the start of the dial to the end of the answer. */
  readonly totalMs: number;
}

type Head = Pick<HttpResponse, "status" | "reason" | "fields">;

const DIAL_TIMEOUT_MS = 5_000;
const MAX_HEAD_BYTES = 16 << 10;
const READ_BYTES = 256 << 10;

/**
 * Sends one HTTP/1.1 request on a connection of its own.
 *
 * @param signal ends it early
 * @throws {Error} when the answer is not whole
 */
export async function send(request: HttpRequest, signal: AbortSignal): Promise<HttpResponse> {
  const { via, tunnelTo, method, path, body } = request;
  const since = performance.now();
  await using connection = tcpDuplex(await dial(via, { timeoutMs: DIAL_TIMEOUT_MS, signal }));
  signal.addEventListener("abort", () => connection.abort(), { once: true });
  const reader = new Reader(connection);
  if (tunnelTo) {
    const target = formatAuthority(tunnelTo);
    await writeLines(connection, `CONNECT ${target} HTTP/1.1`, `Host: ${target}`);
    const answer = await reader.readHead();
    if (answer.status !== 200) return await finish(reader, answer, since);
  }
  await writeLines(
    connection,
    `${method} ${path} HTTP/1.1`,
    `Host: ${formatAuthority(tunnelTo ?? via)}`,
    "Connection: close",
    ...(body ? [`Content-Length: ${body.length}`] : []),
  );
  if (body) await writeAll(connection, body);
  return await finish(reader, await reader.readHead(), since);
}

async function writeLines(to: Duplex, ...lines: string[]): Promise<void> {
  await writeAll(to, new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`));
}

async function finish(reader: Reader, head: Head, since: number): Promise<HttpResponse> {
  const firstByteMs = performance.now() - since;
  const hash = createHash("sha256");
  let length = 0;
  for (let bytes; (bytes = await reader.read());) {
    hash.update(bytes);
    length += bytes.length;
  }
  const promised = Number(head.fields.get("content-length"));
  if (length !== promised) throw new Error(`${length} of ${promised} bytes of the body`);
  const totalMs = performance.now() - since;
  return { ...head, length, digest: reprDigest(hash), firstByteMs, totalMs };
}

/** Reads answers from a connection, which the last of them must end. */
class Reader {
  readonly #connection: Duplex;
  readonly #buffer = new Uint8Array(READ_BYTES);
  #ahead: Uint8Array = new Uint8Array();

  constructor(connection: Duplex) {
    this.#connection = connection;
  }

  /** Some bytes, valid until the next call, or undefined at the end. */
  async read(): Promise<Uint8Array | undefined> {
    const ahead = this.#ahead;
    this.#ahead = new Uint8Array();
    if (ahead.length > 0) return ahead;
    const n = await this.#connection.read(this.#buffer);
    return n === null ? undefined : this.#buffer.subarray(0, n);
  }

  async readHead(): Promise<Head> {
    let text = "";
    for (;;) {
      const bytes = await this.read();
      if (!bytes) throw new Error("the connection ended before a response");
      const before = text.length;
      text += String.fromCharCode(...bytes.subarray(0, MAX_HEAD_BYTES));
      const end = text.indexOf("\r\n\r\n");
      if (end === -1 && text.length >= MAX_HEAD_BYTES) throw new Error("a response without an end");
      if (end === -1) continue;
      this.#ahead = bytes.slice(end + 4 - before);
      return parseHead(text.slice(0, end));
    }
  }
}

function parseHead(text: string): Head {
  const [first = "", ...lines] = text.split("\r\n");
  const status = /^HTTP\/1\.1 (\d{3}) (.*)$/.exec(first);
  if (!status) throw new Error(`not a response: ${JSON.stringify(first.slice(0, 80))}`);
  const fields = lines.map((line): [string, string] => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  return { status: Number(status[1]), reason: status[2]!, fields: new Map(fields) };
}
