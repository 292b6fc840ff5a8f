// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * An agent's tunnels leave some file descriptors free: for the admin listener, certificate files, lookups of
 * names and connections to servers. Where the limit is not known, as without the C library, they
 * leave none.
 */
import { descriptorLimit } from "./libc.ts";

/** Descriptors that are left free, of a limit that is not low. */
const MAX_RESERVED = 64;

const limit = descriptorLimit();

/** The first descriptor that no tunnel gets. As the lowest free one is used, all below are open. */
export const firstReserved = limit - Math.min(MAX_RESERVED, Math.floor(limit / 4));

/** A tunnel gets no descriptor, although there are some. */
export class TooManyFilesError extends Error {
  override readonly name = "TooManyFilesError";
  /** As the system's own error. */
  readonly code = "EMFILE";
  constructor() {
    super(`Too many open files: ${firstReserved} of ${limit} descriptors are open`);
  }
}
