// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Tunnels leave some file descriptors free: for the admin listener, certificate files, lookups of
 * names and connections to servers. A tunnel takes one at either end. Where the limit is not known,
 * as without the C library, nothing is left.
 */
import { nextDescriptor, raiseDescriptorLimit } from "./libc.ts";

/** Descriptors that are left free, of a limit that is not low. */
const MAX_RESERVED = 64;

/** RLIMIT_NOFILE; Infinity where it is not known. */
export const descriptors = raiseDescriptorLimit();

/** The first descriptor that no tunnel gets. As the lowest free one is used, all below are open. */
export const firstReserved = descriptors - Math.min(MAX_RESERVED, Math.floor(descriptors / 4));

let tunnels: number | undefined;

/**
 * Tunnels that there are descriptors for, at least 1; Infinity where it is not known. Asked for the
 * first time when the program's listeners are bound.
 */
export function maxTunnels(): number {
  return tunnels ??= Math.max(1, firstReserved - (nextDescriptor() ?? 0));
}

/** A tunnel gets no descriptor, although there are some. */
export class TooManyFilesError extends Error {
  override readonly name = "TooManyFilesError";
  /** As the system's own error. */
  readonly code = "EMFILE";
  constructor() {
    super(`Too many open files: ${firstReserved} of ${descriptors} descriptors are open`);
  }
}
