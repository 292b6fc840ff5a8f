// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { Body, type Framing } from "../../../lib/tunnel/http/body.ts";
import { MalformedError } from "../../../lib/tunnel/http/malformed_error.ts";
import { runs } from "../../support/fuzz.ts";
import { bytesOf, textOf } from "../../support/push_parser.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `Body${name}`, permissions: "none", fn });
}

/** How many of the bytes belong to the content when they come in pieces of a size. */
function take(framing: Framing, text: string, pieceBytes = text.length || 1) {
  const body = new Body(framing);
  let taken = 0;
  for (let i = 0; i < text.length && !body.isComplete; i += pieceBytes) {
    taken += body.take(bytesOf(text.slice(i, i + pieceBytes)));
  }
  return { taken, isComplete: body.isComplete, mayEnd: body.mayEnd };
}

const whole = (text: string) => ({ taken: text.length, isComplete: true, mayEnd: true });

test(" ends at its length, at its last chunk, or never", () => {
  assertEquals(take(0, "abc"), { taken: 0, isComplete: true, mayEnd: true });
  assertEquals(take(3, "abcGET /"), whole("abc"));
  assertEquals(take(5, "abc"), { taken: 3, isComplete: false, mayEnd: false });
  assertEquals(take("close", "abc"), { taken: 3, isComplete: false, mayEnd: true });
  for (
    const chunks of [
      "0\r\n\r\n",
      "3\r\nabc\r\n0\r\n\r\n",
      '0000a;x="y";z\r\n0123456789\r\nB\r\n\r\n\r\n\r\n\r\n\r\nx\r\n000\r\n\r\n',
      "1\r\na\r\n0\r\nTrailer: value\r\nX:\r\n\r\n",
    ]
  ) {
    assertEquals(take("chunked", `${chunks}GET /`), whole(chunks), chunks);
    assertEquals(take("chunked", chunks.slice(0, -1)).isComplete, false);
  }
});

test(" refuses chunks that another reader might end elsewhere", () => {
  const cases = {
    "a chunk has no size": ["\r", ";", "x", "-1", " 1", "3\r\nabc\r\n\r"],
    "in a chunk's size": ["1 ", "1\n", "1g", "0x1", "1\t;", "1_0"],
    "too long": ["1".repeat(14), "0".repeat(14)],
    "after the CR of a chunk's size": ["1\rx", "1\r\r", "1;a\rb"],
    "after a chunk's data": ["1\r\nab", "1\r\na\n", "1\r\na\rb", "0001\r\naa\r"],
    "in a chunk extension": ["1;a\n", "1;\0", "1;\x7f"],
    "is longer than 4096 bytes": [`1;${"a".repeat(4_097)}`],
    "in the trailer section": ["0\r\n A: b", "0\r\nA : b", "0\r\n\rx", "0\r\nA: \0"],
    "an LF without CR": ["0\r\n\n", "0\r\nA: b\n", "0\r\nA: b\r\n\n"],
    "is longer than 16384 bytes": [`0\r\n${"A: b\r\n".repeat(3_000)}`],
  };
  for (const [problem, texts] of Object.entries(cases)) {
    for (const text of texts) {
      assertThrows(() => take("chunked", text), MalformedError, problem, JSON.stringify(text));
    }
  }
});

test(" finds the end of any content, whatever the cuts", () => {
  const chunk = fc.record({
    data: fc.uint8Array({ minLength: 1, maxLength: 40 }).map(textOf),
    zeros: fc.integer({ min: 0, max: 3 }),
    extension: fc.constantFrom("", ";a", ';name="quoted; 1"'),
  });
  const content = fc.oneof(
    fc.uint8Array({ maxLength: 60 }).map((bytes) => ({
      framing: bytes.length as Framing,
      text: textOf(bytes),
    })),
    fc.record({
      chunks: fc.array(chunk, { maxLength: 5 }),
      trailer: fc.constantFrom("", "A: b\r\n", "A: b\r\nC:\r\n"),
    }).map(({ chunks, trailer }) => ({
      framing: "chunked" as Framing,
      text: [
        ...chunks.map(({ data, zeros, extension }) =>
          `${"0".repeat(zeros)}${data.length.toString(16)}${extension}\r\n${data}\r\n`
        ),
        `0\r\n${trailer}\r\n`,
      ].join(""),
    })),
  );
  fc.assert(
    fc.property(content, fc.uint8Array({ maxLength: 20 }), fc.integer({ min: 1, max: 50 }), (
      { framing, text },
      rest,
      pieceBytes,
    ) => {
      assertEquals(take(framing, `${text}${textOf(rest)}`, pieceBytes), whole(text));
    }),
    runs(1000),
  );
});

test(" judges any bytes in the same way, whatever the cuts", () => {
  const noise = fc.array(
    fc.oneof(
      fc.constantFrom("1", "a", "0", ";", "\r\n", "\n", "\r", "x", "0\r\n\r\n", "A: b\r\n"),
      fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)),
    ),
    { maxLength: 30 },
  ).map((parts) => parts.join(""));
  const judge = (text: string, pieceBytes: number) => {
    try {
      return take("chunked", text, pieceBytes);
    } catch (error) {
      if (error instanceof MalformedError) return error.message;
      throw error;
    }
  };
  fc.assert(
    fc.property(noise, fc.integer({ min: 1, max: 5 }), (text, pieceBytes) => {
      assertEquals(judge(text, pieceBytes), judge(text, text.length || 1));
    }),
    runs(5000),
  );
});
