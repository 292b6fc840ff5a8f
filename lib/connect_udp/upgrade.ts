// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The client's part of an upgrade to CONNECT-UDP over HTTP/1.1 (RFC 9298 §3.2 and §3.3). */
import { type Authority, formatAuthority } from "../net/authority.ts";
import { quote } from "../printable.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import type { ResponseHead } from "../tunnel/http/response_head.ts";
import { MAX_DATAGRAM_BYTES } from "./capsule.ts";
import { AnswerError, exchange, quotedStatus } from "./exchange.ts";
import { MAX_DATAGRAM_SIZE, PROTOCOL, tokensOf } from "./upgrade_request.ts";

/**
 * Upgrades a connection to capsules.
 *
 * @param path where CONNECT-UDP is served, with the target
 * @returns the capsules that have come behind the answer, and the largest datagram that the server
 * takes, if it tells
 * @throws {AnswerError} when the server does not
 */
export async function upgrade(
  connection: Pick<Duplex, "read" | "write">,
  server: Authority,
  path: string,
): Promise<{ rest: Uint8Array; maxDatagramBytes: number | undefined }> {
  const { head, rest } = await exchange(connection, `GET ${path} HTTP/1.1`, [
    ["Host", formatAuthority(server)],
    ["Connection", "Upgrade"],
    ["Upgrade", PROTOCOL],
    ["Capsule-Protocol", "?1"],
  ]);
  if (head.status !== 101) {
    const hint = "does the address belong to a server that serves CONNECT-UDP?";
    throw new AnswerError(`${quotedStatus(head)} to the upgrade to ${PROTOCOL}`, hint);
  }
  // RFC 9298 §3.3
  const protocols = tokensOf(head.fields, "upgrade");
  const isUpgrade = tokensOf(head.fields, "connection").includes("upgrade");
  if (!isUpgrade || protocols.length !== 1 || protocols[0] !== PROTOCOL) {
    throw new AnswerError(`an upgrade to ${quote(protocols.join(", "))}, not to ${PROTOCOL}`);
  }
  return { rest, maxDatagramBytes: maxDatagramBytesOf(head) };
}

function maxDatagramBytesOf({ fields }: ResponseHead): number | undefined {
  const [value] = tokensOf(fields, MAX_DATAGRAM_SIZE.toLowerCase());
  const isSize = value !== undefined && /^[0-9]{4,5}$/.test(value);
  // Smaller ones are nothing that QUIC could use (RFC 9000 §14).
  return isSize && Number(value) >= 1_200 ? Math.min(Number(value), MAX_DATAGRAM_BYTES) : undefined;
}
