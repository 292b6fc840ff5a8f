// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The admin listener: what it answers to whom, in this process and in real ones. */
import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { startAdmin } from "../../lib/observe/admin.ts";
import { type Authority, formatAuthority } from "../../lib/net/authority.ts";
import { UsageError } from "../../lib/errors.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { version } from "../../lib/version.ts";
import { eventually } from "../support/eventually.ts";
import {
  logLines,
  loopback,
  PROMPT_MS,
  readUntilOver,
  type Server,
  soon,
  test as networkTest,
} from "../support/network.ts";
import { fakeCertificate, fakePeer } from "../support/peers.ts";
import { samplesOf } from "../support/samples.ts";
import { Site } from "../support/site.ts";
import { UdpRelay } from "../support/udp_relay.ts";

/** Silence of 5 s, after which a connection has ended, and a second for all else. */
const VANISHED_MS = 6_000;

/** Those that anybody may ask for by whatever name, and those that are private. */
const PUBLIC = ["/livez", "/healthz", "/readyz", "/ready", "/metrics", "/version"];
const PRIVATE = ["/status.json", "/"];
const PATHS = [...PUBLIC, ...PRIVATE];

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

/** Asks a listener for a path, by another name of this host if so wished. */
function ask(
  { hostname, port }: Authority,
  path: string,
  { method = "GET", host }: { method?: string; host?: string } = {},
): Promise<Answer> {
  const url = `http://${formatAuthority({ hostname, port })}${path}`;
  const fetched = async () => {
    using client = Deno.createHttpClient({ allowHost: true });
    const response = await fetch(url, { client, method, headers: host ? { host } : {} });
    const { status, headers } = response;
    return { status, headers, body: await response.text() };
  };
  return soon(`an answer to ${path}`, fetched());
}

/** Starts the listener of a program in this process. */
function startFor(monitor: Monitor, hostname = "127.0.0.1", names: readonly string[] = []) {
  const stop = new AbortController();
  const { addr: { port }, finished } = startAdmin({
    address: { hostname, port: 0 },
    names,
    monitor,
    signal: stop.signal,
  });
  return {
    monitor,
    port,
    get: (path: string, init?: Parameters<typeof ask>[2]) => ask({ hostname, port }, path, init),
    [Symbol.asyncDispose]: () => (stop.abort(), finished),
  };
}

/** Has the listener of a server for the length of a test. */
function test(
  name: string,
  fn: (admin: ReturnType<typeof startFor>) => Promise<void> | void,
  hostname?: string,
  names?: readonly string[],
): void {
  Deno.test(name, async () => {
    using _ = logLines(0);
    const monitor = Object.assign(new Monitor("proxy-server", "one"), { isListening: true });
    await using admin = startFor(monitor, hostname, names);
    await fn(admin);
  });
}

test("startAdmin() has a program alive, and ready once it has a peer, under both names", async ({ get, monitor }) => {
  const answersOf = (...paths: string[]) =>
    Promise.all(paths.map(async (path) => {
      const { status, body } = await get(path);
      return `${status} ${body}`;
    }));
  const [alive, unready] = ["200 ok\n", "503 [-]agents failed: no agent is connected\n"];
  assertEquals(await answersOf("/livez", "/healthz"), [alive, alive]);
  assertEquals(await answersOf("/readyz", "/ready"), [unready, unready]);
  monitor.peers.add(fakePeer("a"));
  assertEquals(await answersOf("/readyz", "/ready"), [alive, alive]);
  monitor.isDraining = true;
  assertEquals(await answersOf("/livez", "/readyz"), [
    alive,
    "503 [-]draining failed: shutting down\n",
  ]);
});

