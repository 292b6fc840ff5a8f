// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Duplex, prepend, writeAll } from "../tunnel/duplex.ts";
import { within } from "../wait.ts";
import { readFailureOf } from "./carrier_socket.ts";
import { UpgradeRequestParser } from "./upgrade_request.ts";

/** Bytes of a request that are read at a time. */
const READ_BYTES = 4096;

/** How long a client may take to close its side after an answer that is none to it. */
const LINGER_MS = 1_000;

/** The request is none for CONNECT-UDP; it has got an answer that says so. */
export class RequestError extends Error {
  override readonly name = "RequestError";
}

/**
 * Reads a request, answers it, and upgrades the connection to capsules (RFC 9298 §3.2 and §3.3).
 * Without a time limit.
 *
 * @param connection of TLS
 * @returns the connection from the first capsule on; undefined for a health check: no request, or
 * one that is answered
 * @throws {RequestError} when the request is refused
 * @throws {CarrierEndedError} when the client ends the connection without saying so
 */
export async function acceptUpgrade(connection: Duplex): Promise<Duplex | undefined> {
  const parser = new UpgradeRequestParser();
  const buffer = new Uint8Array(READ_BYTES);
  const read = async () => {
    try {
      return await connection.read(buffer);
    } catch (error) {
      throw readFailureOf(error);
    }
  };
  for (let n; (n = await read()) !== null;) {
    const result = parser.push(buffer.subarray(0, n));
    if (result.kind === "incomplete") continue;
    await writeAll(connection, result.answer);
    if (result.kind === "upgrade") return prepend(result.rest, connection);
    await linger(connection);
    if (result.status === 200) return undefined;
    throw new RequestError(`${result.status}: ${result.text}`);
  }
  return undefined;
}

/**
 * Ends a connection after an answer: bytes that are not read would reset it, and with it the answer.
 * Load balancers reset it themselves when they have that.
 */
async function linger(connection: Duplex): Promise<void> {
  const buffer = new Uint8Array(READ_BYTES);
  const end = async () => {
    await connection.closeWrite();
    while (await connection.read(buffer) !== null);
  };
  await within(LINGER_MS, end(), () => new Error("not closed")).catch(() => {});
}
