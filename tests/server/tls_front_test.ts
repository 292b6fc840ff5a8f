// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The TLS front, and what clients try on it that it must not admit, or must not be stopped by. */
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from "node:tls";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { issueCertificate, type Issued } from "../../lib/certs/issue.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { configureLog, logger, resetLog } from "../../lib/log.ts";
import { formatSocketAddress } from "../../lib/net/authority.ts";
import { connectTcp, resetTcp } from "../../lib/net/tcp_reset.ts";
import { parseCidr } from "../../lib/net/cidr.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { TlsFront, type TlsFrontOptions } from "../../lib/server/tls_front.ts";
import { checkTlsFiles, type TlsMaterial } from "../../lib/tls/material.ts";
import { ServerContext } from "../../lib/tls/tls_carrier.ts";
import { issueIntermediate, nameConstraints, PAST } from "../support/any_certificate.ts";
import { oldVersionOf } from "../support/old_certificate.ts";
import { eventually } from "../support/eventually.ts";
import { fileContent, TestCa } from "../support/tls.ts";

const [trusted, foreign] = [await TestCa.create("the CA"), await TestCa.create("other CA")];
const server = await issueCertificate(trusted.ca, {
  commonName: "server",
  usage: "server",
  dnsNames: ["localhost"],
});

/** What a server has read from files. */
function materialOf(ca: string, { certPem, keyPem }: Issued = server): TlsMaterial {
  return checkTlsFiles({
    ca: fileContent("--tls-client-ca-file", ca),
    cert: fileContent("--tls-cert-file", certPem),
    key: fileContent("--tls-cert-key", keyPem),
  }, { tryOut: (identity) => void new ServerContext(identity, { asksClients: true }) });
}

/** A certificate of a client, as `node:tls` takes it. */
async function clientOf(ca: TestCa, options: Parameters<TestCa["client"]>[0] = {}) {
  const { cert, key } = await ca.client({ commonName: "kube-apiserver", ...options });
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { cert: text(cert), key: text(key) };
}
const client = await clientOf(trusted);

/** A front on loopback, its refusals, and the lines of its log. */
class Scene implements Disposable {
  readonly tls = { current: materialOf(trusted.ca.certPem) };
  readonly refusals: string[] = [];
  readonly lines: string[] = [];
  readonly front: TlsFront;
  readonly port: number;

  constructor(options: Partial<TlsFrontOptions> = {}) {
    configureLog(2, (line) => this.lines.push(line));
    const monitor = new Monitor("proxy-server");
    monitor.observe({ refused: (reason) => this.refusals.push(reason) });
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.port = listener.addr.port;
    this.front = new TlsFront(listener, "raw", {
      tls: this.tls,
      clientNames: [],
      acceptProxyProtocol: [],
      tcpKeepaliveMs: 15_000,
      log: logger("server"),
      monitor,
      ...options,
    });
  }

  /** For `Deno.connectTls`. */
  get address() {
    return { hostname: "localhost", port: this.port, caCerts: [trusted.ca.certPem] };
  }

  /** A client, whose handshake is complete as it sees it. */
  async connect(options: ConnectionOptions = client, port = this.port): Promise<TLSSocket> {
    const socket = connectTls({
      host: "localhost",
      port,
      ca: trusted.ca.certPem,
      allowHalfOpen: true,
      ...options,
    } as ConnectionOptions);
    socket.on("error", () => {});
    await Promise.race([event(socket, "secureConnect"), event(socket, "close")]);
    return socket;
  }

  /** A client and its carrier in the front. */
  async pair(options: ConnectionOptions = client, port = this.port) {
    const socket = await this.connect(options, port);
    const accepted = await this.front.accept();
    return { socket, accepted, carrier: accepted.carrier };
  }

  /** A client that is refused, for a reason that the log has. */
  async refuses(options: ConnectionOptions, refusal: string, line: RegExp): Promise<void> {
    const socket = await this.connect(options);
    await eventually(`${refusal}: ${line}`, () => this.lines.some((text) => line.test(text)));
    assertEquals(this.refusals.splice(0), [refusal]);
    socket.destroy();
  }

