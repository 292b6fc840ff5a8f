// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Classes of bytes in HTTP/1 messages (RFC 9110 §5.6, RFC 9112 §2). */

export const HTAB = 0x09;
export const LF = 0x0a;
export const CR = 0x0d;
export const SP = 0x20;

/** CR or LF. */
export function isLineEnd(byte: number): boolean {
  return byte === CR || byte === LF;
}

/** A decimal digit. */
export function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}

/** VCHAR of RFC 5234 appendix B.1. */
export function isVisible(byte: number): boolean {
  return byte > SP && byte < 0x7f;
}

/** A byte of a token: visible characters without the delimiters (RFC 9110 §5.6.2). */
export function isTokenByte(byte: number): boolean {
  return TOKEN_BYTES[byte] === 1;
}

/** A byte of a field value or a reason phrase: text, spaces, tabs and what is beyond ASCII. */
export function isTextByte(byte: number): boolean {
  return isVisible(byte) || byte === SP || byte === HTAB || byte >= 0x80;
}

/** Writes a byte for an error message, such as `0x0a`. */
export function hex(byte: number): string {
  return `0x${byte.toString(16).padStart(2, "0")}`;
}

const DELIMITERS = new TextEncoder().encode('"(),/:;<=>?@[\\]{}');

const TOKEN_BYTES = Uint8Array.from(
  { length: 256 },
  (_, byte) => isVisible(byte) && !DELIMITERS.includes(byte) ? 1 : 0,
);
