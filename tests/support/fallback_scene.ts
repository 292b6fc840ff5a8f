// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A fallback listener on loopback before an endpoint that takes connections, and its clients. */
import { assertStringIncludes } from "@std/assert";
import { type Carrier, CarrierSocket } from "../../lib/connect_udp/carrier_socket.ts";
import { dialCarrier } from "../../lib/connect_udp/dial_carrier.ts";
import { RedialingSocket } from "../../lib/connect_udp/redialing_socket.ts";
import type { Authority } from "../../lib/net/authority.ts";
import { configureLog, logger, resetLog } from "../../lib/log.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import {
  type CloseInfo,
  type QuicConnection,
  QuicEndpoint,
  type TlsIdentity,
} from "../../lib/quic/mod.ts";
import { FallbackListener, type FallbackOptions } from "../../lib/server/fallback_listener.ts";
import { listenTls } from "../../lib/tls/tls_listener.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { assertSameBytes, pattern } from "./bytes.ts";
import { eventually } from "./eventually.ts";
import { readToEnd } from "./memory_duplex.ts";
import { loopback, soon, text, utf8 } from "./network.ts";
import { ALPN, listen, type Listening } from "./quic.ts";
import { TestCa } from "./tls.ts";

const ca = await TestCa.create("CA of the scene");
const server = await ca.server({ dnsNames: ["quic-tunnel-server", "localhost"] });
const identity = await ca.client();
const DEFAULT_PATH = "/.well-known/masque/udp/quic-tunnel-server/443/";
const upgradeTo = (path: string) =>
  `GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n\r\n`;
export const UPGRADE = upgradeTo(DEFAULT_PATH);

const forever = new AbortController().signal;

/** An agent whose QUIC goes through carriers. */
export interface CarriedAgent extends AsyncDisposable {
  readonly client: QuicConnection;
  readonly server: QuicConnection;
  /** Breaks the carrier, in whose place another one is dialled. */
  cut(): void;
  /** Sends bytes from the server to the agent, and checks what arrives. */
  transfer(bytes: number, meanwhile?: () => Promise<unknown>): Promise<void>;
}

type SceneOptions =
  & Partial<Omit<FallbackOptions, "acceptProxyProtocol">>
  & { readonly acceptProxyProtocol?: FallbackOptions["acceptProxyProtocol"] | undefined };

export class FallbackScene implements AsyncDisposable {
  readonly ca = ca;
  readonly tls: { current: TlsIdentity } = { current: server };
  readonly lines: string[] = [];
  readonly refusals: string[] = [];
  readonly endpoint: QuicEndpoint;
  readonly listener: FallbackListener;
  readonly port: number;
  readonly #listening: Listening;
  /** Whether connections begin with a header, if they say anything. */
  readonly #hasHeaders: boolean;

  /** @param options with `acceptProxyProtocol`, something may come ahead of TLS */
  constructor({ acceptProxyProtocol, ...options }: SceneOptions = {}) {
    configureLog(2, (line) => this.lines.push(line));
    const monitor = new Monitor("proxy-server");
    monitor.observe({ carrierRefused: (reason) => this.refusals.push(reason) });
    this.#listening = listen({ tls: server });
    this.endpoint = this.#listening.endpoint;
    const identity = () => this.tls.current;
    const hasHeaders = acceptProxyProtocol !== undefined;
    this.#hasHeaders = hasHeaders;
    const listener = listenTls({ ...loopback(0), tcpBacklog: 128, identity }, hasHeaders);
    this.listener = new FallbackListener(listener, {
      endpoint: this.endpoint,
      acceptProxyProtocol: acceptProxyProtocol ?? [],
      maxCarriers: 100,
      maxHandshakes: 100,
      log: logger("server"),
      monitor,
      ...options,
    });
    this.port = this.listener.addr.port;
  }

  /** Those handshakes of QUIC that failed. */
  get failures(): readonly CloseInfo[] {
    return this.#listening.failures;
  }

