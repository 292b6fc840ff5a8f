// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the two ends of a tunnel see of its end. */

import { assertEquals } from "@std/assert";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { canResetTcp } from "./can_reset_tcp.ts";
import { assertReads, sendText } from "./network.ts";

/** How a party's bytes ended. */
export type Sees = "end" | "reset";

/** What a party sees of a tunnel that was cut off: where there are no resets, they look like ends. */
export const RESET: Sees = canResetTcp ? "reset" : "end";

/** Reads up to the end, whichever it is. */
export async function lookAt(end: Duplex): Promise<Sees> {
  const buffer = new Uint8Array(64 << 10);
  try {
    while (await end.read(buffer) !== null);
    return "end";
  } catch {
    return "reset";
  }
}

/** One side ends, the other goes on, and ends as well. */
export async function endInOrder(first: Duplex, second: Duplex): Promise<void> {
  await first.closeWrite();
  assertEquals(await lookAt(second), "end");
  for (const message of ["late", "later"]) {
    await sendText(second, message);
    await assertReads(first, message);
  }
  await second.closeWrite();
  assertEquals(await lookAt(first), "end");
}
