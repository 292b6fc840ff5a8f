// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The client's part of CONNECT-UDP, with servers and proxies on loopback. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { MAX_DATAGRAM_BYTES } from "../../lib/connect_udp/capsule.ts";
import { CarrierSocket } from "../../lib/connect_udp/carrier_socket.ts";
import {
  CarrierDialError,
  type CarrierStep,
  dialCarrier,
  type DialCarrierOptions,
} from "../../lib/connect_udp/dial_carrier.ts";
import { HttpProxy } from "../../lib/connect_udp/http_proxy.ts";
import { NotParsedError } from "../../lib/errors.ts";
import { sleep } from "../../lib/wait.ts";
import { pattern } from "../support/bytes.ts";
import {
  answering,
  carrierListener,
  proxyTo,
  readHead,
  ScriptedListener,
  tcpListener,
  tlsListener,
} from "../support/carrier_server.ts";
import { eventually } from "../support/eventually.ts";
import {
  assertGivenUp,
  combinations,
  loopback,
  Network,
  silentTarget,
  soon,
  text,
  utf8,
} from "../support/network.ts";
import { clientTls } from "../support/quic.ts";
import { TestCa } from "../support/tls.ts";

const forever = new AbortController().signal;

function optionsFor(port: number, more: Partial<DialCarrierOptions> = {}): DialCarrierOptions {
  return {
    server: loopback(port),
    resolve: () => Promise.reject(new Error("name not resolved")),
    serverName: "quic-tunnel-server",
    caCerts: [text.decode(clientTls.ca)],
    target: { hostname: "quic.example", port: 443 },
    ...more,
  };
}

/** Sends each datagram back. */
function echoServer() {
  return carrierListener((carrier) => {
    const socket: CarrierSocket = new CarrierSocket(carrier, {
      datagram: (bytes) => send(socket, bytes),
      writable() {},
      lost() {},
    });
    return socket;
  });
}

function send(socket: CarrierSocket, bytes: Uint8Array): void {
  socket.reserve(bytes.length)!.set(bytes);
  socket.commit(bytes.length);
  socket.flush();
}

/** Asserts that datagrams get to an echo server and back. */
async function assertCarries(
  options: DialCarrierOptions,
  maxDatagramBytes?: number,
): Promise<void> {
  const carrier = await dialCarrier(options, forever);
  assertEquals(carrier.maxDatagramBytes, maxDatagramBytes);
  const got: Uint8Array[] = [];
  const socket = new CarrierSocket(carrier, {
    datagram: (bytes) => got.push(bytes.slice()),
    writable() {},
    lost() {},
  });
  const sent = [1, 1_200, 16_376].map(pattern);
  for (const bytes of sent) send(socket, bytes);
  await eventually("they are back", () => got.length === 3);
  assertEquals(got, sent);
  await socket.close();
  assertEquals(await socket.closed, undefined);
}

async function failureOf(
  options: DialCarrierOptions,
  step: CarrierStep,
  message: RegExp,
  signal = forever,
): Promise<CarrierDialError> {
  const error = await soon(
    "the error",
    assertRejects(() => dialCarrier(options, signal), CarrierDialError),
  );
  assertMatch(error.message, message);
  assertEquals(error.step, step);
  return error;
}

Deno.test("dialCarrier() establishes a carrier over TLS", async () => {
  await using server = echoServer();
  await assertCarries(optionsFor(server.port), MAX_DATAGRAM_BYTES);
});

Deno.test("dialCarrier() resolves names, and tries their addresses in turn", async () => {
  await using server = echoServer();
  const names: string[] = [];
  const resolve = (name: string) => {
    names.push(name);
    return Promise.resolve([Uint8Array.of(127, 0, 0, 99), Uint8Array.of(127, 0, 0, 1)]);
  };
  const at = { hostname: "tunnel.example", port: server.port };
  await assertCarries(optionsFor(0, { server: at, resolve }), MAX_DATAGRAM_BYTES);
  assertEquals(names, ["tunnel.example"]);
  await failureOf(
    optionsFor(0, { server: at, resolve: () => Promise.resolve([]) }),
    "tcp",
    /^tunnel\.example:\d+: name does not resolve$/,
  );
});