test("startAdmin() tells every check with ?verbose, but for those of ?exclude", async ({ get, monitor }) => {
  const cases = [
    ["/livez?verbose", 200, "livez check passed\n"],
    [
      "/readyz?verbose",
      503,
      "[+]listeners ok\n[-]agents failed: no agent is connected\n[-]certificates failed: " +
      "--cert-file expired at 2020-01-01T00:00:00.000Z\n[+]draining ok\nreadyz check failed\n",
    ],
    ["/readyz?exclude=agents&exclude=certificates", 200, "ok\n"],
    [
      "/readyz?verbose=1&exclude=agents&exclude=certificates",
      200,
      "[+]listeners ok\n[+]draining ok\nreadyz check passed\n",
    ],
    ["/readyz?exclude=certificates", 503, "[-]agents failed: no agent is connected\n"],
  ] as const;
  const certificates = [fakeCertificate(new Date("2020-01-01T00:00:00Z"))];
  monitor.readFrom({ certificates: () => certificates });
  for (const [path, ...expected] of cases) {
    const { status, body } = await get(path);
    assertEquals([status, body], expected, path);
  }
});

test("startAdmin() tells each group, and is ready if one is", async ({ get, monitor }) => {
  const group = (name: string) => ({ name, waiting: 0, listeners: [], routes: [] });
  monitor.readFrom({ groups: () => [group("a"), group("db-*,b")] });
  monitor.peers.add(Object.assign(fakePeer("x"), { groups: ["db-*,b"] }));
  const cases = [
    ["/readyz", 200, "ok\n"],
    ["/readyz?group=db-*,b", 200, "ok\n"],
    ["/readyz?group=a", 503, "[-]group a failed: no agent is connected\n"],
    ["/readyz?group=b", 404, "no such group\n"],
    [
      "/readyz?verbose",
      200,
      "[+]listeners ok\n[+]agents ok\n[+]certificates ok\n[+]draining ok\n" +
      "[-]group a failed: no agent is connected\n[+]group db-*,b ok\nreadyz check passed\n",
    ],
  ] as const;
  for (const [path, ...expected] of cases) {
    const { status, body } = await get(path);
    assertEquals([status, body], expected, path);
  }
  monitor.isDraining = true;
  assertEquals((await get("/readyz?group=db-*,b")).status, 503);
});

test("startAdmin() serves metrics as Prometheus reads them", async ({ get }) => {
  const { status, headers, body } = await get("/metrics");
  assertEquals(status, 200);
  assertEquals(headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  assert(samplesOf(body).some(({ name }) => name === "quic_tunnel_server_ready"));
});

test("startAdmin() tells the version", async ({ get }) => {
  const { headers, body } = await get("/version");
  assertEquals(headers.get("content-type"), "application/json");
  const { program, version: told, description } = JSON.parse(body);
  assertEquals([program, told], ["proxy-server", version]);
  assertStringIncludes(description, version);
});

test("startAdmin() tells its status", async ({ get, monitor }) => {
  monitor.peers.add(fakePeer("a", { rttMs: 7 }));
  monitor.begin({ id: "1", client: "192.0.2.1:5" });
  const { headers, body } = await get("/status.json");
  assertEquals(headers.get("content-type"), "application/json");
  const { program, name, ready, peers, tunnels } = JSON.parse(body);
  assertEquals([program, name, ready], ["proxy-server", "one", true]);
  assertEquals([peers[0].name, peers[0].state, peers[0].rttMs], ["a", "serving", 7]);
  assertEquals([tunnels.open, tunnels.latest[0].client], [1, "192.0.2.1:5"]);
});

test("startAdmin() answers HEAD as GET, without the body", async ({ get }) => {
  for (const path of PATHS) {
    const [whole, head] = [await get(path), await get(path, { method: "HEAD" })];
    assertEquals([head.status, head.body], [whole.status, ""], path);
    assertEquals(head.headers.get("content-type"), whole.headers.get("content-type"), path);
  }
  assertMatch((await get("/")).headers.get("content-type")!, /^text\/html/);
});

test("startAdmin() takes no other methods, and changes nothing", async ({ get }) => {
  for (const path of PATHS) {
    for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]) {
      const { status, headers, body } = await get(path, { method });
      assertEquals([status, body], [405, "only GET and HEAD\n"], `${method} ${path}`);
      assertEquals(headers.get("allow"), "GET, HEAD");
    }
  }
});

test("startAdmin() has nothing elsewhere", async ({ get }) => {
  for (const path of ["/nope", "/livez/", "/metrics/x", "/toString", "//", "/__proto__"]) {
    const { status, body } = await get(path);
    assertEquals([status, body], [404, "not found\n"], path);
  }
});

