// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../lib/net/authority.ts";
import type { UdpRelay } from "../support/udp_relay.ts";

/** What can be done to a link, as to the relay that it is. */
type Actions = Pick<UdpRelay, "impair" | "cut" | "restore" | "rebind">;

export type Way = "both" | "toServer" | "toClient";

/** A network link that things happen to; {@linkcode UdpRelay} does them, in the thread of {@linkcode Links}. */
export interface Link extends Actions {
  /** Where the agent connects to, on 127.0.0.1. */
  readonly port: number;
}

/** For the thread: opens a link, or does something to one. */
export type LinkCommand =
  & { readonly link: number }
  & (
    | { readonly server: Authority; readonly seed: number }
    | { readonly action: keyof Actions; readonly args: readonly unknown[] }
  );

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
  readonly #opening = new Map<number, (link: Link) => void>();
  #count = 0;

  constructor() {
    this.#worker.addEventListener("message", ({ data }: MessageEvent<LinkAnswer>) => {
      const { link, port } = data;
      const does = (action: keyof Actions) => (...args: unknown[]) =>
        this.#tell({ link, action, args });
      this.#opening.get(link)?.({
        port,
        impair: does("impair"),
        cut: does("cut"),
        restore: does("restore"),
        rebind: does("rebind"),
      });
      this.#opening.delete(link);
    });
  }

  /** A link to a server. */
  open(server: Authority, seed: number): Promise<Link> {
    const link = this.#count++;
    return new Promise((resolve) => {
      this.#opening.set(link, resolve);
      this.#tell({ link, server, seed });
    });
  }

  #tell(command: LinkCommand): void {
    this.#worker.postMessage(command);
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}