  [Symbol.dispose](): void {
    this.front.close();
    resetLog();
  }
}

/** Everything up to the end. */
async function readAll(carrier: Pick<Duplex, "read">): Promise<string> {
  const buffer = new Uint8Array(1000);
  let text = "";
  for (let n; (n = await carrier.read(buffer)) !== null;) {
    text += new TextDecoder().decode(buffer.subarray(0, n));
  }
  return text;
}

const bytesOf = (text: string) => new TextEncoder().encode(text);

async function textFrom(socket: TLSSocket): Promise<string> {
  let text = "";
  socket.on("data", (chunk) => text += chunk);
  await event(socket, "end");
  return text;
}

const event = (socket: TLSSocket, name: string) =>
  new Promise((resolve) => socket.once(name, resolve));

const versions = ["TLSv1.2", "TLSv1.3"] as const;

for (const version of versions) {
  const options = { ...client, minVersion: version, maxVersion: version };

  Deno.test(`TlsFront carries bytes and both half-closes on ${version}, and knows the client's name`, async () => {
    using scene = new Scene();
    {
      const { socket, accepted, carrier } = await scene.pair(options);
      assertEquals(accepted.name, "agent-1");
      assertEquals(accepted.remote?.port, socket.localPort);
      socket.end("request");
      assertEquals(await readAll(carrier), "request");
      await writeAll(carrier, bytesOf("answer"));
      await carrier.closeWrite();
      assertEquals(await textFrom(socket), "answer");
      await carrier[Symbol.asyncDispose]();
    }
    const { socket, carrier } = await scene.pair(options);
    await writeAll(carrier, bytesOf("greeting"));
    await carrier.closeWrite();
    assertEquals(await textFrom(socket), "greeting");
    socket.end("late request");
    assertEquals(await readAll(carrier), "late request");
    await carrier[Symbol.asyncDispose]();
  });

  Deno.test(`TlsFront refuses whom it must on ${version}, and logs the cause`, async () => {
    using scene = new Scene({ clientNames: ["kube-apiserver", "*.admitted.example"] });
    const refuses = (more: ConnectionOptions, refusal: string, line: RegExp) =>
      scene.refuses({ minVersion: version, maxVersion: version, ...more }, refusal, line);
    await refuses({}, "certificate", /the client sent no certificate.*hint="set a certificate at/);
    await refuses(
      await clientOf(foreign),
      "certificate",
      /certificate is not signed by the CA, but issued by .*CN=other CA.*hint="set --tls-client-ca/,
    );
    await refuses(
      await clientOf(await TestCa.create("the CA")),
      "certificate",
      /another CA of the same name/,
    );
    await refuses(
      await clientOf(trusted, { notBefore: PAST.notBefore, notAfter: PAST.notAfter }),
      "certificate",
      /certificate expired on 2020-.*hint="renew the client's/,
    );
    await refuses(
      await clientOf(trusted, { usage: "server" }),
      "certificate",
      /certificate is not meant for clients.*clientAuth/,
    );
    scene.lines.splice(0);
    await eventually("the next second", async () => {
      const other = await clientOf(trusted, { commonName: "b", dnsNames: ["x.y"] });
      (await scene.connect({ minVersion: version, maxVersion: version, ...other })).destroy();
      return scene.lines.some((line) => /names="x.y, b" reason="no name in .*admit/.test(line));
    });
    assert(scene.refusals.every((refusal) => refusal === "not-admitted"));
    const named = await scene.pair(await clientOf(trusted, { dnsNames: ["a.admitted.example"] }));
    assertEquals(named.accepted.name, "a.admitted.example");
    named.carrier.abort();
    named.socket.destroy();
  });
}

/** A relay, in whose hands the TCP connections of client and front end as it likes. */
class Relay implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly port = this.#listener.addr.port;
  readonly front: Promise<Deno.TcpConn>;
  #client: Deno.TcpConn | undefined;

  /** @param header what the front gets first */
  constructor(port: number, header = "") {
    this.front = this.#start(port, header);
  }

  async #start(port: number, header: string): Promise<Deno.TcpConn> {
    this.#client = await this.#listener.accept();
    const front = await Deno.connect({ hostname: "127.0.0.1", port });
    await writeAll(front, bytesOf(header));
    const copy = async (from: Deno.Conn, to: Deno.Conn) => {
      const buffer = new Uint8Array(64 << 10);
      for (let n; (n = await from.read(buffer)) !== null;) {
        await writeAll(to, buffer.subarray(0, n));
      }
    };
    copy(this.#client, front).catch(() => {});
    copy(front, this.#client).catch(() => {});
    return front;
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    this.#client?.close();
    this.front.then((front) => front.close(), () => {}).catch(() => {});
  }
}

for (const version of versions) {
  Deno.test(`TlsFront takes the end of the TCP connection for no end of a client's bytes on ${version}`, async () => {
    using scene = new Scene();
    using relay = new Relay(scene.port);
    const options = { ...client, minVersion: version, maxVersion: version };
    const { socket, carrier } = await scene.pair(options, relay.port);
    socket.write("half an upl");
    const buffer = new Uint8Array(100);
    assertEquals(await carrier.read(buffer), 11);
    await (await relay.front).closeWrite();
    const error = await assertRejects(
      async () => await carrier.read(buffer),
      Deno.errors.ConnectionReset,
    );
    assertEquals(error.message, "connection closed without close_notify");
    carrier.abort();
    socket.destroy();
  });
}

/** How much there is when no more comes for a while. */
function settledAt(what: string, count: () => number): Promise<number> {
  let before = 0;
  return eventually(what, async () => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const now = count();
    if (now > 0 && now === before) return now;
    before = now;
    return undefined;
  });
}

/** More than the buffers of the system hold. */
const MANY = 64 << 20;

Deno.test("TlsFront reads no more of a client than its reader does, and writes no more than it takes", async () => {
  using scene = new Scene();
  const connection = await Deno.connectTls({ ...scene.address, ...client });
  await connection.handshake();
  const { carrier } = await scene.front.accept();
  const bytes = new Uint8Array(1 << 20);
  const pushed = { up: 0, down: 0 };
  const push = async (to: Pick<Duplex, "write">, way: "up" | "down") => {
    while (pushed[way] < MANY) pushed[way] += await to.write(bytes);
  };
  const up = push(connection, "up").catch(() => {});
  const down = push(carrier, "down").catch(() => {});
  assert(await settledAt("the client waits", () => pushed.up) < MANY);
  assert(await settledAt("the front waits", () => pushed.down) < MANY);
  carrier.abort();
  connection.close();
  await Promise.all([up, down]);
});

Deno.test("abort() of a TLS carrier resets the client's connection, in the middle of a read", async () => {
  using scene = new Scene();
  const connection = await Deno.connectTls({ ...scene.address, ...client });
  await connection.handshake();
  const { carrier } = await scene.front.accept();
  const pending = assertRejects(async () => await carrier.read(new Uint8Array(1)));
  const read = connection.read(new Uint8Array(1));
  carrier.abort();
  await pending;
  await assertRejects(() => read, Deno.errors.ConnectionReset);
  connection.close();
});

Deno.test("TlsFront lets in no client with the CA's own certificate of version 1 and another key", async () => {
  using scene = new Scene();
  const old = oldVersionOf(foreign.ca);
  scene.tls.current = materialOf(trusted.ca.certPem + old);
  const { key } = client;
  await scene.refuses({ cert: old, key }, "certificate", /not of version 3/);
});

Deno.test("TlsFront takes new certificates for new clients, and lets in none of a CA that is gone", async () => {
  using scene = new Scene();
  const { socket, carrier } = await scene.pair();
  const renewed = await issueCertificate(foreign.ca, {
    commonName: "renewed",
    usage: "server",
    dnsNames: ["localhost"],
  });
  scene.tls.current = materialOf(foreign.ca.certPem, renewed);
  const ca = foreign.ca.certPem;
  await scene.refuses({ ...client, ca }, "certificate", /issued by .*CN=the CA/);
  const other = await scene.pair({ ...await clientOf(foreign), ca });
  assertEquals(other.socket.getPeerCertificate().subject.CN, "renewed");
  socket.end("goes on");
  assertEquals(await readAll(carrier), "goes on");
  for (const each of [carrier, other.carrier]) each.abort();
  other.socket.destroy();
});

Deno.test("TlsFront trusts an intermediate CA by itself, and a chain that a client sends", async () => {
  using scene = new Scene();
  const intermediate = await issueIntermediate(trusted.ca);
  const issued = await issueCertificate(intermediate, { commonName: "below", usage: "client" });
  const { certPem, keyPem: key } = issued;
  await scene.refuses({ cert: certPem, key }, "certificate", /not signed by the CA/);
  const whole = await scene.pair({ cert: certPem + intermediate.certPem, key });
  scene.tls.current = materialOf(intermediate.certPem);
  const short = await scene.pair({ cert: certPem, key });
  for (const { carrier, socket, accepted } of [whole, short]) {
    assertEquals(accepted.name, "below");
    carrier.abort();
    socket.destroy();
  }
});

/** A client that only has a TCP connection. */
async function stranger({ port }: Scene): Promise<Deno.TcpConn> {
  return await Deno.connect({ hostname: "127.0.0.1", port });
}

/** The first bytes of a handshake: a record of 512 bytes that does not come as a whole. */
const BEGINNING = Uint8Array.of(22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3);

Deno.test("TlsFront takes no name of a client that the constraints of its CA forbid", async () => {
  const extensions = [nameConstraints(["good.example"])];
  const constrained = await issueIntermediate(trusted.ca, {}, undefined, extensions);
  const of = async (commonName: string, dnsNames: string[] = []) => {
    const options = { commonName, usage: "client", dnsNames } as const;
    const { certPem, keyPem } = await issueCertificate(constrained, options);
    return { cert: certPem + constrained.certPem, key: keyPem };
  };
  using scene = new Scene();
  for (const admitted of [await of("a.good.example"), await of("good.example", ["good.example"])]) {
    const { socket, carrier } = await scene.pair(admitted);
    carrier.abort();
    socket.destroy();
  }
  for (const names of [[], ["kube-apiserver"]]) {
    await scene.refuses(await of("kube-apiserver", names), "certificate", /constraints .* forbid/);
    scene.lines.splice(0);
  }
});

Deno.test("TlsFront ends handshakes that stop, or creep on byte by byte, when their time is over", async () => {
  using scene = new Scene({ handshakeTimeoutMs: 300 });
  const [stopped, silent, slow] = [
    await stranger(scene),
    await stranger(scene),
    await stranger(scene),
  ];
  await stopped.write(BEGINNING);
  const creep = (async () => {
    for (;;) {
      await slow.write(Uint8Array.of(BEGINNING[0]!));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  await assertRejects(() => creep);
  for (const connection of [stopped, silent]) {
    await assertRejects(
      async () => await connection.read(new Uint8Array(1)),
      Deno.errors.ConnectionReset,
    );
  }
  assertEquals(scene.refusals, ["handshake", "handshake", "handshake"]);
  assert(scene.lines.some((line) => /DBG.*handshake not complete within 300 ms/.test(line)));
  assertEquals(scene.front.handshakes, 0);
  for (const connection of [stopped, silent, slow]) connection.close();
});

Deno.test("TlsFront bounds handshakes under way in number and bytes, and admits others meanwhile", async () => {
  using scene = new Scene({ maxHandshakes: 8 });
  const stopped = await Promise.all(Array.from({ length: 4 }, () => stranger(scene)));
  await eventually("all have begun", () => scene.front.handshakes === 4);
  const further = await stranger(scene);
  await assertRejects(
    async () => await further.read(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
  );
  assertEquals(scene.refusals.splice(0), ["handshake-limit"]);
  stopped.pop()!.close();
  await eventually("one is gone", () => scene.front.handshakes === 3);
  assertEquals(scene.refusals.splice(0), ["health-check"]);
  // A record of a type that is ignored before the handshake would go on and on.
  const talker = stopped.pop()!;
  const record = new Uint8Array(5 + 16_384);
  record.set([22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]);
  const talk = (async () => {
    for (;;) await writeAll(talker, record);
  })();
  await assertRejects(() => talk);
  await eventually("it is refused", () => scene.refusals.length > 0);
  assertEquals(scene.refusals, ["handshake"]);
  for (const connection of [further, talker, ...stopped]) connection.close();
});

Deno.test("TlsFront takes a connection that is reset without a byte for a health check", async () => {
  using scene = new Scene();
  const connection = await connectTcp({ hostname: "127.0.0.1", port: scene.port });
  await eventually("it has begun", () => scene.front.handshakes === 1);
  resetTcp(connection);
  connection.close();
  await eventually("it is over", () => scene.refusals.length > 0);
  assertEquals(scene.refusals, ["health-check"]);
});

Deno.test("TlsFront gives up the oldest of too many handshakes for a client that comes after a second", async () => {
  using scene = new Scene({ maxHandshakes: 4, handshakeTimeoutMs: 60_000 });
  const oldest = await stranger(scene);
  await eventually("it has begun", () => scene.front.handshakes === 1);
  const other = await stranger(scene);
  await eventually("all have begun", () => scene.front.handshakes === 2);
  const ended = assertRejects(
    async () => await oldest.read(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
  );
  const admitted = await eventually("a client is admitted", async () => {
    const socket = await scene.connect();
    return socket.authorized && !socket.destroyed ? socket : undefined;
  });
  await ended;
  (await scene.front.accept()).carrier.abort();
  assertEquals(scene.front.handshakes, 1);
  admitted.destroy();
  oldest.close();
  other.close();
});

Deno.test("TlsFront tells a client of HTTP without TLS so, and closes what is not TLS", async () => {
  using scene = new Scene();
  const http = await stranger(scene);
  await http.write(bytesOf("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"));
  const answer = await readAll(http);
  assertEquals(answer.slice(0, 12), "HTTP/1.0 400");
  const other = await stranger(scene);
  await other.write(bytesOf("SSH-2.0-x\r\n"));
  assertEquals(await readAll(other), "");
  const lines = scene.lines.join("\n");
  assert(/speaks HTTP without TLS" hint="configure TLS at the client/.test(lines), lines);
  assert(/does not speak TLS/.test(lines), lines);
  http.close();
  other.close();
});

Deno.test("TlsFront finds the PROXY header of a load balancer ahead of the handshake", async () => {
  using scene = new Scene({ acceptProxyProtocol: [parseCidr("127.0.0.0/8")] });
  using relay = new Relay(scene.port, "PROXY TCP4 192.0.2.1 192.0.2.2 1111 443\r\n");
  const { accepted, socket } = await scene.pair(client, relay.port);
  assertEquals(formatSocketAddress(accepted.remote!), "192.0.2.1:1111");
  assertEquals(formatSocketAddress(accepted.local!), "192.0.2.2:443");
  assertEquals(accepted.via && formatSocketAddress(accepted.via).split(":")[0], "127.0.0.1");
  accepted.carrier.abort();
  socket.destroy();
});

Deno.test("TlsFront resets clients that are not admitted yet when it is closed", async () => {
  using scene = new Scene();
  const client = await stranger(scene);
  await client.write(BEGINNING);
  await eventually("its handshake has begun", () => scene.front.handshakes === 1);
  const waiting = assertRejects(() => scene.front.accept());
  scene.front.close();
  await waiting;
  await assertRejects(
    async () => await client.read(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
  );
  await assertRejects(() => scene.front.accept());
  client.close();
});
