// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { formatAuthority } from "../net/authority.ts";
import {
  type AgentConnection,
  MAX_UNI_STREAMS,
  type PeerStats,
  type QuicLibrary,
} from "../quic/mod.ts";
import { speaksQrht } from "../qrht/dialect.ts";
import { type Peer, RESPONSIVE_MS } from "./monitor.ts";

/** The peer at the other end of a QUIC connection that is established. */
export abstract class ConnectedPeer<Connection extends AgentConnection = AgentConnection>
  implements Peer {
  abstract readonly name: string;
  abstract readonly isDraining: boolean;
  readonly nextUdpTrialAt?: number | undefined;
  readonly groups?: readonly string[];
  readonly since = Date.now();
  readonly alpn: string;
  readonly library?: QuicLibrary;

  constructor(readonly connection: Connection) {
    this.alpn = connection.alpn;
  }

  get address(): string {
    return formatAuthority(this.connection.remoteAddr);
  }

  get transport(): "udp" | "tcp" {
    return this.connection.isCarried ? "tcp" : "udp";
  }

  get isResponsive(): boolean {
    return !this.connection.isDoubted && this.connection.silentForMs < RESPONSIVE_MS;
  }

  /**
   * Whether the peer may abandon streams: the Go programs end what they send, and then neither read
   * nor stop (RFC 9000, Section 3.5) what still comes. They show by what they grant: 10 000
   * unidirectional streams, where ends of this project grant a few.
   */
  get mayAbandonStreams(): boolean {
    return !speaksQrht(this.alpn) && this.connection.uniCredit > MAX_UNI_STREAMS;
  }

  stats(): PeerStats {
    return this.connection.stats();
  }
}
