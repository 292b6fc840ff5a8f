// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { fingerprintOf, peerNamesOf } from "../tls/peer_name.ts";
import type { Control } from "../qrht/control.ts";
import type { QuicConnection, QuicStream } from "../quic/mod.ts";
import { ConnectedPeer } from "../observe/connected_peer.ts";
import type { Agent } from "./registry.ts";

/** An agent that is connected to this server. */
export class ConnectedAgent extends ConnectedPeer<QuicConnection> implements Agent<QuicStream> {
  /** Those in its certificate: DNS names, URIs, common names and IP addresses. */
  readonly names: readonly string[];
  /** Those of them that say which groups it belongs to. */
  readonly entitled: readonly string[];
  /** Whether its certificate has an admitted name. */
  readonly isAllowed: boolean;
  /**
   * Its name in the log: the admitted one, else the first, else the certificate's fingerprint.
   */
  override readonly name: string;
  /** Of its certificate. */
  readonly fingerprint: string;
  /** Whether it has announced that it accepts no more tunnels. */
  override isDraining = false;
  /** Names of the groups that it belongs to, where there are several. */
  override groups: readonly string[] = [];
  /** Its control streams, in the dialect that has some. */
  control: Control | undefined;

  /** @param allowed patterns of admitted names; if empty, every agent is admitted */
  constructor(connection: QuicConnection, allowed: readonly string[] = []) {
    super(connection);
    const certificate = connection.peerCertificates?.[0] ?? NO_BYTES;
    const { names, entitled, isAllowed, name } = peerNamesOf(certificate, allowed);
    this.names = names;
    this.entitled = entitled;
    this.isAllowed = isAllowed;
    this.name = name;
    this.fingerprint = fingerprintOf(certificate);
  }

  /**
   * Has those of these agents probed that may have been started anew as this one, because they have
   * the same certificate; replicas that share one answer.
   */
  doubtPredecessors(agents: Iterable<ConnectedAgent>): void {
    for (const agent of agents) {
      if (agent.fingerprint === this.fingerprint) agent.connection.doubt();
    }
  }

  get hasCredit(): boolean {
    return this.connection.hasStreamCredit;
  }

  get load(): number {
    return this.connection.streamCount;
  }

  open(): QuicStream {
    return this.connection.openStream();
  }

  credit(): Promise<void> {
    return this.connection.credit();
  }

  get fields() {
    return {
      agent: this.name,
      remote: this.address,
      connection: this.connection.number,
      cid: this.connection.id,
    };
  }
}
