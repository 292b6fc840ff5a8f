// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Requests of the client, and the heads of their answers (RFC 9112). */
import { quote } from "../printable.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import { type ResponseHead, ResponseHeadParser } from "../tunnel/http/response_head.ts";

/** Bytes of an answer that are read at a time. */
const READ_BYTES = 4096;

/** An answer that ends a dial. */
export class AnswerError extends Error {
  override readonly name = "AnswerError";
  /** @param hint what to do about it, where that is known */
  constructor(message: string, readonly hint?: string) {
    super(message);
  }
}

/**
 * Sends a request without content, and reads the head of the final response, or of a 101.
 *
 * @returns the head, and what has come behind it
 * @throws {AnswerError} when the connection ends before
 * @throws {MalformedError} when it is not valid, or longer than 64 KiB
 */
export async function exchange(
  connection: Pick<Duplex, "read" | "write">,
  startLine: string,
  fields: readonly (readonly string[])[],
): Promise<{ head: ResponseHead; rest: Uint8Array }> {
  const lines = [startLine, ...fields.map(([name, value]) => `${name}: ${value}`)];
  await writeAll(connection, new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`));
  const buffer = new Uint8Array(READ_BYTES);
  let parser = new ResponseHeadParser();
  for (let rest = buffer.subarray(0, 0);;) {
    if (rest.length === 0) {
      const n = await connection.read(buffer);
      if (n === null) throw new AnswerError("the connection ends before the answer");
      rest = buffer.subarray(0, n);
    }
    const parsed = parser.push(rest);
    rest = rest.subarray(parsed?.length ?? rest.length);
    if (!parsed) continue;
    const { head } = parsed;
    if (head.status >= 200 || head.status === 101) return { head, rest: rest.slice() };
    parser = new ResponseHeadParser();
  }
}

/** A status as it was answered, such as `"404 Not Found"`. */
export const quotedStatus = ({ status, reason }: ResponseHead) =>
  `answered ${quote(`${status} ${reason}`.trim())}`;
