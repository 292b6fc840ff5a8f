// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { sleep } from "./wait.ts";

/** Time after which others have their turn, in milliseconds. */
const SLICE_MS = 2;

/**
 * Goes through items, and lets the event loop turn whenever that has taken a slice of time. What
 * takes long altogether then keeps nothing else waiting for long.
 *
 * @param sliceMs how long others wait, beside one item @default {2}
 *
 * @example
 * ```ts
 * import { inSlices } from "./slices.ts";
 * import { assertEquals } from "@std/assert";
 *
 * let sum = 0;
 * for await (const item of inSlices([1, 2, 3])) sum += item;
 * assertEquals(sum, 6);
 * ```
 */
export async function* inSlices<T>(items: Iterable<T>, sliceMs = SLICE_MS): AsyncGenerator<T> {
  let until = performance.now() + sliceMs;
  for (const item of items) {
    if (performance.now() >= until) {
      await sleep(0);
      until = performance.now() + sliceMs;
    }
    yield item;
  }
}