Deno.test({
  name: "dialCarrier() goes on with the next address where one takes connections and nothing more",
  // Others do not have the whole network.
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await using server = echoServer();
    const { port } = server;
    const dead = Deno.listen({ hostname: "127.0.0.2", port });
    using _ = dead;
    const hosts = [2, 3, 1];
    const resolve = () => Promise.resolve(hosts.map((host) => Uint8Array.of(127, 0, 0, host)));
    const options = optionsFor(0, {
      server: { hostname: "tunnel.example", port },
      resolve,
      stepTimeoutMs: 200,
    });
    const accepted = dead.accept();
    const since = performance.now();
    await assertCarries(options, MAX_DATAGRAM_BYTES);
    const tookMs = performance.now() - since;
    assert(tookMs > 190 && tookMs < 2_000, `${tookMs} ms`);
    const connection = await accepted;
    // It is closed, after a request for TLS.
    await soon("the end", connection.readable.pipeTo(new WritableStream()).catch(() => {}));

    hosts.pop();
    const error = await failureOf(options, "tls", /^tunnel\.example:\d+: no answer within 200 ms$/);
    assertEquals(error.hint, undefined);
  },
});

Deno.test("dialCarrier() goes through an HTTP proxy, with a password that is not shown", async () => {
  await using server = echoServer();
  const heads: string[] = [];
  await using listener = proxyTo(server.port, heads);
  const proxy = new HttpProxy(loopback(listener.port), "Aladdin", "open sesame");
  const named = { hostname: "tunnel.example", port: 8888 };
  await assertCarries(optionsFor(0, { server: named, proxy }), MAX_DATAGRAM_BYTES);
  assertEquals(heads, [
    "CONNECT tunnel.example:8888 HTTP/1.1\r\nHost: tunnel.example:8888\r\n" +
    "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n",
  ]);
  assertEquals(Deno.inspect(proxy).includes("sesame") || `${proxy}`.includes("sesame"), false);
});

Deno.test("dialCarrier() asks as RFC 9298 says, and takes what another server's proxy answers", async () => {
  const heads: string[] = [];
  const answer = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" +
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: connect-udp\r\n\r\n";
  const capsule = Uint8Array.of(0, 3, 0, 7, 8);
  await using server = tlsListener(async (connection) => {
    heads.push(
      await answering(Uint8Array.of(...utf8.encode(answer), ...capsule))(connection),
    );
  });
  const target = { hostname: "2001:db8::1", port: 4433 };
  const template = "/masque{?target_host,target_port}";
  const carrier = await dialCarrier(optionsFor(server.port, { target, template }), forever);
  assertEquals(carrier.maxDatagramBytes, undefined);
  const buffer = new Uint8Array(10);
  assertEquals(await carrier.duplex.read(buffer), capsule.length);
  assertEquals(buffer.subarray(0, 5), capsule);
  await carrier.duplex[Symbol.asyncDispose]();
  await eventually("the head", () => heads[0]);
  assertEquals(
    heads[0],
    "GET /masque?target_host=2001%3Adb8%3A%3A1&target_port=4433 HTTP/1.1\r\n" +
      `Host: 127.0.0.1:${server.port}\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n` +
      "Capsule-Protocol: ?1\r\n\r\n",
  );
});

