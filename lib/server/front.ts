// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Fronts: the listeners of a server that clients connect to. */
import type { SocketAddress } from "../net/ip_address.ts";
import type { Duplex } from "../tunnel/duplex.ts";

/** What clients speak below the tunnel's bytes. */
export type FrontKind = "tcp" | "tls" | "unix";

/** A connection of a client. */
export interface FrontClient {
  /** Its bytes. */
  readonly carrier: Duplex;
  /** Where it connects from; undefined where clients have no address. */
  readonly remote?: SocketAddress | undefined;
  /** Where it has connected to. */
  readonly local?: SocketAddress | undefined;
  /** Name in the certificate that it has presented. */
  readonly name?: string | undefined;
}

/** A listener for clients. */
export interface Front {
  readonly kind: FrontKind;
  /** Where it listens, for the log. */
  readonly address: string;
  /**
   * Waits for the next client.
   *
   * @throws one of `Deno.errors.ConnectionAborted`, `ConnectionReset` and `NotConnected` when that
   * client is gone already, else when none can be accepted now
   */
  accept(): Promise<FrontClient>;
  /** Stops listening. Idempotent. */
  close(): void;
}
