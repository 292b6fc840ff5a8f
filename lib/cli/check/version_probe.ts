// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { equals } from "@std/bytes/equals";
import { randomBytes } from "node:crypto";
import { MIN_INITIAL_DATAGRAM_BYTES, parseLongHeader } from "../../quic/handshake/packet.ts";

/** A version that is reserved to be unknown (RFC 9000 §15). */
const UNKNOWN_VERSION = 0x1a2a3a4a;

const ID_BYTES = 8;

/**
 * A datagram of an unknown version, which a QUIC server answers by Version Negotiation, whoever
 * sends it (RFC 9000 §6.1).
 */
export function unknownVersion(): Uint8Array {
  const datagram = new Uint8Array(MIN_INITIAL_DATAGRAM_BYTES);
  const view = new DataView(datagram.buffer);
  view.setUint8(0, 0xc0);
  view.setUint32(1, UNKNOWN_VERSION);
  for (const at of [5, 6 + ID_BYTES]) {
    view.setUint8(at, ID_BYTES);
    datagram.set(randomBytes(ID_BYTES), at + 1);
  }
  return datagram;
}

/** Whether a datagram is the answer to one of {@linkcode unknownVersion} (RFC 9000 §17.2.1). */
export function isVersionNegotiation(datagram: Uint8Array, sent: Uint8Array): boolean {
  const [answer, asked] = [parseLongHeader(datagram), parseLongHeader(sent)];
  return answer !== undefined && asked !== undefined && answer.version === 0 &&
    equals(answer.dcid, asked.scid) && equals(answer.scid, asked.dcid);
}
