// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Who gets in and who does not, and what an endpoint answers to those that it does not know yet. */

import { X509Certificate } from "node:crypto";
import "reflect-metadata"; // before @peculiar/x509
import * as x509 from "@peculiar/x509";
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLessOrEqual,
  assertRejects,
} from "@std/assert";
import type { Authority } from "../../lib/net/authority.ts";
import {
  type CloseInfo,
  ConnectionClosedError,
  describeClose,
  type ListenOptions,
  type QuicConnection,
  QuicEndpoint,
  tlsAlertOf,
  type TlsIdentity,
  type TransportOptions,
} from "../../lib/quic/mod.ts";
import {
  type HostPort,
  hostPort,
  type NativeConfig,
  type NativeConnection,
  quiche,
} from "../../lib/quic/quiche/native.ts";
import { nativeConfig, transportSettings } from "../../lib/quic/options.ts";
import { parseLongHeader } from "../../lib/quic/handshake/packet.ts";
import { randomBytes } from "../support/attacker.ts";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { ALPN, listen as listenAs, type Listening } from "../support/quic.ts";
import { quicTest } from "../support/quic_streams.ts";
import { TestCa } from "../support/tls.ts";
import { UdpRelay } from "../support/udp_relay.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
const SERVER_NAME = "quic-tunnel-server";
const LOOPBACK = { hostname: "127.0.0.1", port: 0 };

const ca = await TestCa.create();
// Of the same name: the key tells them apart.
const otherCa = await TestCa.create();
const goodServer = await ca.server();
const goodClient = await ca.client();
const expired = {
  notBefore: new Date(Date.now() - 2 * DAY_MS),
  notAfter: new Date(Date.now() - DAY_MS),
};
const notYet = {
  notBefore: new Date(Date.now() + DAY_MS),
  notAfter: new Date(Date.now() + 2 * DAY_MS),
};

