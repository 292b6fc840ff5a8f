// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { isAllocated, isMallocReplaced, libc } from "../../net/libc.ts";
import type { NativeConnection } from "./native.ts";

/** The first and the last Deno that is known to need {@linkcode takePacket}. */
const LOSING = { first: "2.7.11", last: "2.9.6" };

/** What Deno allocates for an external value. */
const EXTERNAL_BYTES = 32;

let free = losesExternals(Deno.version.deno) && !isMallocReplaced() ? libc?.free : undefined;

/** Whether one such value has been looked at. */
let isChecked = false;

/**
 * Takes the next packet that quiche has to send; returns its length, 0 when there is none.
 *
 * The binding gives the time at which a packet should leave as an opaque value (Node-API's
 * "external"), for which Deno allocates 32 bytes that it never frees: 35 MB for each GB that is
 * sent in datagrams of 1350 bytes. Nothing reads these values here, and Deno does not need the
 * allocation to collect them, so it is freed at once. Can go when Deno frees it. For another Deno
 * than those that were looked at, and where another allocator takes the place of the C library's,
 * which the first value shows, nothing is freed.
 *
 * @throws what the binding throws
 */
export function takePacket(native: Pick<NativeConnection, "send">, buffer: Uint8Array): number {
  const sent = native.send(buffer);
  if (!sent) return 0;
  if (free) freeExternal(sent[1].at as unknown as Deno.PointerValue);
  return sent[0];
}

function freeExternal(external: Deno.PointerValue): void {
  if (!isChecked && !isAllocated(external, EXTERNAL_BYTES)) free = undefined;
  isChecked = true;
  free?.(external);
}

/** Whether a version of Deno is known to lose what it allocates for external values. */
export function losesExternals(version: string): boolean {
  const number = numberOf(version);
  return number >= numberOf(LOSING.first) && number <= numberOf(LOSING.last);
}

/** A version as a number that grows with it; NaN for what is no release. */
function numberOf(version: string): number {
  const parts = /^(\d+)\.(\d+)\.(\d+)$/.exec(version)?.slice(1) ?? [];
  return parts.length === 0 ? NaN : parts.reduce((sum, part) => sum * 1_000 + Number(part), 0);
}
