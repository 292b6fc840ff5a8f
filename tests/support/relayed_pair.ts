// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../lib/net/authority.ts";
import type { ListenOptions, TransportOptions } from "../../lib/quic/mod.ts";
import { connectPair, type QuicPair } from "./quic.ts";
import { UdpRelay, type UdpRelayOptions } from "./udp_relay.ts";

/**
 * Runs a test's body with two ends that are connected through a relay; both are gone when it settles.
 *
 * @throws {Error} the body's failure, with the relay's seed and counters in the message
 */
export async function withRelayedPair<T>(
  options: UdpRelayOptions,
  ends: { server?: Partial<ListenOptions>; client?: Partial<TransportOptions> },
  body: (pair: QuicPair, relay: UdpRelay) => Promise<T>,
): Promise<T> {
  let relay: UdpRelay | undefined;
  const via = (server: Authority) => (relay = new UdpRelay(server, options)).addr;
  try {
    await using pair = await connectPair({ ...ends, via });
    return await body(pair, relay!);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(`${message} (${relay})`, { cause: error });
  } finally {
    await relay?.[Symbol.asyncDispose]();
  }
}
