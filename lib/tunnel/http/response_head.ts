// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { CR, isTextByte, LF } from "./characters.ts";
import { type FieldLine, FieldLinesParser } from "./field_lines.ts";
import { MalformedError } from "./malformed_error.ts";

/** The head of a response (RFC 9112 §4). */
export interface ResponseHead {
  readonly status: number;
  /** Each character stands for one byte. */
  readonly reason: string;
  /** Minor version of HTTP/1. */
  readonly minor: number;
  readonly fields: readonly FieldLine[];
}

/** Longest head, in bytes. */
const MAX_HEAD_BYTES = 65_536;

/**
 * Reads the head of one response, in chunks of any size. A lone LF ends a line as CRLF does.
 */
export class ResponseHeadParser {
  #statusLine: string | undefined;
  #line = "";
  #isAfterCr = false;
  #length = 0;
  readonly #fields = new FieldLinesParser(true);

  /**
   * Takes the next bytes.
   *
   * @returns the head and how many of the bytes, from the front, belong to it; undefined as long as
   * it is not complete
   * @throws {MalformedError} when it is not valid, or longer than 64 KiB
   */
  push(bytes: Uint8Array): { head: ResponseHead; length: number } | undefined {
    for (let i = 0; i < bytes.length; i++) {
      if (++this.#length > MAX_HEAD_BYTES) {
        throw new MalformedError(`the head is longer than ${MAX_HEAD_BYTES} bytes`);
      }
      if (this.#statusLine === undefined) this.#onStatusLine(bytes[i]!);
      else {
        const verdict = this.#fields.step(bytes[i]!);
        if (verdict === "end") return { head: this.#head(), length: i + 1 };
        if (verdict) throw new MalformedError(verdict.problem);
      }
    }
    return undefined;
  }

  #onStatusLine(byte: number): void {
    if (byte === LF) {
      this.#statusLine = this.#line;
      this.#head();
      return;
    }
    if (this.#isAfterCr || (byte !== CR && !isTextByte(byte))) throw noStatusLine();
    if (byte === CR) this.#isAfterCr = true;
    else this.#line += String.fromCharCode(byte);
    if (!"HTTP/1.".startsWith(this.#line.slice(0, 7))) throw noStatusLine();
  }

  #head(): ResponseHead {
    const match = /^HTTP\/1\.([0-9]) ([1-5][0-9]{2})(?: (.*))?$/.exec(this.#statusLine!);
    if (!match) throw noStatusLine();
    const [, minor, status, reason = ""] = match;
    return { status: Number(status), reason, minor: Number(minor), fields: this.#fields.lines };
  }
}

function noStatusLine(): MalformedError {
  return new MalformedError("no status line of HTTP/1");
}
