// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Status } from "../../../lib/observe/status.ts";
import { statusPage, statusPageHeaders } from "../../../lib/observe/status_page/mod.ts";

/** Serves the status page on a port of its own. */
export class StatusSite implements AsyncDisposable {
  /** How often the script of a page has asked. */
  asked = 0;
  /** What it is answered in place of the page. */
  answer: Response | undefined;
  readonly port: number;
  #server: Deno.HttpServer<Deno.NetAddr> | undefined;

  constructor(public status: Status) {
    this.port = this.#start(0);
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  #start(port: number): number {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port, onListen: () => {} },
      (request) => this.#answer(request),
    );
    return this.#server.addr.port;
  }

  #answer({ url, headers }: Request): Response {
    if (new URL(url).pathname !== "/") return new Response("not found", { status: 404 });
    if (headers.get("Sec-Fetch-Dest") === "empty") {
      this.asked++;
      if (this.answer) return this.answer.clone();
    }
    const nonce = crypto.randomUUID();
    return new Response(statusPage(this.status, nonce), { headers: statusPageHeaders(nonce) });
  }

  /** Lets nobody connect until {@linkcode StatusSite.resume}. */
  async stop(): Promise<void> {
    await this.#server?.shutdown();
    this.#server = undefined;
  }

  resume(): void {
    this.#start(this.port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
