// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { formatAuthority } from "../net/authority.ts";
import type { ConnectionStats, QuicConnection } from "../quic/mod.ts";
import { type Peer, RESPONSIVE_MS } from "./monitor.ts";

/** The peer at the other end of a QUIC connection that is established. */
export abstract class ConnectedPeer implements Peer {
  abstract readonly name: string;
  abstract readonly isDraining: boolean;
  readonly since = Date.now();
  readonly alpn: string;

  constructor(readonly connection: QuicConnection) {
    this.alpn = connection.alpn;
  }

  get address(): string {
    return formatAuthority(this.connection.remoteAddr);
  }

  get isResponsive(): boolean {
    return this.connection.silentForMs < RESPONSIVE_MS;
  }

  stats(): ConnectionStats {
    return this.connection.stats();
  }
}
