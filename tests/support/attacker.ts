// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../lib/net/authority.ts";
import { hostPort, quiche } from "../../lib/quic/quiche/native.ts";
import { nativeConfig, transportSettings } from "../../lib/quic/options.ts";
import type { QuicEndpoint } from "../../lib/quic/mod.ts";
import { eventually } from "./eventually.ts";
import { ALPN, clientTls } from "./quic.ts";
import {
  clientInitialKeys,
  initialDatagram,
  type PacketKeys,
  packetKeys,
  shortPacket,
} from "./quic_packets.ts";

/** Datagrams on their way at most: a socket's receive buffer has room for them. */
const MAX_UNRECEIVED = 40;

export function randomBytes(length: number): Uint8Array<ArrayBuffer> {
  return crypto.getRandomValues(new Uint8Array(length));
}

/** One socket of somebody who means no good, and sends no faster than the endpoint receives: nothing gets lost. */
export class Attacker implements AsyncDisposable {
  readonly #target: QuicEndpoint;
  readonly #to: Deno.NetAddr;
  readonly #socket: Deno.DatagramConn;
  #unreceived = 0;
  #receivedBefore = 0;
  #receiving: Promise<[Uint8Array, Deno.Addr]> | undefined;

  /** @param hostname address of its own */
  constructor(target: QuicEndpoint, hostname = "127.0.0.1") {
    this.#target = target;
    this.#to = { transport: "udp", ...target.addr };
    this.#socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  }

  get addr(): Authority {
    return this.#socket.addr as Deno.NetAddr;
  }

  async send(datagram: Uint8Array): Promise<void> {
    if (this.#unreceived === 0) this.#receivedBefore = this.#target.stats.received;
    await this.#socket.send(datagram, this.#to);
    if (++this.#unreceived === MAX_UNRECEIVED) await this.received();
  }

  /** Resolves when the endpoint has received all that was sent, at least if nobody else has sent it anything. */
  async received(): Promise<void> {
    const all = this.#receivedBefore + this.#unreceived;
    this.#unreceived = 0;
    await eventually("all was received", () => this.#target.stats.received >= all);
  }

  /** The next datagram that comes back. */
  async receive(): Promise<Uint8Array<ArrayBuffer>> {
    this.#receiving ??= this.#socket.receive(new Uint8Array(2048));
    const [bytes] = await this.#receiving;
    this.#receiving = undefined;
    return bytes.slice() as Uint8Array<ArrayBuffer>;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close();
    await this.#receiving?.catch(() => {});
  }
}

/** A connection that sends nothing but Initial packets, with whatever in them. */
export class InitialForger {
  readonly #dcid: Uint8Array;
  readonly #scid = randomBytes(16);
  readonly #keys: PacketKeys;
  readonly #token: Uint8Array;
  #packetNumber = 0;

  /** @param retry of a Retry packet: the connection id to go on with, and the token */
  constructor(retry: { dcid?: Uint8Array; token?: Uint8Array } = {}) {
    this.#dcid = retry.dcid ?? randomBytes(16);
    this.#token = retry.token ?? new Uint8Array(0);
    this.#keys = clientInitialKeys(this.#dcid);
  }

  next(...frames: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
    return initialDatagram({
      keys: this.#keys,
      dcid: this.#dcid,
      scid: this.#scid,
      token: this.#token,
      packetNumber: this.#packetNumber++,
      frames,
    });
  }
}

/**
 * Makes a connection with a good certificate, and gives it over to somebody who knows its keys.
 *
 * @returns makes the connection's next packet, with any frames in it
 */
export async function authenticate(
  attacker: Attacker,
  server: Authority,
): Promise<(...frames: readonly Uint8Array[]) => Uint8Array<ArrayBuffer>> {
  const config = nativeConfig(transportSettings({ tls: clientTls, alpn: ALPN }));
  config.logKeys();
  const [from, to] = [hostPort(attacker.addr), hostPort(server)];
  const native = quiche.Connection.connect(
    "quic-tunnel-server",
    randomBytes(16),
    from,
    to,
    config,
  );
  const keyLog = await Deno.makeTempFile();
  try {
    native.setKeylog(keyLog);
    const buffer = new Uint8Array(1500);
    for (;;) {
      for (let sent; (sent = native.send(buffer));) await attacker.send(buffer.slice(0, sent[0]));
      if (native.isEstablished()) break;
      native.recv(await attacker.receive(), { from: to, to: from });
    }
    const log = await Deno.readTextFile(keyLog);
    const [, secret] = /^CLIENT_TRAFFIC_SECRET_0 \w+ (\w{64})$/m.exec(log) ?? [];
    if (!secret) throw new Error("no traffic secret of 32 bytes: another cipher than AES-128?");
    const keys = packetKeys(Uint8Array.fromHex(secret));
    const dcid = native.destinationId();
    // Far from those that quiche has used.
    let packetNumber = 1_000;
    return (...frames) => shortPacket(keys, dcid, packetNumber++, frames);
  } finally {
    await Deno.remove(keyLog);
  }
}
