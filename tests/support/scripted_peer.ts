// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Peers of the programs, on the driver itself: they do what a test says, and nothing of their own accord. */

import type { ConnectAgentConfig } from "../../agent.ts";
import { QRHT_ALPN } from "../../lib/qrht/dialect.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { ipBytes } from "../../lib/net/ip_address.ts";
import { encodeFrame, FrameParser, FrameType } from "../../lib/qrht/frame.ts";
import {
  decodeResult,
  encodeHello,
  encodeResult,
  type Open,
  type Result,
  type ResultCode,
} from "../../lib/qrht/messages.ts";
import {
  type CloseInfo,
  type ListenOptions,
  type QuicConnection,
  QuicEndpoint,
  type QuicStream,
  type TransportOptions,
} from "../../lib/quic/mod.ts";
import { acceptTunnel, type IncomingTunnel } from "../../lib/qrht/tunnel.ts";
import type { PassthroughConfig } from "../../passthrough.ts";
import type { ServerConfig } from "../../lib/server/config.ts";
import { readToEnd } from "./memory_duplex.ts";
import {
  combinations,
  Network,
  readUntilOver,
  type Running,
  sendText,
  type Server,
  soon,
  text,
  utf8,
  withNetwork,
} from "./network.ts";
import { clientTls, serverTls } from "./quic.ts";
import type { Awaitable } from "../../lib/wait.ts";

const empty = new Uint8Array(0);

/** One end of a connection whose other end is one of the programs. */
export class ScriptedPeer {
  readonly connection: QuicConnection;
  readonly #streams: QuicStream[] = [];
  #control: QuicStream | undefined;

  constructor(connection: QuicConnection) {
    this.connection = connection;
  }

  /** The next stream of the program's. @throws when none comes soon */
  async stream(): Promise<QuicStream> {
    return this.#own(await soon("a stream", this.connection.acceptStream()));
  }

  /** The next stream of the program's, as an agent of `qrht/1` takes it. */
  async tunnel(): Promise<IncomingTunnel & { readonly stream: QuicStream }> {
    const stream = await this.stream();
    const tunnel = await soon("OPEN", acceptTunnel(stream, QRHT_ALPN));
    if (!tunnel) throw new Error("the stream ended without a word");
    return { ...tunnel, stream };
  }

  /** Serves whatever tunnels come in the same way, until the connection ends. Returns what it has served. */
  serve(handle: (tunnel: IncomingTunnel, stream: QuicStream) => Awaitable<void>): QuicStream[] {
    const streams: QuicStream[] = [];
    const serveAll = async () => {
      for (;;) {
        const stream = this.#own(await this.connection.acceptStream());
        streams.push(stream);
        acceptTunnel(stream, this.connection.alpn)
          .then((tunnel) => tunnel && handle(tunnel, stream))
          .catch(() => stream.abort());
      }
    };
    void serveAll().catch(() => {});
    return streams;
  }

  /** A stream to the program. */
  open(): QuicStream {
    return this.#own(this.connection.openStream());
  }

  /** Opens the control stream for an agent that waits for it. HELLO is said then. */
  async greet(): Promise<void> {
    this.#control = await this.control(frames.hello());
  }