test("startAdmin() keeps pages of other sites from reading anything", async ({ get }) => {
  for (const path of [...PATHS, "/readyz?verbose", "/nope"]) {
    for (const host of ["evil.example", "evil.example:80", "localhost.evil.example"]) {
      const { status, body } = await get(path, { host });
      assertEquals(status, 421, `${path} ${host}`);
      assertMatch(body, /^Open this page by IP address or as localhost/);
    }
  }
});

test(
  "startAdmin() answers by address, as localhost, and by the names that are configured",
  async ({ get }) => {
    const hosts = [
      "localhost:8095",
      "LOCALHOST",
      "192.0.2.1",
      "[2001:db8::1]:80",
      "proxy-server.quic-tunnel.svc:8095",
      "Tunnel.example",
    ];
    for (const path of PATHS) {
      for (const host of hosts) {
        const { status } = await get(path, { host });
        assert(status === 200 || (status === 503 && path.startsWith("/ready")), `${path} ${host}`);
      }
    }
  },
  undefined,
  ["proxy-server.quic-tunnel.svc", "tunnel.example"],
);

test("startAdmin() answers a request of HTTP/1.0 without a host, as probes send it", async ({ port }) => {
  using connection = await Deno.connect(loopback(port));
  await connection.write(new TextEncoder().encode("GET /livez HTTP/1.0\r\n\r\n"));
  assertMatch(await new Response(connection.readable).text(), /^HTTP\/1\.1 200 OK\r\n.*ok\n$/s);
});

test("startAdmin() answers others while idle connections come without end", async ({ port, get }) => {
  const idle = [];
  for (let i = 0; i < 100; i++) idle.push(await Deno.connect(loopback(port)));
  assertEquals((await get("/livez")).status, 200);
  assertEquals(await idle[0]!.read(new Uint8Array(1)), null);
  for (const connection of idle) connection.close();
});

test("startAdmin() answers others while connections that have their response stay open", async ({ port, get }) => {
  const request = new TextEncoder().encode("GET /livez HTTP/1.0\r\n\r\n");
  const served = [];
  for (let i = 0; i < 100; i++) {
    const connection = await Deno.connect(loopback(port));
    await connection.write(request);
    const bytes = new Uint8Array(1_000);
    const n = await soon("a response", connection.read(bytes));
    assertMatch(new TextDecoder().decode(bytes.subarray(0, n ?? 0)), /^HTTP\/1\.1 200 OK/);
    served.push(connection);
  }
  assertEquals((await get("/livez")).status, 200);
  for (const connection of served) connection.close();
});

test("startAdmin() refuses a request whose host is none, and logs nothing of it", async ({ get }) => {
  using lines = logLines(4);
  for (const path of PATHS) {
    const { status, body } = await get(path, { host: "a b" });
    assertEquals([status, body], [400, "bad request\n"]);
  }
  assertEquals(lines.length, 0);
});

for (const hostname of ["localhost", "::1"]) {
  test(`startAdmin() listens on ${hostname}`, async ({ get }) => {
    assertEquals((await get("/status.json")).status, 200);
  }, hostname);
}

test("startAdmin() has browsers keep, frame and run nothing of it", async ({ get }) => {
  for (const path of PATHS.filter((path) => path !== "/")) {
    const { headers } = await get(path);
    assertEquals(headers.get("cache-control"), "no-store", path);
    assertEquals(headers.get("x-content-type-options"), "nosniff", path);
    assertEquals(headers.get("referrer-policy"), "no-referrer", path);
    const policy = "default-src 'none'; frame-ancestors 'none'";
    assertEquals(headers.get("content-security-policy"), policy, path);
    assertEquals(headers.get("access-control-allow-origin"), null, path);
  }
});

test("startAdmin() answers others while a client sends its request never to the end", async ({ port, get }) => {
  using slow = await Deno.connect(loopback(port));
  await slow.write(new TextEncoder().encode("GET /livez HTTP/1.1\r\nHost: "));
  assertEquals((await get("/livez")).status, 200);
});

