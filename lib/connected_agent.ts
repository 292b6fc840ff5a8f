// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { formatAuthority } from "./authority.ts";
import { describeCertificate } from "./certificate.ts";
import type { Control } from "./qrht/control.ts";
import type { QuicConnection, QuicStream } from "./quic/mod.ts";
import type { Agent } from "./registry.ts";

/** Agents send a PING every 2 s. One that is silent for longer than this may have vanished. */
const RESPONSIVE_MS = 3_000;

/** An agent that is connected to this server. */
export class ConnectedAgent implements Agent<QuicStream> {
  readonly name: string;
  /** Its control streams, in the dialect that has some. */
  control: Control | undefined;

  constructor(readonly connection: QuicConnection) {
    this.name = nameOf(connection.peerCertificates?.[0]);
  }

  get hasCredit(): boolean {
    return this.connection.hasStreamCredit;
  }

  get isResponsive(): boolean {
    return this.connection.silentForMs < RESPONSIVE_MS;
  }

  get load(): number {
    return this.connection.streamCount;
  }

  open(): QuicStream {
    return this.connection.openStreamNow();
  }

  credit(): Promise<void> {
    return this.connection.credit();
  }

  get fields() {
    const { host, port } = this.connection.remoteAddr;
    return {
      agent: this.name,
      remote: formatAuthority({ hostname: host, port }),
      connection: this.connection.number,
    };
  }
}

function nameOf(certificate: Uint8Array | undefined): string {
  try {
    return certificate ? describeCertificate(certificate).names[0] ?? "" : "";
  } catch {
    // BoringSSL has accepted it; that this end cannot read its names takes nothing from that.
    return "";
  }
}