  /** A control stream, with this much said on it; or the one where HELLO was said, with the rest. */
  async control(...frames: Uint8Array[]): Promise<QuicStream> {
    if (this.#control) {
      for (const frame of frames.slice(1)) await writeAll(this.#control, frame);
      return this.#control;
    }
    const stream = this.connection.openUniStream();
    if (!stream) throw new Error("there is no credit for a control stream");
    for (const frame of frames) await writeAll(stream, frame);
    return stream;
  }

  /** Reads the program's control stream up to DRAIN, which comes behind HELLO. */
  async readDrain(): Promise<void> {
    const control = await soon("the control stream", this.connection.acceptUniStream());
    const parser = new FrameParser(FrameType.Hello);
    const buffer = new Uint8Array(1024);
    for (;;) {
      const n = await soon("DRAIN", control.read(buffer));
      if (n === null) throw new Error("the control stream ended without DRAIN");
      for (let at = 0; at < n;) {
        const { event, taken } = parser.next(buffer.subarray(at, n));
        at += taken;
        if (event?.kind === "frame" && event.type === FrameType.Drain) return;
      }
    }
  }

  /** Leaves without a word, as a machine does that loses its power. */
  vanish(): void {
    this.connection.destroy("scripted to vanish");
  }

  /** How the program has closed the connection. @throws when it does not soon */
  closed(): Promise<CloseInfo> {
    return soon("the end of the connection", this.connection.closed);
  }

  abortStreams(): void {
    for (const stream of this.#streams.splice(0)) stream.abort();
  }

  #own(stream: QuicStream): QuicStream {
    this.#streams.push(stream);
    return stream;
  }
}

/** A server that agents dial. */
export interface ScriptedServer {
  readonly quicPort: number;
  /** The next agent that has connected. */
  accept(): Promise<ScriptedPeer>;
}

/** A network in which one side is scripted. */
export class ScriptedNetwork extends Network {
  readonly #peers: ScriptedPeer[] = [];
  readonly #endpoints: QuicEndpoint[] = [];

  /** @param combination what its agents are on */
  constructor(combination = "qrht/1") {
    super(combinations[combination]!);
  }

  /** An agent of a server's; it knows `qrht/1` only unless told otherwise. */
  async scriptedAgent(
    server: Pick<Server, "quicPort">,
    options: Partial<TransportOptions> = {},
  ): Promise<ScriptedPeer> {
    const endpoint = this.#endpoint(new QuicEndpoint({ hostname: "127.0.0.1", port: 0 }));
    const peer = { hostname: "127.0.0.1", port: server.quicPort };
    return this.#peer(
      await endpoint.connect(peer, "quic-tunnel-server", {
        tls: clientTls,
        alpn: [QRHT_ALPN],
        keepAliveMs: 1_000,
        ...options,
      }),
    );
  }

  /** A server; it knows `qrht/1` only unless told otherwise. */
  scriptedServer(options: Partial<ListenOptions> = {}): ScriptedServer {
    const listen = { tls: serverTls, alpn: [QRHT_ALPN], ...options };
    const endpoint = this.#endpoint(new QuicEndpoint({ hostname: "127.0.0.1", port: 0, listen }));
    return {
      quicPort: endpoint.addr.port,
      accept: async () => {
        const peer = this.#peer(await soon("an agent", endpoint.accept()));
        if (this.isOnDeno) await peer.greet();
        return peer;
      },
    };
  }

  /** A server, and a scripted agent that is its only one. */
  async serverAndAgent(
    config: Partial<ServerConfig> = {},
    options: Partial<TransportOptions> = {},
  ): Promise<{ server: Server; agent: ScriptedPeer }> {
    const server = await this.server(config);
    return { server, agent: await this.scriptedAgent(server, options) };
  }

  /** proxy-agent, connected to a scripted server. */
  async agentAtServer(
    config: Partial<ConnectAgentConfig> = {},
    options: Partial<ListenOptions> = {},
  ): Promise<{ program: Running; agent: ScriptedPeer }> {
    const server = this.scriptedServer(options);
    return { program: this.agent(server, config), agent: await server.accept() };
  }

  /** proxy-passthrough, connected to a scripted server. */
  async passthroughAtServer(
    upstreamPort: number,
    config: Partial<PassthroughConfig> = {},
    options: Partial<ListenOptions> = {},
  ): Promise<{ program: Running; agent: ScriptedPeer }> {
    const server = this.scriptedServer(options);
    const program = this.passthrough(server, upstreamPort, config);
    return { program, agent: await server.accept() };
  }

  /** A client, and the addresses of its connection. */
  async clientWithAddresses(
    server: Server,
    hostname = "127.0.0.1",
  ): Promise<{ client: Duplex; from: Deno.NetAddr; to: Deno.NetAddr }> {
    const connection = await Deno.connect({ hostname, port: server.tcpPort });
    const { localAddr: from, remoteAddr: to } = connection;
    return { client: this.own(tcpDuplex(connection)), from, to };
  }