  /** Connects an agent, by UDP as well if it is told to. */
  async connect(
    { port = this.port, tls = identity, from }: {
      readonly port?: number;
      readonly tls?: TlsIdentity;
      /** Address that a load balancer tells. */
      readonly from?: string;
    } = {},
  ): Promise<CarriedAgent> {
    if (from !== undefined) {
      const relay = this.relay(headerOf(from));
      const agent = await this.connect({ port: relay.port, tls });
      const dispose = async () => {
        await agent[Symbol.asyncDispose]();
        await relay[Symbol.asyncDispose]();
      };
      return { ...agent, [Symbol.asyncDispose]: dispose };
    }
    const dial = (signal: AbortSignal) => dialTo(port, signal);
    let latest = await dial(forever);
    const peer = { hostname: "192.0.2.99", port: 443 };
    const redialled = (carrier: Carrier) => latest = carrier;
    const own = new QuicEndpoint({
      carrier: (events) => new RedialingSocket(latest, { dial, peer, redialled }, events),
    });
    try {
      const options = { tls, alpn: ALPN, keepAliveMs: 600 };
      const [client, server] = await Promise.all([
        own.connect(peer, "quic-tunnel-server", options),
        soon("the connection", this.endpoint.accept()),
      ]);
      return {
        client,
        server,
        cut: () => latest.duplex.abort(),
        transfer: (bytes, meanwhile) => transfer(server, client, bytes, meanwhile),
        [Symbol.asyncDispose]: () => own.close(),
      };
    } catch (error) {
      await own.close();
      throw error;
    }
  }

  /** An agent that has not been asked to come by TCP. */
  async connectByUdp(peer: Authority = loopback(this.endpoint.addr.port)): Promise<CarriedAgent> {
    const own = new QuicEndpoint(loopback(0));
    const [client, server] = await Promise.all([
      own.connect(peer, "quic-tunnel-server", { tls: identity, alpn: ALPN, keepAliveMs: 600 }),
      soon("the connection", this.endpoint.accept()),
    ]);
    return {
      client,
      server,
      cut() {},
      transfer: (bytes, meanwhile) => transfer(server, client, bytes, meanwhile),
      [Symbol.asyncDispose]: () => own.close(),
    };
  }

  /** A connection of TCP that says nothing. */
  async open(port = this.port) {
    const tcp = await Deno.connect(loopback(port));
    return {
      tcp,
      rest: async () => text.decode(await readToEnd(tcp)),
      // deno-lint-ignore require-await
      async [Symbol.asyncDispose]() {
        tcp.close();
      },
    };
  }

  /**
   * Somebody behind a load balancer, who has a connection and says nothing.
   *
   * @param from the address that the load balancer tells
   * @param to up to where they say what they should
   */
  async stranger(from: string, to: "tcp" | "tls" | "carrier" = "tcp", path = DEFAULT_PATH) {
    const tcp = await Deno.connect(loopback(this.port));
    if (this.#hasHeaders) {
      await Promise.try(() => writeAll(tcp, utf8.encode(headerOf(from)))).catch(() => {});
    }
    const caCerts = [text.decode(ca.pem)];
    const conn = to === "tcp" ? tcp : await Deno.startTls(tcp, { hostname: "localhost", caCerts });
    if (to === "carrier") {
      await writeAll(conn, utf8.encode(upgradeTo(path)));
      const answer = new Uint8Array(1_000);
      const n = await soon("the answer", conn.read(answer));
      assertStringIncludes(text.decode(answer.subarray(0, n!)), "HTTP/1.1 101 ");
    }
    let isOpen = true;
    const leave = () => {
      if (isOpen) conn.close();
      isOpen = false;
    };
    return {
      send: async (bytes: Uint8Array) => await writeAll(conn, bytes),
      leave,
      /** Resolves when the server has ended it, with what came before. */
      async ended(): Promise<string> {
        let got = "";
        const buffer = new Uint8Array(4_096);
        try {
          for (let n; (n = await conn.read(buffer)) !== null;) {
            got += text.decode(buffer.subarray(0, n));
          }
        } catch {
          // It was reset.
        }
        leave();
        return got;
      },
    };
  }

