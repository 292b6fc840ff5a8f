// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../lib/net/authority.ts";
import type { Impairment } from "../support/udp_relay.ts";

export type LinkCommand =
  & { readonly link: number }
  & (
    | { readonly kind: "open"; readonly server: Authority; readonly seed: number }
    | { readonly kind: "impair"; readonly impairment: Impairment }
    | { readonly kind: "cut"; readonly way: Way }
    | { readonly kind: "restore" | "rebind" }
  );

export interface LinkAnswer {
  readonly link: number;
  readonly port: number;
}

export type Way = "both" | "toServer" | "toClient";

/** A network link that things happen to; {@linkcode UdpRelay} does them, in the thread of {@linkcode Links}. */
export class Link {
  readonly #tell: (command: LinkCommand) => void;

  /** @param port where the agent connects to, on 127.0.0.1 */
  constructor(
    readonly number: number,
    readonly port: number,
    tell: (command: LinkCommand) => void,
  ) {
    this.#tell = tell;
  }

  impair(impairment: Impairment): void {
    this.#tell({ link: this.number, kind: "impair", impairment });
  }

  cut(way: Way): void {
    this.#tell({ link: this.number, kind: "cut", way });
  }

  restore(): void {
    this.#tell({ link: this.number, kind: "restore" });
  }

  rebind(): void {
    this.#tell({ link: this.number, kind: "rebind" });
  }
}

/** All links, and the thread in which they are. */
export class Links implements Disposable {
  readonly #worker = new Worker(new URL("./relay_worker.ts", import.meta.url).href, {
    type: "module",
  });
  readonly #opening = new Map<number, (link: Link) => void>();
  #count = 0;

  constructor() {
    const tell = (command: LinkCommand) => this.#worker.postMessage(command);
    this.#worker.addEventListener("message", ({ data }: MessageEvent<LinkAnswer>) => {
      this.#opening.get(data.link)?.(new Link(data.link, data.port, tell));
      this.#opening.delete(data.link);
    });
  }

  /** A link to a server. */
  open(server: Authority, seed: number): Promise<Link> {
    const link = this.#count++;
    const command: LinkCommand = { link, kind: "open", server, seed };
    return new Promise((resolve) => {
      this.#opening.set(link, resolve);
      this.#worker.postMessage(command);
    });
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}
