// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Small answers to the requests of {@linkcode HttpClient}, one after the other. */
import { writeAll } from "../lib/tunnel/duplex.ts";

const BODY = "ok\n";
const ANSWER = new TextEncoder().encode(
  `HTTP/1.1 200 OK\r\ncontent-length: ${BODY.length}\r\n\r\n${BODY}`,
);
const MAX_HEAD_BYTES = 1024;
const decoder = new TextDecoder("latin1");

/** @param first the bytes that were read already */
export async function answerGets(connection: Deno.TcpConn, first: Uint8Array): Promise<void> {
  const buffer = new Uint8Array(MAX_HEAD_BYTES);
  let head = decoder.decode(first);
  while (head.length <= MAX_HEAD_BYTES) {
    if (head.endsWith("\r\n\r\n")) {
      await writeAll(connection, ANSWER);
      head = "";
    }
    const n = await connection.read(buffer);
    if (n === null) return;
    head += decoder.decode(buffer.subarray(0, n));
  }
}