  /** A connection of TLS that says nothing. */
  async secure(of: TestCa = ca): Promise<Deno.TlsConn> {
    const caCerts = [text.decode(of.pem)];
    const tls = await Deno.connectTls({ hostname: "localhost", port: this.port, caCerts });
    try {
      await tls.handshake();
      return tls;
    } catch (error) {
      tls.close();
      throw error;
    }
  }

  /** The answer to a request, up to the end of the connection. */
  async request(request: string): Promise<string> {
    const tls = await this.secure();
    await writeAll(tls, utf8.encode(request));
    const answer = text.decode(await soon("the answer", readToEnd(tls)));
    tls.close();
    return answer;
  }

  /** A carrier with nothing inside. */
  async upgrade() {
    const carrier = await dialTo(this.port, forever);
    const got: Uint8Array[] = [];
    const socket = new CarrierSocket(carrier, {
      datagram: (bytes) => got.push(bytes.slice()),
      writable() {},
      lost() {},
    });
    return {
      socket,
      got,
      closed: socket.closed,
      send(datagram: Uint8Array) {
        socket.reserve(datagram.length)?.set(datagram);
        socket.commit(datagram.length);
        socket.flush();
      },
      [Symbol.asyncDispose]: () => socket.close(),
    };
  }

  /** A relay that sends something first. */
  relay(header: string) {
    const listener = Deno.listen(loopback(0));
    const { promise: going, resolve: go } = Promise.withResolvers<void>();
    let isStopped = false;
    const serving = (async () => {
      for await (const from of listener) {
        const to = await Deno.connect(loopback(this.port));
        if (this.#hasHeaders) await writeAll(to, utf8.encode(header));
        const copy = async (a: Deno.Conn, b: Deno.Conn) => {
          const buffer = new Uint8Array(64 << 10);
          for (let n; (n = await a.read(buffer)) !== null;) {
            await writeAll(b, buffer.subarray(0, n));
            if (isStopped && a === to) await going;
          }
        };
        await Promise.allSettled([copy(from, to), copy(to, from)]);
        for (const each of [from, to]) each.close();
      }
    })();
    return {
      port: listener.addr.port,
      /** Reads nothing more from the server. */
      stop() {
        isStopped = true;
      },
      async [Symbol.asyncDispose]() {
        go();
        listener.close();
        await serving;
      },
    };
  }

  count(line: RegExp): number {
    return this.lines.filter((text) => line.test(text)).length;
  }

  async line(line: RegExp): Promise<void> {
    await eventually(`${line}`, () => this.count(line) > 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.listener.close();
    await this.#listening[Symbol.asyncDispose]();
    await soon("the listener's end", this.listener.ended());
    resetLog();
  }
}

/** Header of the PROXY protocol. */
export function headerOf(from: string): string {
  return from.includes(":")
    ? `PROXY TCP6 ${from} 2001:db8:1::1 5555 443\r\n`
    : `PROXY TCP4 ${from} 192.0.2.9 5555 443\r\n`;
}

function dialTo(port: number, signal: AbortSignal): Promise<Carrier> {
  return dialCarrier({
    server: loopback(port),
    resolve: () => Promise.reject(new Error("no names here")),
    serverName: "quic-tunnel-server",
    caCerts: [text.decode(ca.pem)],
    target: { hostname: "quic-tunnel-server", port: 443 },
  }, signal);
}

async function transfer(
  server: QuicConnection,
  client: QuicConnection,
  bytes: number,
  meanwhile: () => Promise<unknown> = () => Promise.resolve(),
): Promise<void> {
  const sent = pattern(bytes);
  const stream = server.openStream();
  const writing = Promise.try(() => writeAll(stream, sent)).then(() => stream.closeWrite());
  const received = await soon("the stream", client.acceptStream());
  const reading = readToEnd(received);
  await meanwhile();
  const [got] = await Promise.all([soon("all of it", reading), writing]);
  await received.closeWrite();
  assertSameBytes(got, sent);
}
