// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Small requests, as by a client that wants one answer. */
import { writeAll } from "../lib/tunnel/duplex.ts";
import { openWay, type Way, type WayConn } from "./way.ts";

/** An answer takes no longer. */
const TIMEOUT_MS = 15_000;

const REQUEST = new TextEncoder().encode("GET / HTTP/1.1\r\nHost: origin\r\n\r\n");
const decoder = new TextDecoder("latin1");

/** One GET on a new connection. Returns the time from connecting to the end of the answer, in milliseconds. */
export async function get(way: Way): Promise<number> {
  const since = performance.now();
  using client = await HttpClient.open(way);
  await client.get();
  return performance.now() - since;
}

/** A connection that is kept for one GET after the other. */
export class HttpClient implements Disposable {
  readonly #connection: WayConn;
  readonly #buffer = new Uint8Array(1024);

  private constructor(connection: WayConn) {
    this.#connection = connection;
  }

  static async open(way: Way): Promise<HttpClient> {
    return new HttpClient(await openWay(way));
  }

  /** @throws {Error} when the answer is wrong, or does not come */
  async get(): Promise<void> {
    let isLate = false;
    const late = setTimeout(() => {
      isLate = true;
      this[Symbol.dispose]();
    }, TIMEOUT_MS);
    try {
      await writeAll(this.#connection, REQUEST);
      for (let text = ""; !isComplete(text);) {
        const n = await this.#connection.read(this.#buffer);
        if (n === null) throw new Error("the connection ended before a response");
        text += decoder.decode(this.#buffer.subarray(0, n));
      }
    } catch (error) {
      throw isLate ? new Error(`no response within ${TIMEOUT_MS / 1_000} s`) : error;
    } finally {
      clearTimeout(late);
    }
  }

  [Symbol.dispose](): void {
    try {
      this.#connection.close();
    } catch {
      // It is closed.
    }
  }
}

function isComplete(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return false;
  if (!text.startsWith("HTTP/1.1 200 ")) throw new Error(text.slice(0, text.indexOf("\r\n")));
  return text.length - end - 4 >= Number(/content-length: *(\d+)/i.exec(text)?.[1]);
}
