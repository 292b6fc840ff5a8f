// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The admin listener: what it answers to whom, in this process and in real ones. */
import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { startAdmin } from "../../lib/observe/admin.ts";
import { formatAuthority } from "../../lib/net/authority.ts";
import { UsageError } from "../../lib/errors.ts";
import { Monitor } from "../../lib/observe/monitor.ts";
import { type ProgramName, version } from "../../lib/version.ts";
import { eventually } from "../support/eventually.ts";
import { logLines, loopback, PROMPT_MS, soon } from "../support/network.ts";
import { fakeCertificate, fakePeer } from "../support/peers.ts";
import type { ChildProgram } from "../support/processes.ts";
import { samplesOf } from "../support/samples.ts";
import { Site } from "../support/site.ts";

/** Silence of 5 s, after which a connection has ended, and a second for all else. */
const VANISHED_MS = 6_000;

const PATHS = [
  "/livez",
  "/healthz",
  "/readyz",
  "/ready",
  "/metrics",
  "/version",
  "/status.json",
  "/",
];

interface Admin {
  readonly monitor: Monitor;
  readonly port: number;
  /** Asks for a path, by another name of this host if so wished. */
  get(path: string, init?: { method?: string; host?: string }): Promise<Answer>;
}

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

type Address = { hostname: string; port: number };

function ask(
  address: Address,
  path: string,
  { method = "GET", host = formatAuthority(address) } = {},
): Promise<Answer> {
  return soon(`an answer to ${path}`, exchange(address, path, method, host));
}

/** Sends a request as it is written, as `fetch()` sets Host on its own. */
async function exchange(
  address: Address,
  path: string,
  method: string,
  host: string,
): Promise<Answer> {
  using connection = await Deno.connect(address);
  const request = `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`;
  await connection.write(new TextEncoder().encode(request));
  let text = "";
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(64 << 10);
  for (let n; (n = await connection.read(buffer)) !== null;) {
    text += decoder.decode(buffer.subarray(0, n), { stream: true });
  }
  const [head, body] = text.split("\r\n\r\n", 2) as [string, string];
  const [first, ...fields] = head.split("\r\n");
  const headers = new Headers(fields.map((field) => field.split(/: */, 2) as [string, string]));
  return { status: Number(first!.split(" ")[1]), headers, body };
}

