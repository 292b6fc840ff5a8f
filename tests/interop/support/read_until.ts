// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How long the other end may leave a connection without what is waited for. */
const TIMEOUT_MS = 10_000;

/**
 * Reads until what has come matches.
 *
 * @throws {Error} with what has come, when the connection ends before or it takes more than 10 s
 */
export async function readUntil(
  connection: Pick<Deno.Conn, "read" | "close">,
  pattern: RegExp,
): Promise<string> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(4096);
  let text = "";
  const timer = setTimeout(() => connection.close(), TIMEOUT_MS);
  try {
    while (!pattern.test(text)) {
      const n = await connection.read(buffer);
      if (n === null) throw new Error("the connection has ended");
      text += decoder.decode(buffer.subarray(0, n), { stream: true });
    }
    return text;
  } catch (cause) {
    throw new Error(`nothing like ${pattern} within ${TIMEOUT_MS} ms, only "${text}"`, { cause });
  } finally {
    clearTimeout(timer);
  }
}