const PROXY = "HTTP/1.1 ";
const proxyAnswers: [answer: string, message: RegExp, hint?: RegExp, user?: string][] = [
  [
    `${PROXY}407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n`,
    /^proxy 127\.0\.0\.1:\d+: answered "407 Proxy Authentication Required" to CONNECT 127\.0/,
    /wants a user name and password/,
  ],
  [`${PROXY}407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n`, /407 No/, /does not accept/, "u"],
  [`${PROXY}407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n`, /407 No/, /but negotiate$/, "u"],
  [`${PROXY}401 No\r\nWWW-Authenticate: Basic realm=x\r\n\r\n`, /401 No/, /does not accept/, "u"],
  [`${PROXY}403 Forbidden\r\n\r\n`, /answered "403 Forbidden"/, /does not allow CONNECT/],
  [`${PROXY}502 \x7fBad\r\n\r\n`, /no status line of HTTP\/1/],
  [`${PROXY}503 Unavailable\r\n\r\n`, /answered "503 Unavailable"/],
  ["SSH-2.0-OpenSSH_9.6\r\n", /no status line of HTTP\/1/],
  [`${PROXY}200 OK\r\n\r\n\x16\x03`, /bytes of its own after the answer/],
  [`${PROXY}200 OK\r\nX: ${"x".repeat(70_000)}\r\n\r\n`, /the head is longer than 65536 bytes/],
];

Deno.test("dialCarrier() explains what a proxy answers", async () => {
  for (const [answer, message, hint, user] of proxyAnswers) {
    await using listener = tcpListener(answering(answer));
    const proxy = new HttpProxy(loopback(listener.port), user, "secret");
    const error = await failureOf(optionsFor(1, { proxy }), "proxy", message);
    if (hint) assertMatch(error.hint!, hint);
    else assertEquals(error.hint, undefined);
    assertEquals(Deno.inspect(error).includes("secret"), false);
  }
});

const upgradeAnswers: [answer: string, message: RegExp][] = [
  [`${PROXY}404 Not Found\r\n\r\n`, /^127\.0\.0\.1:\d+: answered "404 Not Found" to the upgrade/],
  [`${PROXY}200 OK\r\n\r\n`, /answered "200 OK"/],
  [`${PROXY}101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`, /to "websocket", not/],
  [`${PROXY}101 X\r\nUpgrade: connect-udp\r\n\r\n`, /not to connect-udp/],
  [`${PROXY}101 X\r\nConnection: Upgrade\r\n\r\n`, /an upgrade to "", not/],
  ["\0\0\0\0", /no status line of HTTP\/1/],
  [`${PROXY}101 X\r\n${"A: b\r\n".repeat(20_000)}\r\n`, /the head is longer than 65536 bytes/],
];

Deno.test("dialCarrier() refuses what is no upgrade", async () => {
  for (const [answer, message] of upgradeAnswers) {
    await using server = tlsListener(answering(answer));
    await failureOf(optionsFor(server.port), "upgrade", message);
  }
  await using server = tlsListener((connection) => connection.closeWrite());
  await failureOf(optionsFor(server.port), "upgrade", /the connection ends before the answer/);
  await assertRejects(
    () => dialCarrier(optionsFor(server.port, { template: "/{x}" }), forever),
    NotParsedError,
    "unknown variable {x}",
  );
});

Deno.test("dialCarrier() tells whose certificate is wrong", async () => {
  await using server = echoServer();
  const other = text.decode((await TestCa.create("other CA")).pem);
  const error = await failureOf(
    optionsFor(server.port, { caCerts: [other] }),
    "tls",
    /^127\.0\.0\.1:\d+: invalid peer certificate: UnknownIssuer$/,
  );
  assertMatch(error.hint!, /decrypt TLS/);
  const wrongName = await failureOf(
    optionsFor(server.port, { serverName: "other" }),
    "tls",
    /not valid for name|NotValidForName/,
  );
  assertMatch(wrongName.hint!, /^the certificate is not for "other": set --server-name/);
  await using plain = tcpListener(async (connection) => {
    await connection.write(utf8.encode("HTTP/1.1 400 Bad Request\r\n\r\n"));
    await connection.read(new Uint8Array(1));
  });
  await failureOf(optionsFor(plain.port), "tls", /^127\.0\.0\.1:\d+: /);
});