/** Has a listener of a program for the length of a test. */
function test(
  name: string,
  fn: (admin: Admin) => Promise<void> | void,
  { program = "proxy-server", hostname = "127.0.0.1" }: {
    program?: ProgramName;
    hostname?: string;
  } = {},
): void {
  Deno.test(name, async () => {
    using _ = logLines(0);
    const stop = new AbortController();
    const monitor = Object.assign(new Monitor(program, "one"), { isListening: true });
    const address = { hostname, port: 0 };
    const { signal } = stop;
    const { addr: { port }, finished } = startAdmin({ address, monitor, signal });
    try {
      await fn({
        monitor,
        port,
        get: (path, init) => ask({ hostname, port }, path, init),
      });
    } finally {
      stop.abort();
      await finished;
    }
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
  const elsewhere = [
    "/nope",
    "/livez/",
    "/metrics/x",
    "/toString",
    "//",
    "/__proto__",
    "/%2e%2e/etc",
  ];
  for (const path of elsewhere) {
    const { status, body } = await get(path);
    assertEquals([status, body], [404, "not found\n"], path);
  }
});

test("startAdmin() keeps pages of other sites from reading what is private", async ({ get }) => {
  for (const path of ["/", "/status.json"]) {
    for (const host of ["evil.example", "evil.example:80", "localhost.evil.example"]) {
      const { status, body } = await get(path, { host });
      assertEquals(status, 421, `${path} ${host}`);
      assertMatch(body, /^Open this page by IP address or as localhost/);
    }
    for (const host of ["localhost:8095", "LOCALHOST", "192.0.2.1", "[2001:db8::1]:80"]) {
      assertEquals((await get(path, { host })).status, 200, `${path} ${host}`);
    }
  }
});

test("startAdmin() refuses a request whose host is none, and logs nothing of it", async ({ get }) => {
  using lines = logLines(4);
  for (const path of PATHS) {
    const { status, body } = await get(path, { host: "a b" });
    assertEquals([status, body], [400, "bad request\n"]);
  }
  assertEquals(lines.length, 0);
});

test("startAdmin() answers probes and scrapers by whatever name", async ({ get }) => {
  const paths = PATHS.filter((path) => path !== "/" && path !== "/status.json");
  for (const path of paths) {
    const { status } = await get(path, { host: "proxy-server.quic-tunnel.svc" });
    assert(status === 200 || (status === 503 && path.startsWith("/ready")), path);
  }
});

for (const hostname of ["localhost", "::1"]) {
  test(`startAdmin() listens on ${hostname}`, async ({ get }) => {
    assertEquals((await get("/status.json")).status, 200);
  }, { hostname });
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

/** Where a program's admin listener is. */
async function adminOf(program: ChildProgram): Promise<Address> {
  const [, port] = await program.line(/"?admin listener on 127\.0\.0\.1:(\d+)/);
  return loopback(Number(port));
}

const withAdmin = { "listen-admin": "127.0.0.1:0" };

const becomesReady = (admin: Address) =>
  eventually("it is ready", async () => (await ask(admin, "/readyz")).status === 200);

/** Waits until a program is not ready, for what follows in its answer. */
const becomesUnready = (admin: Address, problem: string, ms = VANISHED_MS) =>
  eventually(`it is not ready: ${problem}`, async () => {
    const { status, body } = await ask(admin, "/readyz");
    return status === 503 && body.includes(problem);
  }, ms);

Deno.test("/readyz turns to 503 while a program drains, and /livez does not", async () => {
  await using site = await Site.start();
  const server = await site.server(withAdmin);
  const agent = await site.agent(server.quic, withAdmin);
  const [atServer, atAgent] = [await adminOf(server.program), await adminOf(agent)];
  for (const admin of [atServer, atAgent]) await becomesReady(admin);
  // More than a client takes that does not read.
  const client = await site.request(server.tcpPort, 100_000_000);
  try {
    for (const [admin, program] of [[atAgent, agent], [atServer, server.program]] as const) {
      program.kill("SIGTERM");
      await becomesUnready(admin, "[-]draining failed: shutting down\n", PROMPT_MS);
      assertEquals((await ask(admin, "/livez")).status, 200);
    }
  } finally {
    client.abort();
  }
});

Deno.test("/readyz of a server turns to 503 once its only agent has vanished, and /metrics tells", async () => {
  await using site = await Site.start();
  const { program, quic, tcpPort } = await site.server(withAdmin);
  const agent = await site.agent(quic, withAdmin);
  const admin = await adminOf(program);
  await becomesReady(admin);
  const client = await site.request(tcpPort, 100_000_000);
  site.use({ [Symbol.dispose]: () => client.abort() });
  agent.kill("SIGKILL");
  await becomesUnready(admin, "[-]agents failed: no agent is connected");
  const lost = { by: "agent", reason: "connection-lost" };
  await eventually("its connection and tunnel are over", async () => {
    const samples = samplesOf((await ask(admin, "/metrics")).body);
    const value = (name: string) =>
      samples.find((sample) => sample.name === `quic_tunnel_server_${name}`);
    const { value: ended, labels } = value("tunnels_total")!;
    assertEquals([ended, labels], [1, lost]);
    return value("connected_agents")?.value === 0;
  }, VANISHED_MS);
});

Deno.test("/readyz of an agent turns to 503 once its only server has vanished", async () => {
  await using site = await Site.start();
  const { program, quic } = await site.server();
  const admin = await adminOf(await site.agent(quic, withAdmin));
  await becomesReady(admin);
  program.kill("SIGSTOP");
  try {
    await becomesUnready(admin, "[-]servers failed: not connected to a server");
  } finally {
    program.kill("SIGCONT");
  }
});

Deno.test("/livez answers while a server is busy", async () => {
  await using site = await Site.start();
  const { program, tcpPort, quic } = await site.server(withAdmin);
  await site.agent(quic);
  const admin = await adminOf(program);
  const clients = await Promise.all(
    Array.from({ length: 50 }, () => site.request(tcpPort, 20_000_000)),
  );
  const reading = clients.map(async (client) => {
    const buffer = new Uint8Array(64 << 10);
    while (await client.read(buffer) !== null);
  });
  try {
    for (let i = 0; i < 20; i++) {
      assertEquals((await ask(admin, "/livez")).status, 200);
    }
  } finally {
    for (const client of clients) client.abort();
    await Promise.allSettled(reading);
  }
});

Deno.test("SIGUSR1 has a program log its peers and tunnels, and go on", async () => {
  await using site = await Site.start();
  const { program, tcpPort, quic } = await site.server();
  const agent = await site.agent(quic);
  const client = await site.request(tcpPort, 100_000_000);
  try {
    program.kill("SIGUSR1");
    await program.line(
      /INF snapshot "peer" name=\S+ address=127\.0\.0\.1:\d+ alpn=qrht\/1 state=serving/,
    );
    await program.line(
      /INF snapshot "tunnel" tunnel=\w+ client=127\.0\.0\.1:\d+ peer=\S+ state=open/,
    );
    await program.line(/INF snapshot "snapshot" peers=1 tunnels=1 connected=1/);
    agent.kill("SIGUSR1");
    const [, target] = await agent.line(
      /snapshot "tunnel" .*client=127\S+ target=(\S+) peer=\S+ state=open/,
    );
    assertEquals(target, site.origin);
    await agent.line(/INF snapshot "snapshot" peers=1 tunnels=1 connected=1/);
  } finally {
    client.abort();
  }
});
