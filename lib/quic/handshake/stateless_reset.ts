// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { createHmac, randomBytes } from "node:crypto";
import { type Authority, formatAuthority } from "../../net/authority.ts";

const TOKEN_BYTES = 16;

/** Shorter packets would not be taken for one of QUIC (RFC 9000 §10.3). */
const MIN_RESET_BYTES = 21;

/** Longer ones say no more. */
const MAX_RESET_BYTES = 41;

/** What tells one connection of a server from all others, of this server and of those like it. */
export interface ResetSubject {
  /** Connection id that the server has chosen. */
  readonly cid: Uint8Array;
  /** Address of the server that the client is answered from. */
  readonly local: Authority;
  readonly peer: Authority;
}

/**
 * The stateless reset token of a connection (RFC 9000 §10.3.2): a server that is started anew with
 * the same private key, at the same address, makes the same one.
 *
 * The addresses are part of it. So another server with this key, which may know nothing of a
 * connection that lives, cannot be made to tell its token; nor does anybody learn it who does not
 * receive what is sent to the client (RFC 9000 §21.11).
 *
 * @param key the server's private key, PEM
 */
export function resetToken(key: Uint8Array, { cid, local, peer }: ResetSubject): Uint8Array {
  const mac = createHmac("sha256", key).update("stateless reset token")
    .update(` ${formatAuthority(local)} ${formatAuthority(peer)} ${cid.length} `).update(cid)
    .digest();
  return new Uint8Array(mac.subarray(0, TOKEN_BYTES));
}

/**
 * Length of the answer to a packet of so many bytes; undefined when there is to be none. It is
 * shorter than the packet, so two servers do not answer each other for ever (RFC 9000 §10.3.3).
 */
export function resetBytes(packetBytes: number): number | undefined {
  const bytes = Math.min(packetBytes - 1, MAX_RESET_BYTES);
  return bytes < MIN_RESET_BYTES ? undefined : bytes;
}

/** Writes a stateless reset, which is as long as `out` (RFC 9000 §10.3, figure 10). */
export function writeReset(out: Uint8Array, token: Uint8Array): void {
  out.set(randomBytes(out.length - TOKEN_BYTES));
  out[0] = 0x40 | out[0]! & 0x3f;
  out.set(token, out.length - TOKEN_BYTES);
}
