// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { MAX_BUFFER_BYTES, MIN_BUFFER_BYTES, ReadBuffer } from "../../lib/tunnel/read_buffer.ts";

const pure = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });

/** A buffer that full reads have made as large as it gets. */
function largest(): ReadBuffer {
  const buffer = new ReadBuffer();
  while (buffer.bytes.length < MAX_BUFFER_BYTES) buffer.filled(buffer.bytes.length);
  return buffer;
}

pure("ReadBuffer begins small, and grows while reads fill it, up to the largest", () => {
  const buffer = new ReadBuffer();
  const sizes = new Set<number>();
  for (let i = 0; i < 10; i++) {
    sizes.add(buffer.bytes.length);
    buffer.filled(buffer.bytes.length);
  }
  assertEquals([...sizes], [MIN_BUFFER_BYTES, 2048, 8192, 32768, MAX_BUFFER_BYTES]);
});

pure("ReadBuffer stays as it is while some reads are large, however many are small", () => {
  const buffer = largest();
  for (let i = 0; i < 1_000; i++) {
    buffer.filled(i % 8 === 7 ? MAX_BUFFER_BYTES / 2 : 100);
    assertEquals(buffer.bytes.length, MAX_BUFFER_BYTES);
  }
});

pure("ReadBuffer shrinks to the smallest when all reads are small", () => {
  const buffer = largest();
  let reads = 0;
  for (; buffer.bytes.length > MIN_BUFFER_BYTES; reads++) buffer.filled(100);
  assert(reads > 16 && reads < 100, `after ${reads} reads`);
  for (let i = 0; i < 100; i++) buffer.filled(100);
  assertEquals(buffer.bytes.length, MIN_BUFFER_BYTES);
});

pure("ReadBuffer hands what it is done with to the next that grows as large, to one alone", () => {
  const first = largest();
  const { bytes } = first;
  first.release();
  const [second, third] = [largest(), largest()];
  assert(second.bytes === bytes && third.bytes !== bytes);
});
