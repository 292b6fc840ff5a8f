// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** QUIC packets of a test's own making, with any frames in them: what no honest end sends. */

import { createCipheriv, createHmac } from "node:crypto";
import { encodeVarint } from "../../lib/varint.ts";
import { concat } from "./bytes.ts";

/** Keys of one direction (RFC 9001 §5.1), for AES-128-GCM. */
export interface PacketKeys {
  readonly key: Uint8Array;
  readonly iv: Uint8Array;
  /** Of the header protection. */
  readonly hp: Uint8Array;
}

/** Of QUIC version 1 (RFC 9001 §5.2). */
const INITIAL_SALT = Uint8Array.fromHex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a");

const PACKET_NUMBER_BYTES = 4;
const TAG_BYTES = 16;

/** A datagram with an Initial packet is at least this long (RFC 9000 §14.1). */
const MIN_INITIAL_DATAGRAM_BYTES = 1200;

function hmac(key: Uint8Array, data: Uint8Array): Uint8Array {
  return createHmac("sha256", key).update(data).digest();
}

/** HKDF-Expand-Label (RFC 8446 §7.1) without a context, up to 32 bytes. */
function expandLabel(secret: Uint8Array, label: string, length: number): Uint8Array {
  const name = new TextEncoder().encode(`tls13 ${label}`);
  return hmac(secret, Uint8Array.of(0, length, name.length, ...name, 0, 1)).subarray(0, length);
}

/** The keys of a traffic secret. */
export function packetKeys(secret: Uint8Array): PacketKeys {
  return {
    key: expandLabel(secret, "quic key", 16),
    iv: expandLabel(secret, "quic iv", 12),
    hp: expandLabel(secret, "quic hp", 16),
  };
}

/** The keys of a client's Initial packets, which follow from the first connection id that it sends to. */
export function clientInitialKeys(dcid: Uint8Array): PacketKeys {
  return packetKeys(expandLabel(hmac(INITIAL_SALT, dcid), "client in", 32));
}

/** Encrypts the payload, and hides the packet number that the header ends with (RFC 9001 §5.3, §5.4). */
function protect(
  { key, iv, hp }: PacketKeys,
  header: Uint8Array,
  packetNumber: number,
  payload: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const nonce = Uint8Array.from(iv);
  const tail = new DataView(nonce.buffer, nonce.length - 4);
  tail.setUint32(0, tail.getUint32(0) ^ packetNumber);
  const cipher = createCipheriv("aes-128-gcm", key, nonce).setAAD(header);
  const sealed = concat(cipher.update(payload), cipher.final(), cipher.getAuthTag());
  // The sample begins where it would with a packet number of 4 bytes, as it has here.
  const masker = createCipheriv("aes-128-ecb", hp, null).setAutoPadding(false);
  const mask = concat(masker.update(sealed.subarray(0, 16)), masker.final());
  const packet = concat(header, sealed);
  packet[0]! ^= mask[0]! & (header[0]! & 0x80 ? 0x0f : 0x1f);
  for (let i = 0; i < PACKET_NUMBER_BYTES; i++) {
    packet[header.length - PACKET_NUMBER_BYTES + i]! ^= mask[1 + i]!;
  }
  return packet;
}

const uint32 = (n: number) => Uint8Array.of(n >>> 24, n >>> 16, n >>> 8, n);

/** A client's Initial packet, in a datagram of its own and as long as that has to be (RFC 9000 §17.2.2). */
export function initialDatagram(
  options: {
    keys: PacketKeys;
    dcid: Uint8Array;
    scid: Uint8Array;
    token?: Uint8Array;
    packetNumber: number;
    frames: readonly Uint8Array[];
  },
): Uint8Array<ArrayBuffer> {
  const { keys, dcid, scid, token = new Uint8Array(0), packetNumber, frames } = options;
  const front = Uint8Array.of(
    0xc0 | (PACKET_NUMBER_BYTES - 1),
    ...uint32(1),
    dcid.length,
    ...dcid,
    scid.length,
    ...scid,
    ...encodeVarint(token.length),
    ...token,
  );
  const headerBytes = front.length + 2 + PACKET_NUMBER_BYTES;
  const bare = concat(...frames);
  const padding = MIN_INITIAL_DATAGRAM_BYTES - headerBytes - bare.length - TAG_BYTES;
  const payload = padding > 0 ? concat(bare, new Uint8Array(padding)) : bare;
  const length = encodeVarint(PACKET_NUMBER_BYTES + payload.length + TAG_BYTES);
  const header = concat(front, Uint8Array.from(length), uint32(packetNumber));
  return protect(keys, header, packetNumber, payload);
}

/** A 1-RTT packet (RFC 9000 §17.3.1), in key phase 0. */
export function shortPacket(
  keys: PacketKeys,
  dcid: Uint8Array,
  packetNumber: number,
  frames: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  const first = Uint8Array.of(0x40 | (PACKET_NUMBER_BYTES - 1));
  return protect(keys, concat(first, dcid, uint32(packetNumber)), packetNumber, concat(...frames));
}

// Frames (RFC 9000 §19)

export function pingFrame(): Uint8Array {
  return Uint8Array.of(0x01);
}

/** A STREAM frame with an offset and a length. */
export function streamFrame(id: number, offset: number, data: Uint8Array): Uint8Array {
  const front = [0x0e, ...encodeVarint(id), ...encodeVarint(offset), ...encodeVarint(data.length)];
  return concat(Uint8Array.from(front), data);
}

export function cryptoFrame(offset: number, data: Uint8Array): Uint8Array {
  return concat(
    Uint8Array.of(0x06, ...encodeVarint(offset), ...encodeVarint(data.length)),
    data,
  );
}

/** @param connectionId 1 to 20 bytes */
export function newConnectionIdFrame(
  sequenceNumber: number,
  retirePriorTo: number,
  connectionId: Uint8Array,
): Uint8Array {
  const front = [0x18, ...encodeVarint(sequenceNumber), ...encodeVarint(retirePriorTo)];
  return Uint8Array.of(...front, connectionId.length, ...connectionId, ...new Uint8Array(16));
}

export function retireConnectionIdFrame(sequenceNumber: number): Uint8Array {
  return Uint8Array.of(0x19, ...encodeVarint(sequenceNumber));
}

/** @param data 8 bytes */
export function pathChallengeFrame(data: Uint8Array): Uint8Array {
  return concat(Uint8Array.of(0x1a), data);
}
