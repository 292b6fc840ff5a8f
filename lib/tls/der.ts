// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { concat } from "@std/bytes/concat";

/** An element of DER (X.690). */
export interface DerItem {
  readonly tag: number;
  readonly body: Uint8Array;
  /** With tag and length. */
  readonly whole: Uint8Array;
}

/**
 * The elements of a DER sequence's body (X.690, sections 8.1 and 10.1), as views of it.
 *
 * @throws {TypeError} when an element is truncated, or has a tag or length form not used in
 * certificates
 */
export function derItems(bytes: Uint8Array): DerItem[] {
  const items: DerItem[] = [];
  let at = 0;
  while (at < bytes.length) {
    const start = at;
    const tag = bytes[at++]!;
    let length = bytes[at++] ?? NaN;
    if (length >= 0x80) {
      const count = length & 0x7f;
      if (count === 0 || count > 3) throw new TypeError("invalid DER length");
      length = 0;
      for (let i = 0; i < count; i++) length = length * 256 + (bytes[at++] ?? NaN);
    }
    if ((tag & 0x1f) === 0x1f || !(at + length <= bytes.length)) throw new TypeError("invalid DER");
    const end = at + length;
    items.push({ tag, body: bytes.subarray(at, end), whole: bytes.subarray(start, end) });
    at = end;
  }
  return items;
}

/** The text of a string element: UTF8String, BMPString, or a type with one byte per character. */
export function derText({ tag, body }: DerItem): string {
  const encoding = tag === 0x0c ? "utf-8" : tag === 0x1e ? "utf-16be" : "latin1";
  return new TextDecoder(encoding).decode(body);
}

/** An element of these parts, each encoded already. */
export function encodeDer(tag: number, parts: readonly Uint8Array[]): Uint8Array {
  const body = concat(parts);
  if (body.length < 0x80) return concat([Uint8Array.of(tag, body.length), body]);
  const length = [body.length >> 16, body.length >> 8, body.length].map((byte) => byte & 0xff);
  while (length[0] === 0) length.shift();
  return concat([Uint8Array.of(tag, 0x80 | length.length, ...length), body]);
}
