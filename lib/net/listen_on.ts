// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Binds a listener. An empty host stands for all interfaces, of both families: `::`, or IPv4 alone
 * where the machine has no IPv6, or on Windows, where a socket has one family.
 *
 * @throws what `open` throws
 */
export function listenOn<T>(hostname: string, open: (hostname: string) => T): T {
  if (hostname !== "") return open(hostname);
  if (Deno.build.os === "windows") return open("0.0.0.0");
  try {
    return open("::");
  } catch (error) {
    const { code } = error as { readonly code?: string };
    if (code !== "EAFNOSUPPORT" && code !== "EADDRNOTAVAIL") throw error;
    return open("0.0.0.0");
  }
}
