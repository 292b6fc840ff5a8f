// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import fc from "fast-check";
import { concat } from "./bytes.ts";

/** One byte per character. */
export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** One character per byte. */
export function textOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

/** What a parser says of all bytes so far; with the `rest` behind its end when it has come to that. */
interface Result {
  readonly kind: string;
  readonly rest?: Uint8Array;
}

/** Pushes the pieces between `cuts`, until the parser wants no more, and adds those left over to the rest. */
export function pushInPieces<R extends Result>(
  parser: { push(chunk: Uint8Array): R },
  bytes: Uint8Array,
  cuts: readonly number[],
): R {
  const ends = [...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  let start = 0;
  for (const end of ends) {
    const piece = bytes.slice(start, end);
    const result = parser.push(piece);
    // The caller's buffer is free at once.
    piece.fill(0xff);
    if (result.rest) return { ...result, rest: concat(result.rest, bytes.subarray(end)) };
    if (result.kind === "reject") return result;
    start = end;
  }
  return parser.push(new Uint8Array(0));
}

export const someCuts = fc.array(fc.nat(), { maxLength: 12 });

/** A cut behind each byte. */
export function everyCut(bytes: Uint8Array): number[] {
  return Array.from({ length: bytes.length }, (_, index) => index);
}
