// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../lib/net/authority.ts";
import type { TcpRelay } from "../support/tcp_relay.ts";
import type { UdpRelay } from "../support/udp_relay.ts";

/** What can be done to a link, as to the relay that it is. */
const actions = ["impair", "cut", "restore", "rebind"] as const;
const carrierActions = ["stall", "resume", "cut", "reset", "closePort", "openPort"] as const;

export type Way = "both" | "toServer" | "toClient";

/** A network link that things happen to; {@linkcode UdpRelay} does them, in the thread of {@linkcode Links}. */
export interface Link extends Pick<UdpRelay, typeof actions[number]> {
  /** Where the agent connects to, on 127.0.0.1. */
  readonly port: number;
}

/** The same for connections of TCP that take the place of UDP: {@linkcode TcpRelay}. */
export interface CarrierLink extends Pick<TcpRelay, typeof carrierActions[number]> {
  readonly port: number;
}

/** Which link is opened: one for UDP, or one for TCP that listens at a port. */
type Opening =
  & { readonly server: Authority }
  & ({ readonly seed: number } | { readonly port: number });

/** For the thread: opens a link, or does something to one. */
export type LinkCommand =
  & { readonly link: number }
  & (Opening | { readonly action: string; readonly args: readonly unknown[] });

/** From the thread: a link is open. */
export interface LinkAnswer {
  readonly link: number;
  readonly port: number;
}

/** All links, and the thread in which they are. */
export class Links implements Disposable {
  readonly #worker = new Worker(new URL("./relay_worker.ts", import.meta.url).href, {
    type: "module",
  });
  readonly #opening = new Map<number, (port: number) => void>();
  #count = 0;

  constructor() {
    this.#worker.addEventListener("message", ({ data }: MessageEvent<LinkAnswer>) => {
      const { link, port } = data;
      this.#opening.get(link)?.(port);
      this.#opening.delete(link);
    });
  }

  /** A link to a server. */
  open(server: Authority, seed: number): Promise<Link> {
    return this.#open<Link>({ server, seed }, actions);
  }

  /** A link to a server's listener for carriers. @param port where it listens */
  openCarrier(server: Authority, port: number): Promise<CarrierLink> {
    return this.#open<CarrierLink>({ server, port }, carrierActions);
  }

  async #open<T>(opening: Opening, actions: readonly string[]): Promise<T> {
    const link = this.#count++;
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#opening.set(link, resolve);
    this.#tell({ link, ...opening });
    const port = await promise;
    const does = (action: string) => (...args: unknown[]) => this.#tell({ link, action, args });
    return { port, ...Object.fromEntries(actions.map((action) => [action, does(action)])) } as T;
  }

  #tell(command: LinkCommand): void {
    this.#worker.postMessage(command);
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}
