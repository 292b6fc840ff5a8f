// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { TlsIdentity, TlsSource } from "../quic/mod.ts";
import type { TlsMaterial } from "./material.ts";

/** Addresses of peers that are remembered at most. */
const MAX_HOSTS = 1_000;

/**
 * Certificates and key, with the CA certificates in the order that suits each peer.
 *
 * Where two CAs have one name, and the peer's certificate has no key identifier, the TLS library
 * tries the first one only. The order can be chosen only after such a handshake has failed: it is
 * remembered for the next one with that address.
 */
export class AnchorChoice implements TlsSource {
  readonly #byHost = new Map<string, TlsIdentity>();

  constructor(readonly current: TlsMaterial) {}

  identityFor(hostname: string): TlsIdentity {
    return this.#byHost.get(hostname) ?? this.current;
  }

  refused(hostname: string, chain: readonly Uint8Array[]): boolean {
    const fitting = this.current.trusting(chain);
    if (!fitting || fitting === this.identityFor(hostname)) return false;
    this.#byHost.delete(hostname);
    this.#byHost.set(hostname, fitting);
    if (this.#byHost.size > MAX_HOSTS) this.#byHost.delete(this.#byHost.keys().next().value!);
    return true;
  }
}
