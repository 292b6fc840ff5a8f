// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { isV6OnlyByDefault } from "./libc.ts";

/**
 * Binds a listener. An empty host stands for all interfaces, of both families: `::`, or IPv4 alone
 * where the machine has no IPv6, or a socket has one family.
 *
 * @param isV6Only whether a socket that is bound to `::` takes IPv6 alone, as on Windows and with
 * `net.ipv6.bindv6only`: Deno has no option against it
 * @throws what `open` throws
 */
export function listenOn<T>(
  hostname: string,
  open: (hostname: string) => T,
  isV6Only = Deno.build.os === "windows" || isV6OnlyByDefault(),
): T {
  if (hostname !== "") return open(hostname);
  if (isV6Only) return open("0.0.0.0");
  try {
    return open("::");
  } catch (error) {
    const { code } = error as { readonly code?: string };
    if (code !== "EAFNOSUPPORT" && code !== "EADDRNOTAVAIL") throw error;
    return open("0.0.0.0");
  }
}