  /** As in {@linkcode Network}; connections stay open meanwhile, so that they hide no stream that was left over. */
  override async end(): Promise<void> {
    for (const peer of this.#peers) peer.abortStreams();
    await super.end();
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.abortPrograms();
    for (const endpoint of this.#endpoints) await endpoint.close();
    await super[Symbol.asyncDispose]();
  }

  #endpoint(endpoint: QuicEndpoint): QuicEndpoint {
    this.#endpoints.push(endpoint);
    return endpoint;
  }

  #peer(connection: QuicConnection): ScriptedPeer {
    const peer = new ScriptedPeer(connection);
    this.#peers.push(peer);
    return peer;
  }
}

/** Registers a test in which one side is scripted; nothing is live at its end. */
export function scriptedTest(name: string, fn: (net: ScriptedNetwork) => Promise<void>): void {
  Deno.test(name, () => withNetwork(new ScriptedNetwork(), fn));
}

/** The same with the programs' agents on each QUIC library. */
export function scriptedAgentTest(name: string, fn: (net: ScriptedNetwork) => Promise<void>): void {
  for (const combination of ["qrht/1", "qrht/1, the agent on Deno's QUIC"]) {
    Deno.test(
      `${name} (${combination})`,
      () => withNetwork(new ScriptedNetwork(combination), fn),
    );
  }
}

/** Frames as they go over the wire. */
export const frames = {
  hello: (features: readonly string[] = ["drain"]) =>
    encodeFrame(FrameType.Hello, encodeHello({ features })),
  drain: encodeFrame(FrameType.Drain, empty),
  end: encodeFrame(FrameType.End, empty),
  data: (message: string) => encodeFrame(FrameType.Data, utf8.encode(message)),
  result: (code: ResultCode, message = "") =>
    encodeFrame(FrameType.Result, encodeResult({ code, text: message })),
};

/** What is on an agent's stream up to its end: the RESULT, the DATA after it, and whether END came. */
export interface AgentFrames {
  readonly result: Result;
  readonly data: string;
  readonly ended: boolean;
}

/** Reads a stream that an agent writes to, up to FIN. @throws when it does not begin with RESULT */
export async function readAgentFrames(stream: Pick<QuicStream, "read">): Promise<AgentFrames> {
  const bytes = await soon("the end of the stream", readToEnd(stream));
  const parser = new FrameParser(FrameType.Result);
  let result: Result | undefined;
  let data = "", ended = false;
  for (let at = 0; at < bytes.length;) {
    const { event, taken } = parser.next(bytes.subarray(at));
    at += taken;
    if (!event) continue;
    if (ended) throw new Error("a frame after END");
    if (event.kind === "data") data += text.decode(event.bytes);
    else if (event.type === FrameType.End) ended = true;
    else if (!result && event.type === FrameType.Result) result = decodeResult(event.payload);
    else throw new Error(`a frame of type ${event.type}`);
  }
  if (!result) throw new Error("no RESULT");
  return { result, data, ended };
}

/** Bytes as hexadecimal digits. */
export function hex(bytes: Uint8Array): string {
  return bytes.toHex();
}

/** What a client gets that sends a message and its end. */
export async function exchange(
  net: ScriptedNetwork,
  server: Server,
  message: string,
): Promise<string> {
  const client = await net.client(server);
  await sendText(client, message);
  await client.closeWrite();
  const answer = await soon("the client's end", readUntilOver(client));
  client.abort();
  return answer;
}

/** Bytes that are nothing in any dialect. */
export const garbage = Uint8Array.of(0xff, 0xfe, ...Array.from({ length: 16 }, (_, i) => i + 1));

/** Addresses that a PROXY header may tell of. */
export const elsewhere: Readonly<Record<string, Pick<Open, "client" | "listener">>> = {
  "IPv4": {
    client: { ip: ipBytes("192.0.2.7")!, port: 1234 },
    listener: { ip: ipBytes("198.51.100.1")!, port: 443 },
  },
  "IPv6": {
    client: { ip: ipBytes("2001:db8::7")!, port: 65_535 },
    listener: { ip: ipBytes("2001:db8::1")!, port: 8443 },
  },
};

/** Sends nothing and takes nothing for a while, so that what arrives meanwhile is found all at once. */
export function block(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}