test("startAdmin() says in one line when its port is taken", ({ port }) => {
  const address = loopback(port);
  const signal = new AbortController().signal;
  const start = () => startAdmin({ address, monitor: new Monitor("proxy-agent"), signal });
  const { message } = assertThrows(start, UsageError);
  assertMatch(message, new RegExp(`^cannot listen on --listen-admin 127\\.0\\.0\\.1:${port}: .+$`));
});

// Real processes.

/** Waits until a program is not ready, for what follows in its answer. */
const becomesUnready = (
  get: (path: string) => Promise<Answer>,
  problem: string,
  ms = VANISHED_MS,
) =>
  eventually(`it is not ready: ${problem}`, async () => {
    const { status, body } = await get("/readyz");
    return status === 503 && body.includes(problem);
  }, ms);

networkTest(
  "/readyz turns to 503 once the only peer has vanished, and /metrics tells",
  async (net) => {
    await using atServer = startFor(new Monitor("proxy-server"));
    await using atAgent = startFor(new Monitor("proxy-agent"));
    const server = await net.server({}, atServer.monitor);
    await using relay = new UdpRelay(loopback(server.quicPort));
    net.agent({ quicPort: relay.addr.port } as Server, {}, atAgent.monitor);
    await net.tunnel(server);
    for (const { get } of [atServer, atAgent]) assertEquals((await get("/readyz")).status, 200);
    await relay.cut();
    await Promise.all([
      becomesUnready(atServer.get, "[-]agents failed: no agent is connected\n"),
      becomesUnready(atAgent.get, "[-]servers failed: not connected to a server\n"),
    ]);
    const samples = samplesOf((await atServer.get("/metrics")).body);
    const sample = (name: string) =>
      samples.find((each) => each.name === `quic_tunnel_server_${name}`);
    assertEquals(sample("connected_agents")?.value, 0);
    const { value, labels } = sample("tunnels_total")!;
    assertEquals([value, labels], [1, { by: "agent", reason: "connection-lost" }]);
  },
  ["qrht/1"],
);

networkTest("/livez answers while a server is busy", async (net) => {
  await using admin = startFor(new Monitor("proxy-server"));
  const server = await net.server({}, admin.monitor);
  net.agent(server);
  for (let i = 0; i < 20; i++) {
    const { client, atTarget } = await net.tunnel(server);
    net.flood(atTarget);
    void readUntilOver(client);
  }
  for (let i = 0; i < 20; i++) assertEquals((await admin.get("/livez")).status, 200);
}, ["qrht/1"]);

Deno.test("a program logs its peers and tunnels at SIGUSR2, and is alive but not ready while it drains", async () => {
  await using site = await Site.start();
  const flags = { "listen-admin": "127.0.0.1:0" };
  const { program: server, tcpPort, quic } = await site.server(flags);
  const agent = await site.agent(quic, flags);
  // More than a client takes that does not read.
  const client = await site.request(tcpPort, 100_000_000);
  site.use({ [Symbol.dispose]: () => client.abort() });
  server.kill("SIGUSR2");
  await server.line(
    /INF snapshot "peer" name=\S+ address=127\.0\.0\.1:\d+ alpn=qrht\/1 state=serving/,
  );
  await server.line(
    /INF snapshot "tunnel" tunnel=\w+ client=127\.0\.0\.1:\d+ peer=\S+ state=open/,
  );
  agent.kill("SIGUSR2");
  const [, target] = await agent.line(
    /snapshot "tunnel" .*client=127\S+ target=(\S+) peer=\S+ state=open/,
  );
  assertEquals(target, site.origin);
  const getters = [agent, server].map(async (program) => {
    await program.line(/INF snapshot "snapshot" peers=1 tunnels=1 connected=1/);
    const [, port] = await program.line(/"?admin listener on 127\.0\.0\.1:(\d+)/);
    const get = (path: string) => ask(loopback(Number(port)), path);
    assertEquals((await get("/readyz")).status, 200);
    return { program, get };
  });
  for (const { program, get } of await Promise.all(getters)) {
    program.kill("SIGTERM");
    await becomesUnready(get, "[-]draining failed: shutting down\n", PROMPT_MS);
    assertEquals((await get("/livez")).status, 200);
  }
});
