// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Hash } from "node:crypto";

/** Size of the large bodies, either way. */
export const LARGE_BYTES = 20_000_000;

/** The value of a `Repr-Digest` field (RFC 9530) for the bytes a SHA-256 was fed. */
export function reprDigest(sha256: Hash): string {
  return `sha-256=:${sha256.digest("base64")}:`;
}
