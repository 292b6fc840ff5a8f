// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../net/authority.ts";
import type { DatagramSocket, OpenDatagramSocket } from "../datagram_socket.ts";
import { parseLongHeader } from "../handshake/packet.ts";
import { MAX_RECEIVED_DATAGRAM_BYTES } from "../options.ts";
import { UdpSocket } from "../udp/socket.ts";

/**
 * Leads the datagrams of one connection of Deno's own QUIC, which takes no socket but its own, to a
 * carrier and back, by a UDP socket on loopback. What finds no room is lost, as UDP loses it.
 */
export class CarrierRelay implements AsyncDisposable {
  /** Resolves, and never rejects, when the carrier is gone and none takes its place. */
  readonly lost: Promise<void>;
  readonly #socket: UdpSocket;
  readonly #carrier: DatagramSocket;
  readonly #peer: Authority;
  /** Where the connection sends from: whoever else sends here is not heard. */
  #client: Authority | undefined;
  /** What ends the connection's handshake, until the server has answered. */
  #refusal: Uint8Array | undefined;

  /**
   * @param open opens the carrier
   * @param peer address of the server
   */
  constructor(open: OpenDatagramSocket, peer: Authority) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.lost = promise;
    this.#peer = peer;
    this.#socket = new UdpSocket(
      { hostname: "127.0.0.1", port: 0, maxDatagramBytes: MAX_RECEIVED_DATAGRAM_BYTES },
      {
        datagram: (bytes, from) => this.#send(bytes, from),
        sendError: () => {},
        writable: () => {},
      },
    );
    this.#carrier = open({
      datagram: (bytes) => {
        this.#refusal = undefined;
        if (this.#client) forward(bytes, this.#socket, this.#client);
      },
      sendError: () => {},
      refused: () => {},
      writable: () => {},
      replaced: () => {},
      lost: () => resolve(),
    });
  }

  /** What the connection is to connect to in place of the server. */
  get addr(): Authority {
    return this.#socket.addr;
  }

  #send(bytes: Uint8Array, { hostname, port }: Authority): void {
    if (!this.#client) {
      this.#client = { hostname, port };
      this.#refusal = refusalOf(bytes);
    }
    if (port === this.#client.port && hostname === this.#client.hostname) {
      forward(bytes, this.#carrier, this.#peer);
    }
  }

  /** Ends a handshake that the server has not answered, which Deno does not cancel. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#client && this.#refusal) forward(this.#refusal, this.#socket, this.#client);
    await Promise.all([this.#socket.close(), this.#carrier.close()]);
  }
}

/**
 * A Version Negotiation packet (RFC 9000 §17.2.1) with no version that there is, in answer to the
 * first packet of a client, which gives the connection up then (§6.2).
 */
function refusalOf(initial: Uint8Array): Uint8Array | undefined {
  const header = parseLongHeader(initial);
  if (!header) return undefined;
  const { dcid, scid } = header;
  return Uint8Array.of(0x80, 0, 0, 0, 0, scid.length, ...scid, dcid.length, ...dcid, ...NO_VERSION);
}

/** Reserved for what no end speaks (RFC 9000 §15). */
const NO_VERSION = [0x1a, 0x2a, 0x3a, 0x4a];

function forward(bytes: Uint8Array, to: DatagramSocket, address: Authority): void {
  const buffer = to.reserve(bytes.length);
  if (!buffer) return;
  buffer.set(bytes);
  to.commit(bytes.length, address);
  to.flush();
}