/** An identity that nobody has signed but its own key. */
async function selfSigned(usage: x509.ExtendedKeyUsage, trusts: TestCa): Promise<TlsIdentity> {
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${SERVER_NAME}`,
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([usage]),
      new x509.SubjectAlternativeNameExtension([{ type: "dns", value: SERVER_NAME }]),
    ],
  });
  const pkcs8 = await crypto.subtle.exportKey("pkcs8", keys.privateKey);
  const encoder = new TextEncoder();
  return {
    ca: trusts.pem,
    cert: encoder.encode(certificate.toString("pem")),
    key: encoder.encode(x509.PemConverter.encode(pkcs8, "PRIVATE KEY")),
  };
}

const listen = (options: Partial<ListenOptions> = {}) => listenAs({ tls: goodServer, ...options });

function connect(
  client: QuicEndpoint,
  address: Authority,
  options: Partial<TransportOptions> = {},
  name = SERVER_NAME,
): Promise<QuicConnection> {
  return client.connect(address, name, { tls: goodClient, alpn: ALPN, ...options });
}

/** A good client is the first that the server yields. */
async function assertOnlyGoodGetIn(server: Listening, client: QuicEndpoint): Promise<void> {
  const [accepted] = await Promise.all([
    server.endpoint.accept(),
    connect(client, server.address),
  ]);
  assertEquals(new Uint8Array(accepted.peerCertificates![0]!), derOf(goodClient));
}

/** The leaf of an identity. */
function derOf({ cert }: TlsIdentity): Uint8Array {
  return new Uint8Array(new X509Certificate(new TextDecoder().decode(cert)).raw);
}

/** The first handshake that failed. */
function failureOf({ failures }: Listening): Promise<CloseInfo> {
  return eventually("the server has noticed", () => failures[0]);
}

// Ends that the other one must not trust

interface Stranger {
  readonly end: "client" | "server";
  readonly which: string;
  readonly identity: () => TlsIdentity | Promise<TlsIdentity>;
  /** TLS alert that tells it why (RFC 8446 §6.2). */
  readonly alert: number;
  /** What the client calls the server. */
  readonly name?: string;
}

const { clientAuth, serverAuth } = x509.ExtendedKeyUsage;
const anotherCa = () => TestCa.create("somebody's CA");

const strangers: readonly Stranger[] = [
  { end: "client", which: "of another CA", identity: () => otherCa.client({}, ca), alert: 48 },
  { end: "server", which: "of another CA", identity: () => otherCa.server({}, ca), alert: 48 },
  {
    end: "client",
    which: "of another CA with another name",
    identity: async () => (await anotherCa()).client({}, ca),
    alert: 48,
  },
  { end: "client", which: "self-signed", identity: () => selfSigned(clientAuth, ca), alert: 48 },
  { end: "server", which: "self-signed", identity: () => selfSigned(serverAuth, ca), alert: 48 },
  { end: "client", which: "expired", identity: () => ca.client(expired), alert: 45 },
  { end: "server", which: "expired", identity: () => ca.server(expired), alert: 45 },
  // BoringSSL has one alert for both ends of the time.
  { end: "client", which: "not valid yet", identity: () => ca.client(notYet), alert: 45 },
  { end: "client", which: "for servers only", identity: () => ca.server(), alert: 43 },
  {
    end: "server",
    which: "for clients only",
    identity: () => ca.client({ dnsNames: [SERVER_NAME] }),
    alert: 43,
  },
  {
    end: "server",
    which: "of another name",
    identity: () => ca.server({ dnsNames: ["another-server"] }),
    alert: 42,
  },
  {
    end: "server",
    which: "good, when called by another name",
    identity: () => goodServer,
    name: "another-server",
    alert: 42,
  },
];

for (const { end, which, identity, alert, name } of strangers) {
  quicTest(`QuicEndpoint trusts no ${end} whose certificate is ${which}`, async () => {
    const tls = await identity();
    await using server = listen(end === "server" ? { tls } : {});
    await using client = new QuicEndpoint(LOOPBACK);
    const error = await assertRejects(
      () => connect(client, server.address, end === "client" ? { tls } : {}, name),
      ConnectionClosedError,
    );
    const failure = await failureOf(server);
    // Both ends know, and why.
    const [atClient, atServer] = end === "client" ? ["peer", "local"] : ["local", "peer"];
    assertEquals([error.info.by, tlsAlertOf(error.info)], [atClient, alert], error.message);
    assertEquals([failure.by, tlsAlertOf(failure)], [atServer, alert], describeClose(failure));
    assertEquals(server.endpoint.stats.halfOpen, 0);
    if (end === "client") await assertOnlyGoodGetIn(server, client);
    else assertEquals(new Uint8Array(error.peerCertificates![0]!), derOf(tls));
    assertEquals(server.failures.length, 1);
  });
}

quicTest("QuicEndpoint lets no client in that shows no certificate", async () => {
  await using server = listen();
  const config = quiche.Config.withBoringSslCtx(true, false, ca.pem, null, null, null);
  await using client = new RawClient(server.address, config);
  await client.run(() => client.native.isDraining() || client.native.isClosed());
  assertEquals(client.native.peerError()?.isApp, false);
  assertEquals(client.native.peerError()?.errorCode, 0x100 + 116);
  const failure = await failureOf(server);
  assertEquals([failure.by, tlsAlertOf(failure)], ["local", 116]);
  await using good = new QuicEndpoint(LOOPBACK);
  await assertOnlyGoodGetIn(server, good);
});

// Certificates that are replaced

quicTest(
  "QuicEndpoint uses what is current for handshakes from then on, and goes on with the others",
  async () => {
    const tls = { current: goodServer };
    await using server = listen({ tls });
    await using client = new QuicEndpoint(LOOPBACK);
    const [before, atClient] = await Promise.all([
      server.endpoint.accept(),
      connect(client, server.address),
    ]);
    const stream = before.openStream();
    await stream.write(new Uint8Array([1]));

    tls.current = await otherCa.server();
    const error = await assertRejects(() => connect(client, server.address), ConnectionClosedError);
    assertEquals([error.info.by, tlsAlertOf(error.info)], ["local", 48], error.message);
    const oldAgent = ca.client({}, otherCa);
    const refused = await assertRejects(
      async () => await connect(client, server.address, { tls: await oldAgent }),
      ConnectionClosedError,
    );
    assertEquals([refused.info.by, tlsAlertOf(refused.info)], ["peer", 48], refused.message);
    const newAgent = await otherCa.client();
    await Promise.all([
      server.endpoint.accept(),
      connect(client, server.address, { tls: { current: newAgent } }),
    ]);

    const atPeer = await atClient.acceptStream();
    await stream.write(new Uint8Array([2]));
    await stream.closeWrite();
    assertEquals(await readToEnd(atPeer), new Uint8Array([1, 2]));
    stream.abort();
    atPeer.abort();
  },
);

Deno.test("nativeConfig() of new certificates takes no session tickets of old ones", () => {
  const config = (tls: TlsIdentity) => nativeConfig(transportSettings({ tls, alpn: ALPN }));
  const [client, server] = [config(goodClient), config(goodServer)];
  const first = handshake(client, server);
  assert(first.isLetIn);
  const again = handshake(client, server, first.session);
  assertEquals([again.isLetIn, again.isResumed], [true, true], "the ticket is good for something");
  const renewed = handshake(client, config(goodServer), first.session);
  assertEquals([renewed.isLetIn, renewed.isResumed], [true, false]);
  const otherTrust = { ...goodServer, ca: otherCa.pem };
  assertEquals(handshake(client, config(otherTrust), first.session).isLetIn, false);
});

/** A handshake without a socket. */
function handshake(client: NativeConfig, server: NativeConfig, session?: Uint8Array | null) {
  const [here, there] = [{ host: "127.0.0.1", port: 1 }, { host: "127.0.0.1", port: 2 }];
  const id = () => randomBytes(16);
  const dialling = quiche.Connection.connect(SERVER_NAME, id(), here, there, client);
  if (session) dialling.setSession(session);
  const accepted = quiche.Connection.accept(id(), null, there, here, server);
  const packet = new Uint8Array(1500);
  try {
    for (let turn = 0; turn < 12; turn++) {
      const [from, to] = turn % 2 === 0 ? [dialling, accepted] : [accepted, dialling];
      const path = turn % 2 === 0 ? { from: here, to: there } : { from: there, to: here };
      for (let sent = from.send(packet); sent !== null; sent = from.send(packet)) {
        to.recv(packet.slice(0, sent[0]), path);
      }
    }
  } catch {
    // The server has refused the client.
  }
  const isLetIn = accepted.isEstablished();
  return { isLetIn, isResumed: accepted.isResumed(), session: dialling.session() };
}

// ALPN

quicTest("QuicEndpoint lets no client in that speaks none of its protocols", async () => {
  await using server = listen();
  await using client = new QuicEndpoint(LOOPBACK);
  const error = await assertRejects(
    () => connect(client, server.address, { alpn: ["something-else"] }),
    ConnectionClosedError,
  );
  assertEquals([error.info.by, tlsAlertOf(error.info)], ["peer", 120]);
  assertEquals(tlsAlertOf(await failureOf(server)), 120);
  await assertOnlyGoodGetIn(server, client);
});

quicTest("QuicEndpoint agrees on the first of the client's protocols that it knows", async () => {
  await using server = listen({ alpn: ["new/2", ...ALPN, "new/1"] });
  await using client = new QuicEndpoint(LOOPBACK);
  for (
    const [offered, agreed] of [
      [["new/1", ...ALPN, "new/2"], "new/1"],
      [["unknown", ...ALPN, "new/2"], ALPN[0]!],
    ] as const
  ) {
    const [accepted, connected] = await Promise.all([
      server.endpoint.accept(),
      connect(client, server.address, { alpn: offered }),
    ]);
    assertEquals([accepted.alpn, connected.alpn], [agreed, agreed]);
  }
});

// Raw packets

/** A client of which a test has each datagram in its hands. */
class RawClient implements AsyncDisposable {
  readonly socket: Deno.DatagramConn;
  readonly native: NativeConnection;
  readonly #server: HostPort;
  readonly #local: HostPort;
  #receiving: Promise<[Uint8Array, Deno.Addr]> | undefined;

  constructor(server: Authority, config?: NativeConfig, from: string = LOOPBACK.hostname) {
    this.#server = hostPort(server);
    this.socket = Deno.listenDatagram({ transport: "udp", hostname: from, port: 0 });
    this.#local = hostPort(this.socket.addr as Deno.NetAddr);
    if (config) config.setApplicationProtos(ALPN);
    else config = nativeConfig(transportSettings({ tls: goodClient, alpn: ALPN }));
    const scid = randomBytes(16);
    this.native = quiche.Connection.connect(SERVER_NAME, scid, this.#local, this.#server, config);
  }

  /** What the client has to send next. */
  next(): Uint8Array<ArrayBuffer> | undefined {
    const buffer = new Uint8Array(1500);
    const sent = this.native.send(buffer);
    return sent ? buffer.slice(0, sent[0]) : undefined;
  }

  async send(datagram: Uint8Array, to = this.#server): Promise<void> {
    await this.socket.send(datagram, { transport: "udp", hostname: to.host, port: to.port });
  }

  async receive(): Promise<Uint8Array<ArrayBuffer>> {
    this.#receiving ??= this.socket.receive(new Uint8Array(2048));
    const [bytes] = await this.#receiving;
    this.#receiving = undefined;
    return bytes.slice() as Uint8Array<ArrayBuffer>;
  }

  take(datagram: Uint8Array<ArrayBuffer>): void {
    try {
      this.native.recv(datagram, { from: this.#server, to: this.#local });
    } catch {
      // The state tells.
    }
  }

  /** Sends what there is to send and takes what comes, without timers: nothing is lost here. */
  async run(until: () => boolean): Promise<void> {
    for (;;) {
      for (let out; (out = this.next());) await this.send(out);
      if (until()) return;
      this.take(await this.receive());
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    await this.#receiving?.catch(() => {});
  }
}

/** A long header (RFC 8999 §5.1) with zeros behind it. */
function longHeader(
  options: { version: number; dcid: Uint8Array; scid: Uint8Array; length: number },
): Uint8Array<ArrayBuffer> {
  const { version, dcid, scid, length } = options;
  const bytes = new Uint8Array(length);
  bytes[0] = 0xc0;
  new DataView(bytes.buffer).setUint32(1, version);
  bytes[5] = dcid.length;
  bytes.set(dcid, 6);
  bytes[6 + dcid.length] = scid.length;
  bytes.set(scid, 7 + dcid.length);
  return bytes;
}

quicTest(
  "QuicEndpoint answers an unknown version with those it knows, if the datagram is long enough",
  async () => {
    await using server = listen();
    await using client = new RawClient(server.address);
    const ids = () => ({ dcid: randomBytes(12), scid: randomBytes(7) });
    const asked = ids();
    const version = 0x1a2a3a4a;
    // None of these gets an answer, or it would come before the last one's.
    await client.send(longHeader({ version, ...ids(), length: 1199 }));
    await client.send(longHeader({ version, ...ids(), length: 40 }));
    await client.send(longHeader({ version: 0, ...ids(), length: 1200 }));
    await client.send(longHeader({ version, ...asked, length: 1200 }));
    const answer = await client.receive();
    const header = parseLongHeader(answer)!;
    assertEquals(header.version, 0);
    assertEquals([header.dcid, header.scid], [asked.scid, asked.dcid]);
    const at = 7 + header.dcid.length + header.scid.length;
    const view = new DataView(answer.buffer, at);
    const versions = Array.from({ length: view.byteLength / 4 }, (_, i) => view.getUint32(4 * i));
    assert(versions.includes(1), `no version 1 in ${versions}`);
    assert(!versions.includes(version));
    const { dropped, halfOpen } = server.endpoint.stats;
    assertEquals([dropped.invalid, halfOpen], [3, 0]);
  },
);

// Retry

quicTest(
  "QuicEndpoint with retryAfterHalfOpen has clients prove their address, and lets them in",
  async () => {
    await using server = listen({ retryAfterHalfOpen: 0 });
    await using client = new QuicEndpoint(LOOPBACK);
    const [accepted, connected] = await Promise.all([
      server.endpoint.accept(),
      connect(client, server.address),
    ]);
    const here = accepted.openStream();
    await here.write(new Uint8Array([1]));
    const there = await connected.acceptStream();
    assertEquals(await there.read(new Uint8Array(8)), 1);
    const { retries, dropped } = server.endpoint.stats;
    assertEquals([retries, dropped["bad-token"]], [1, 0]);
  },
);

/** A client that has got a Retry packet, and the Initial packet with the token that it answers with. */
async function withToken(server: Listening): Promise<
  { client: RawClient; initial: Uint8Array<ArrayBuffer>; tokenAt: number; tokenLength: number }
> {
  const client = new RawClient(server.address);
  await client.send(client.next()!);
  const retry = await client.receive();
  assertEquals((retry[0]! >> 4) & 0x03, 3, "a Retry packet");
  client.take(retry);
  const initial = client.next()!;
  const { token } = quiche.Header.fromSlice(initial, 16);
  assert(token && token.length > 0);
  const text = (bytes: Uint8Array) => String.fromCharCode(...bytes);
  const tokenAt = text(initial).indexOf(text(token));
  return { client, initial, tokenAt, tokenLength: token.length };
}

quicTest(
  "QuicEndpoint drops Initial packets with a token that was forged or is another's",
  async () => {
    await using server = listen({ retryAfterHalfOpen: 0 });
    const { client, initial, tokenAt, tokenLength } = await withToken(server);
    await using _ = client;
    let dropped = 0;
    const assertDropped = async (what: string) => {
      dropped++;
      await eventually(
        `${what} was dropped`,
        () => server.endpoint.stats.dropped["bad-token"] === dropped,
      );
      assertEquals(server.endpoint.stats.halfOpen, 0);
    };
    for (const offset of [0, 7, 8, tokenLength - 33, tokenLength - 1]) {
      const forged = initial.slice();
      forged[tokenAt + offset]! ^= 1;
      await client.send(forged);
      await assertDropped(`a token with byte ${offset} changed`);
    }
    // For another connection id.
    const elsewhere = initial.slice();
    elsewhere[6]! ^= 1;
    await client.send(elsewhere);
    await assertDropped("a token with another connection id");
    // From another port of the same host.
    await using stranger = new RawClient(server.address);
    await stranger.send(initial);
    await assertDropped("a token from another address");
    // Nothing of this has used the token up.
    await client.send(initial);
    await client.run(() => client.native.isEstablished());
    await server.endpoint.accept();
    assertEquals(server.endpoint.stats.dropped["bad-token"], dropped);
    assertEquals(server.failures, []);
  },
);

quicTest("QuicEndpoint drops Initial packets with a token that has expired", async () => {
  const realNow = Date.now;
  let laterMs = 0;
  // The endpoint takes its clock when it is made.
  Date.now = () => realNow() + laterMs;
  try {
    await using server = listen({ retryAfterHalfOpen: 0 });
    const { client, initial } = await withToken(server);
    await using _ = client;
    laterMs = 60_000;
    await client.send(initial);
    await eventually("it was dropped", () => server.endpoint.stats.dropped["bad-token"] === 1);
    assertEquals(server.endpoint.stats.halfOpen, 0);
    laterMs = 0;
    await client.send(initial);
    await client.run(() => client.native.isEstablished());
    await server.endpoint.accept();
  } finally {
    Date.now = realNow;
  }
});

// What strangers may cost

quicTest(
  "QuicEndpoint answers no more than maxHalfOpen handshakes at a time, and recovers",
  async () => {
    await using server = listen({ maxHalfOpen: 3, handshakeTimeoutMs: 400 });
    const { endpoint } = server;
    await using stack = new AsyncDisposableStack();
    for (let i = 1; i <= 3; i++) {
      // An address would get no more than it leaves for others.
      const client = stack.use(new RawClient(server.address, undefined, `127.0.0.${1 + i}`));
      const initial = client.next()!;
      await client.send(initial);
      await eventually(`${i} handshakes are under way`, () => endpoint.stats.halfOpen === i);
      // The same packet again belongs to the same handshake.
      const { received } = endpoint.stats;
      await client.send(initial);
      await eventually("it has come again", () => endpoint.stats.received > received);
      assertEquals(endpoint.stats.halfOpen, i);
    }
    assertEquals(endpoint.stats.dropped.busy, 0);
    await using client = new QuicEndpoint(LOOPBACK);
    const error = await assertRejects(
      () => connect(client, server.address, { handshakeTimeoutMs: 100 }),
      ConnectionClosedError,
    );
    assertEquals([error.info.by, endpoint.stats.dropped.busy], ["timeout", 1]);
    await eventually("the handshakes have timed out", () => server.failures.length === 3);
    for (const { by, reason } of server.failures) {
      assertEquals([by, reason], ["timeout", "handshake not complete after 400 ms"]);
    }
    const accepting = endpoint.accept();
    // They count for a second more.
    await eventually("a client that tries again gets in", async () => {
      await connect(client, server.address, { handshakeTimeoutMs: 200 });
      return true;
    });
    await accepting;
    assertEquals(endpoint.stats.halfOpen, 0);
  },
);

quicTest(
  "QuicEndpoint sends a client that has not proved its address three times as much at most",
  async () => {
    await using server = listen({ handshakeTimeoutMs: 1500 });
    await using client = new RawClient(server.address);
    const initial = client.next()!;
    await client.send(initial);
    let answered = 0;
    // Until the socket is closed.
    (async () => {
      for (;;) answered += (await client.receive()).length;
    })().catch(() => {});
    await eventually("the server has given up", () => server.failures.length === 1);
    assertGreaterOrEqual(answered, 1);
    assertLessOrEqual(answered, 3 * initial.length);
  },
);

quicTest(
  "QuicEndpoint gives up a client that sends too much before it has authenticated itself",
  async () => {
    await using server = listen({ handshakeTimeoutMs: 10_000 });
    await using client = new RawClient(server.address);
    const initial = client.next()!;
    await client.send(initial);
    await eventually("the handshake is under way", () => server.endpoint.stats.halfOpen === 1);
    const junk = initial.slice();
    junk.fill(0xff, 100);
    for (let sent = 0; sent < 1000 && server.failures.length === 0; sent++) {
      const { received } = server.endpoint.stats;
      await client.send(junk);
      await eventually("it has arrived", () => server.endpoint.stats.received > received);
    }
    assertEquals(server.failures.map(({ by, reason }) => [by, reason]), [
      ["local", "the peer sent too much before it authenticated itself"],
    ]);
    assertEquals(server.endpoint.stats.halfOpen, 0);
    assertLessOrEqual(server.endpoint.stats.received, 300);
  },
);

quicTest(
  "QuicEndpoint counts handshakes that fail at once among those under way for a while",
  async () => {
    await using server = listen({ retryAfterHalfOpen: 10, maxHalfOpen: 20 });
    const { endpoint } = server;
    await using client = new RawClient(server.address);
    // Each seems to start a connection of its own, and none can be opened.
    const initial = client.next()!;
    initial.fill(0xff, 100);
    for (let i = 0; i < 300; i++) {
      initial.set(randomBytes(initial[5]!), 6);
      const { received } = endpoint.stats;
      await client.send(initial);
      await eventually("it has arrived", () => endpoint.stats.received > received);
    }
    // Otherwise strangers would have the endpoint make, and keep for a second, as many as they like.
    assertLessOrEqual(server.failures.length, 100);
  },
);

// Until the server has judged

quicTest(
  "QuicEndpoint connect() takes a stranger's packet for no verdict of the server's",
  async () => {
    await using server = listen();
    // Its Finished and its certificate take their time, in which it believes that it is connected.
    await using relay = new UdpRelay(server.address, { toServer: { delayMs: 150 }, capture: 1 });
    await using client = new QuicEndpoint(LOOPBACK);
    const tls = await otherCa.client({}, ca);
    const outcome = connect(client, relay.addr, { tls }).then(
      () => "connected",
      (error) => `${error}`,
    );
    await eventually("the certificate is under way", () => relay.counters.toServer.received >= 2);
    // Whoever sees the packets knows the client's connection id.
    const { scid } = parseLongHeader(relay.captured[0]!)!;
    const forged = new Uint8Array([0x40, ...scid, ...randomBytes(40)]);
    relay.injectToClients(forged);
    assertEquals(
      await outcome,
      "ConnectionClosedError: connection closed by the peer: TLS alert 48, certificate of an unknown CA",
    );
  },
);

quicTest(
  "QuicEndpoint connect() bounds its wait for a server that falls silent after its first answer",
  async () => {
    await using server = listen();
    await using relay = new UdpRelay(server.address, { toServer: { delayMs: 100 } });
    await using client = new QuicEndpoint(LOOPBACK);
    const startedAt = performance.now();
    const connecting = assertRejects(
      () => connect(client, relay.addr, { handshakeTimeoutMs: 300, idleTimeoutMs: 8000 }),
      ConnectionClosedError,
    );
    await eventually("the client has had its answer", () => relay.counters.toServer.received >= 2);
    // What it says to that is on its way, and never arrives.
    relay.cut();
    const error = await connecting;
    assertEquals(error.info.by, "timeout");
    // Far from the idle timeout, however slow the machine.
    assertLessOrEqual(performance.now() - startedAt, 4000);
  },
);
