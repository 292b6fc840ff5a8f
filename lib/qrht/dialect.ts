// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What server and agent speak on a connection, which its ALPN name tells (docs/protocol.md). */

/** ALPN name of this project's own dialect. */
export const QRHT_ALPN = "qrht/1";

/** ALPN name of the Go programs, whose dialect is raw bytes. */
export const RAW_ALPN = "quic-echo-example";

/** Every name but that of the own dialect stands for raw bytes: operators of the Go programs may have changed theirs. */
export function speaksQrht(alpn: string): boolean {
  return alpn === QRHT_ALPN;
}

/** Connections by the ALPN name that they speak. */
export class DialectCount {
  readonly #counts = new Map<string, { now: number; ever: number }>();

  opened(alpn: string): void {
    const count = this.of(alpn);
    this.#counts.set(alpn, { now: count.now + 1, ever: count.ever + 1 });
  }

  closed(alpn: string): void {
    const count = this.of(alpn);
    this.#counts.set(alpn, { ...count, now: count.now - 1 });
  }

  /** How many there are now, and have been ever. */
  of(alpn: string): { readonly now: number; readonly ever: number } {
    return this.#counts.get(alpn) ?? { now: 0, ever: 0 };
  }
}
