// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Servers and agents as processes, with the permissions of their tasks, and an origin behind them. */
import { assertEquals, assertMatch } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { assertReads, loopback, OK, requestFor, sendText } from "./network.ts";
import { checkPattern } from "./pattern.ts";
import {
  agentFlags,
  anyPort,
  type ChildProgram,
  serverFlags,
  startOrigin,
  startProgram,
} from "./processes.ts";
import { temporaryFolder } from "./temporary_folder.ts";

export interface ServerProcess {
  readonly program: ChildProgram;
  readonly tcpPort: number;
  readonly quic: string;
}

/** An origin, and servers and agents in front of it, of one test. */
export class Site implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  dir = "";
  origin = "";

  static async start(): Promise<Site> {
    const site = new Site();
    try {
      site.dir = site.#stack.use(await temporaryFolder()).path;
      await makeCerts(site.dir);
      const { port } = site.#stack.use(await startOrigin());
      site.origin = `127.0.0.1:${port}`;
      return site;
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
  }

  async server(
    flags: Record<string, string | number> = {},
    env: Record<string, string> = {},
  ): Promise<ServerProcess> {
    const program = this.#stack.use(
      startProgram("server", { ...anyPort, ...serverFlags(this.dir), ...flags }, env),
    );
    const [, tcp] = await program.line(/tcp listener on 127\.0\.0\.1:(\d+)/);
    const [, quic] = await program.line(/quic listener on (127\.0\.0\.1:\d+)/);
    return { program, tcpPort: Number(tcp), quic: quic! };
  }

  /** Resolves when the agent has connected. */
  async agent(
    quic: string,
    flags: Record<string, string | number> = {},
    env: Record<string, string> = {},
    task: "agent" | "passthrough" = "agent",
  ): Promise<ChildProgram> {
    const agent = this.#stack.use(
      startProgram(task, { server: quic, ...agentFlags(this.dir), ...flags }, env),
    );
    await agent.line(/"connected to quic server"/, 30_000);
    return agent;
  }

  /** A tunnel to the origin on which it was asked for a body. */
  async request(tcpPort: number, size: number): Promise<Duplex> {
    const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
    try {
      await sendText(client, requestFor(this.origin));
      await assertReads(client, OK);
      const head =
        `GET /bytes/${size} HTTP/1.1\r\nHost: ${this.origin}\r\nConnection: close\r\n\r\n`;
      await sendText(client, head);
      return client;
    } catch (error) {
      client.abort();
      throw error;
    }
  }

  /** Ends something at the end of the test. */
  use<T extends AsyncDisposable | Disposable>(value: T): T {
    return this.#stack.use(value);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** A character for each byte. */
const latin1 = new TextDecoder("latin1");

/** Reads an answer to its end and checks every byte of its body. */
export async function assertBody(client: Duplex, size: number): Promise<void> {
  const buffer = new Uint8Array(64 << 10);
  let head = "", offset: number | undefined;
  try {
    for (let n; (n = await client.read(buffer)) !== null;) {
      let bytes = buffer.subarray(0, n);
      if (offset === undefined) {
        head += latin1.decode(bytes);
        const end = head.indexOf("\r\n\r\n");
        if (end < 0) continue;
        bytes = bytes.subarray(n - (head.length - end - 4));
        offset = 0;
      }
      checkPattern(bytes, offset);
      offset += bytes.length;
    }
    assertMatch(head, /^HTTP\/1\.1 200 /);
    assertEquals(offset, size);
  } finally {
    client.abort();
  }
}
