// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { formatAuthority } from "./authority.ts";
import { describeCertificate } from "./certificate.ts";
import type { QuicConnection } from "./quic/mod.ts";
import type { Agent } from "./registry.ts";

/** An agent that is connected to this server. */
export class ConnectedAgent implements Agent {
  readonly name: string;
  readonly #draining = new AbortController();

  constructor(readonly connection: QuicConnection) {
    this.name = nameOf(connection.peerCertificates?.[0]);
  }

  get hasCredit(): boolean {
    return this.connection.hasStreamCredit;
  }

  /** Aborts when the agent takes no further tunnels. */
  get draining(): AbortSignal {
    return this.#draining.signal;
  }

  drain(): void {
    this.#draining.abort(new Error(`agent ${this.name} drains`));
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
