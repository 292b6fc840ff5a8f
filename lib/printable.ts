// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Text from outside in error messages, reports and pages. The fields of a log line are quoted by
 * `log.ts`.
 */

/** Longest text that is shown whole, in UTF-16 code units. */
const MAX_LENGTH = 128;

/** Characters that break a line, or are not seen in one. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** PEM, and base64 of DER in one line: where a key was given in place of its file's path. */
const KEY_MATERIAL = /-----BEGIN [\s\S]*|^\s*M[A-Za-z0-9+/]{63,}={0,2}[\s\S]*/gm;

/**
 * A text in double quotes: shortened, with nothing in it that a terminal would obey, and without
 * PEM, which may be a private key.
 *
 * @example
 * ```ts
 * import { quote } from "./printable.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(quote('say "hi"\n'), String.raw`"say \"hi\"\n"`);
 * ```
 */
export function quote(text: string): string {
  return escapeUnseen(JSON.stringify(shorten(text.replace(KEY_MATERIAL, "(PEM, not shown)"))));
}

/**
 * A text in which characters that break a line, or are not seen in one, are `\u{…}`.
 *
 * @param kept characters that stay
 */
export function escapeUnseen(text: string, kept = ""): string {
  return text.replace(
    UNSEEN,
    (char) => kept.includes(char) ? char : `\\u{${char.codePointAt(0)!.toString(16)}}`,
  );
}

/** A text in one line: each run of what breaks a line, or is not seen in one, is a space. */
export function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ").trim();
}

/**
 * The beginning of a text, and `…` when that is not all of it.
 *
 * @param length of the beginning, in UTF-16 code units; 128 unless given
 */
export function shorten(text: string, length = MAX_LENGTH): string {
  return text.length > length ? `${text.slice(0, length)}…` : text;
}

/**
 * A text as one word of a command line for a POSIX shell: in single quotes, unless none of its
 * characters means anything there.
 *
 * @example
 * ```ts
 * import { shellWord } from "./printable.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(shellWord("--join=it's"), String.raw`'--join=it'\''s'`);
 * ```
 */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
