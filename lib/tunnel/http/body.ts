// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Where the content of an HTTP/1 message ends (RFC 9112 §6 and §7). */
import { MalformedError } from "./malformed_error.ts";
import { CR, hex, isTextByte, LF, SP } from "./characters.ts";
import { FieldLinesParser } from "./field_lines.ts";

/** How content is delimited: by a length in bytes, by chunks, or by the end of the connection. */
export type Framing = number | "chunked" | "close";

/** Longest line with a chunk's size, and longest trailer section, in bytes. */
const MAX_SIZE_LINE_BYTES = 4_096;
const MAX_TRAILER_BYTES = 16_384;

/** Digits of a chunk's size: what a number holds exactly. */
const MAX_SIZE_DIGITS = 13;

const SEMICOLON = 0x3b;

type State = "size" | "extension" | "sizeLf" | "data" | "dataCr" | "dataLf" | "trailer";

/**
 * Finds the end of a message's content in bytes that come in pieces. The bytes are not altered.
 * Lines between and behind chunks end in CRLF alone: where a lone LF ends one depends on the reader,
 * which is how requests are smuggled.
 */
export class Body {
  readonly #framing: Framing;
  /** Bytes of the content, or of the chunk, that are still to come. */
  #left: number;
  #state: State = "size";
  #digits = 0;
  #lineBytes = 0;
  #trailer: FieldLinesParser | undefined;
  /** Whether the last byte of the trailer section was a CR. */
  #isAfterCr = false;
  #isComplete: boolean;

  constructor(framing: Framing) {
    this.#framing = framing;
    this.#left = typeof framing === "number" ? framing : 0;
    this.#isComplete = framing === 0;
  }

  /** Whether all of it has been taken. Content that the connection's end delimits never is. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** Whether the end of the connection ends it in order. */
  get mayEnd(): boolean {
    return this.#isComplete || this.#framing === "close";
  }

  /**
   * Takes the next bytes.
   *
   * @returns how many of them, from the front, belong to the message
   * @throws {MalformedError} when they are no valid chunks
   */
  take(bytes: Uint8Array): number {
    if (this.#isComplete) return 0;
    if (this.#framing === "close") return bytes.length;
    if (this.#framing === "chunked") return this.#takeChunks(bytes);
    const n = Math.min(this.#left, bytes.length);
    this.#left -= n;
    this.#isComplete = this.#left === 0;
    return n;
  }

  #takeChunks(bytes: Uint8Array): number {
    for (let i = 0; i < bytes.length;) {
      if (this.#state === "data") {
        const n = Math.min(this.#left, bytes.length - i);
        this.#left -= n;
        i += n;
        if (this.#left === 0) this.#state = "dataCr";
        continue;
      }
      this.#step(bytes[i++]!);
      if (this.#isComplete) return i;
    }
    return bytes.length;
  }

  #step(byte: number): void {
    switch (this.#state) {
      case "size":
        return this.#onSize(byte);
      case "extension":
        return this.#onExtension(byte);
      case "sizeLf":
        expect(byte, LF, "after the CR of a chunk's size");
        return this.#begin();
      case "dataCr":
        expect(byte, CR, "after a chunk's data");
        this.#state = "dataLf";
        return;
      case "dataLf":
        expect(byte, LF, "after a chunk's data");
        this.#state = "size";
        this.#digits = this.#lineBytes = 0;
        return;
      case "trailer":
        return this.#onTrailer(byte);
    }
  }

  #onSize(byte: number): void {
    const digit = hexDigit(byte);
    if (digit !== undefined) {
      if (++this.#digits > MAX_SIZE_DIGITS) throw new MalformedError("a chunk's size is too long");
      this.#left = this.#left * 16 + digit;
      return;
    }
    if (this.#digits === 0) throw new MalformedError("a chunk has no size");
    if (byte === CR) this.#state = "sizeLf";
    else if (byte === SEMICOLON) this.#state = "extension";
    else throw new MalformedError(`byte ${hex(byte)} in a chunk's size`);
  }

  #onExtension(byte: number): void {
    if (byte === CR) this.#state = "sizeLf";
    else if (!isTextByte(byte)) throw new MalformedError(`byte ${hex(byte)} in a chunk extension`);
    else if (++this.#lineBytes > MAX_SIZE_LINE_BYTES) {
      throw new MalformedError(`a chunk extension is longer than ${MAX_SIZE_LINE_BYTES} bytes`);
    }
  }

  #begin(): void {
    if (this.#left > 0) {
      this.#state = "data";
      return;
    }
    this.#state = "trailer";
    this.#trailer = new FieldLinesParser(false);
    this.#lineBytes = 0;
  }

  #onTrailer(byte: number): void {
    if (++this.#lineBytes > MAX_TRAILER_BYTES) {
      throw new MalformedError(`the trailer section is longer than ${MAX_TRAILER_BYTES} bytes`);
    }
    if (byte === LF && !this.#isAfterCr) {
      throw new MalformedError("in the trailer section: an LF without CR");
    }
    this.#isAfterCr = byte === CR;
    const verdict = this.#trailer!.step(byte);
    if (verdict === "end") this.#isComplete = true;
    else if (verdict) throw new MalformedError(`in the trailer section: ${verdict.problem}`);
  }
}

function expect(byte: number, expected: number, where: string): void {
  if (byte !== expected) throw new MalformedError(`byte ${hex(byte)} ${where}`);
}

function hexDigit(byte: number): number | undefined {
  if (byte <= SP || byte > 0x7f) return undefined;
  const digit = Number.parseInt(String.fromCharCode(byte), 16);
  return Number.isNaN(digit) ? undefined : digit;
}
