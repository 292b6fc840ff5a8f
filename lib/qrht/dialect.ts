// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What server and agent speak on a connection, which its ALPN name tells (docs/protocol.md). */

/** ALPN name of this project's own dialect. */
export const QRHT_ALPN = "qrht/1";

/** ALPN name of the Go programs, whose dialect is raw bytes. */
export const RAW_ALPN = "quic-echo-example";

/**
 * Every name but that of the own dialect stands for raw bytes: operators of the Go programs may
 * have changed theirs.
 */
export function speaksQrht(alpn: string): boolean {
  return alpn === QRHT_ALPN;
}