Deno.test("dialCarrier() tells that nothing listens", async () => {
  await failureOf(optionsFor(1), "tcp", /^127\.0\.0\.1:1: connection refused$/);
  const proxy = new HttpProxy(loopback(1));
  await failureOf(optionsFor(1, { proxy }), "proxy", /^proxy 127\.0\.0\.1:1: connection refused$/);
});

/** Never says anything. */
const silent = async (connection: Deno.Conn) => {
  const buffer = new Uint8Array(1024);
  while (await connection.read(buffer) !== null);
};

/** A dial that hangs in a step, and the listener that it hangs at. */
const hangs: [
  step: CarrierStep,
  open: () => { at: ScriptedListener; options: DialCarrierOptions },
][] = [
  ["proxy", () => {
    const at = tcpListener(silent);
    return { at, options: optionsFor(1, { proxy: new HttpProxy(loopback(at.port)) }) };
  }],
  ["tls", () => {
    const at = tcpListener(silent);
    return { at, options: optionsFor(at.port) };
  }],
  ["upgrade", () => {
    const at = tlsListener(silent);
    return { at, options: optionsFor(at.port) };
  }],
];

for (const [step, open] of hangs) {
  Deno.test(`dialCarrier() ends a dial that hangs in ${step}, and its connection`, async () => {
    const limits = [
      { stepTimeoutMs: 100, timeoutMs: 60_000 },
      { stepTimeoutMs: 60_000, timeoutMs: 100 },
    ];
    for (const limit of limits) {
      const { at, options } = open();
      await using _ = at;
      await failureOf({ ...options, ...limit }, step, /: no answer within 100 ms$/);
      await ended(at);
    }
    const { at, options } = open();
    await using _ = at;
    const controller = new AbortController();
    const reason = new Error("enough");
    const dialling = assertRejects(() => dialCarrier(options, controller.signal), Error, "enough");
    await eventually("it hangs", () => at.connections.length === 1);
    await sleep(20);
    controller.abort(reason);
    await soon("its end", dialling);
    await ended(at);
  });
}

const ended = (at: ScriptedListener) => eventually("it is closed", () => at.ended === 1);

Deno.test({
  name: "dialCarrier() gives up an address that does not answer",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await using net = new Network(combinations.raw!);
    const target = await silentTarget(net);
    const options = optionsFor(target.port, { stepTimeoutMs: 100 });
    await failureOf(options, "tcp", /^127\.0\.0\.1:\d+: no answer within 100 ms$/);
    await assertGivenUp(net, target);
  },
});

Deno.test("CarrierSocket resets a connection of TLS whose server does not read", async () => {
  const close = Promise.withResolvers<void>();
  await using server = tlsListener(async (connection) => {
    await readHead(connection);
    await connection.write(utf8.encode(
      "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n\r\n",
    ));
    await close.promise;
    await silent(connection);
  });
  const carrier = await dialCarrier(optionsFor(server.port), forever);
  const socket = new CarrierSocket(carrier, { datagram() {}, writable() {}, lost() {} });
  // The kernel's buffers take some, too.
  for (let idle = 0; idle < 20; idle++) {
    while (socket.reserve(16_376)) {
      socket.commit(16_376);
      socket.flush();
      idle = 0;
    }
    await sleep(5);
  }
  await soon("its end", socket.close());
  close.resolve();
  await ended(server);
});

Deno.test("dialCarrier() ends a dial whose name is not resolved, or whose signal has aborted", async () => {
  const server = { hostname: "tunnel.example", port: 1 };
  const resolve = () => new Promise<never>(() => {});
  await failureOf(
    optionsFor(0, { server, resolve, stepTimeoutMs: 50 }),
    "tcp",
    /^tunnel\.example:1: no answer within 50 ms$/,
  );
  const signal = AbortSignal.abort(new Error("before"));
  await assertRejects(() => dialCarrier(optionsFor(1), signal), Error, "before");
  assert(signal.aborted);
});
