// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The field lines of an HTTP/1 message, up to the empty line behind them (RFC 9112 §5). */
import { CR, hex, HTAB, isLineEnd, isTextByte, isTokenByte, LF, SP } from "./characters.ts";

/** A field line. Of the value, each character stands for one byte; whitespace around it is gone. */
export type FieldLine = readonly [name: string, value: string];

/** What is wrong with a message, in words fit for a reason phrase. */
export interface Malformed {
  readonly problem: string;
}

const COLON = 0x3a;

type State = "start" | "name" | "value" | "lf" | "endLf";

/**
 * Reads field lines byte by byte. A lone LF ends a line as CRLF does (RFC 9112 §2.2). Folded lines
 * (§5.2), whitespace before the colon (§5.1) and control characters are malformed.
 */
export class FieldLinesParser {
  /** The lines so far, if they are kept. */
  readonly lines: FieldLine[] = [];
  readonly #isKept: boolean;
  #state: State = "start";
  #name = "";
  #value = "";

  /** @param isKept whether lines are kept; they are held to their grammar in any case */
  constructor(isKept: boolean) {
    this.#isKept = isKept;
  }

  /** Takes a byte; `end` is the last one of the empty line. */
  step(byte: number): "end" | Malformed | undefined {
    switch (this.#state) {
      case "start":
        return this.#onStart(byte);
      case "name":
        return this.#onName(byte);
      case "value":
        return this.#onValue(byte);
      case "lf":
        if (byte !== LF) return BARE_CR;
        return this.#endLine();
      case "endLf":
        return byte === LF ? "end" : BARE_CR;
    }
  }

  #onStart(byte: number): "end" | Malformed | undefined {
    if (byte === LF) return "end";
    if (byte === CR) {
      this.#state = "endLf";
      return undefined;
    }
    if (byte === SP || byte === HTAB) return { problem: "a field line begins with whitespace" };
    if (!isTokenByte(byte)) return badNameByte(byte);
    this.#state = "name";
    return this.#keepName(byte);
  }

  #onName(byte: number): Malformed | undefined {
    if (isTokenByte(byte)) return this.#keepName(byte);
    if (byte === SP || byte === HTAB) return { problem: "whitespace in or after a field name" };
    if (isLineEnd(byte)) return { problem: "a field line has no colon" };
    if (byte !== COLON) return badNameByte(byte);
    this.#state = "value";
    return undefined;
  }

  #onValue(byte: number): Malformed | undefined {
    if (byte === LF) return this.#endLine();
    if (byte === CR) this.#state = "lf";
    else if (!isTextByte(byte)) return { problem: `byte ${hex(byte)} in a field value` };
    else if (this.#isKept) this.#value += String.fromCharCode(byte);
    return undefined;
  }

  #keepName(byte: number): undefined {
    if (this.#isKept) this.#name += String.fromCharCode(byte);
  }

  #endLine(): undefined {
    this.#state = "start";
    if (!this.#isKept) return;
    this.lines.push([this.#name, this.#value.replace(/^[ \t]+|[ \t]+$/g, "")]);
    this.#name = this.#value = "";
  }
}

/** A CR that no LF follows. */
export const BARE_CR: Malformed = { problem: "a CR without LF" };

function badNameByte(byte: number): Malformed {
  return { problem: `byte ${hex(byte)} in a field name` };
}
