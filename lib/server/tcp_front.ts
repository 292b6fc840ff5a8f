// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { messageOf } from "../errors.ts";
import { ignoreNewClients } from "../net/tcp_listener.ts";
import { formatAuthority } from "../net/authority.ts";
import { socketAddressOf } from "../net/ip_address.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import { acceptedTcpDuplexes } from "../tunnel/tcp_duplex.ts";
import type { Front, FrontClient, FrontMode, FrontService } from "./front.ts";

/** A front for plain TCP. */
export class TcpFront implements Front {
  readonly kind = "tcp";
  readonly address: string;
  readonly addr: Deno.NetAddr;
  readonly #listener: Deno.TcpListener;
  readonly #toDuplex: (connection: Deno.TcpConn) => Duplex;
  #service: FrontService;

  /** @param keepaliveMs idle time until a client is probed, 0 for no probes */
  constructor(listener: Deno.TcpListener, service: FrontService, keepaliveMs: number) {
    this.#listener = listener;
    this.#service = service;
    this.#toDuplex = acceptedTcpDuplexes(listener, keepaliveMs);
    this.addr = listener.addr as Deno.NetAddr;
    this.address = formatAuthority(this.addr);
  }

  get mode(): FrontMode {
    return this.#service.mode;
  }

  get group(): string | undefined {
    return this.#service.group;
  }

  change(service: FrontService): void {
    this.#service = service;
  }

  async accept(): Promise<FrontClient> {
    const connection = await this.#listener.accept();
    try {
      return {
        carrier: this.#toDuplex(connection),
        remote: socketAddressOf(connection.remoteAddr),
        local: socketAddressOf(connection.localAddr),
      };
    } catch (cause) {
      connection.close();
      throw new Deno.errors.ConnectionAborted(messageOf(cause), { cause });
    }
  }

  retire(): void {
    ignoreNewClients(this.#listener);
  }

  close(): void {
    this.#listener[Symbol.dispose]();
  }
}
