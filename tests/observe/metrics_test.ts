// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Each metric changes as its fact does: with programs in this process, or on a monitor alone where that says as much. */
import { assert, assertEquals, assertLess } from "@std/assert";
import { parseCidr } from "../../lib/net/cidr.ts";
import { failureCodes } from "../../lib/tunnel/failure.ts";
import type { TunnelEnding } from "../../lib/observe/monitor.ts";
import { dropReasons } from "../../lib/quic/mod.ts";
import { InitialForger } from "../support/attacker.ts";
import { eventually } from "../support/eventually.ts";
import { FakeTime } from "../support/fake_time.ts";
import {
  ask,
  assertReads,
  logLines,
  loopback,
  type Network,
  NOBODY,
  OK,
  readText,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  silentTarget,
  soon,
  test,
} from "../support/network.ts";
import { fakeCertificate, fakePeer, fakePeerOnDeno } from "../support/peers.ts";
import { pingFrame } from "../support/quic_packets.ts";
import { samplesOf, Scrapes } from "../support/samples.ts";
import { TestCa } from "../support/tls.ts";

const OWN_ONLY = ["qrht/1"];
const BOTH = ["qrht/1", "raw"];
const OVER = { by: "client", reason: "end" } as const;

/** A server and an agent, each with its metrics. */
async function start(net: Network, config: Parameters<Network["server"]>[0] = {}) {
  const atServer = new Scrapes("proxy-server");
  const atAgent = new Scrapes("proxy-agent");
  const server = await net.server(config, atServer.monitor);
  const agent = net.agent(server, {}, atAgent.monitor);
  await eventually("the agent is connected", () => atServer.monitor.peers.size === 1);
  return { server, agent, atServer, atAgent };
}

/** Waits until a metric has a value. */
function becomes(
  gauges: Scrapes,
  name: string,
  value: number,
  labels: Record<string, string> = {},
): Promise<unknown> {
  const what = `${name}${JSON.stringify(labels)} is ${value}`;
  return eventually(what, async () => {
    const now = await gauges.value(name, labels);
    if (now !== value) throw new Error(`it is ${now}`);
    return true;
  });
}

test("Metrics follow a tunnel from its start to its end, with every byte", async (net) => {
  const { server, atServer, atAgent } = await start(net);
  const target = net.target();
  const client = await net.client(server);
  const request = requestFor(target.authority);
  await sendText(client, request);
  await assertReads(client, OK);
  const atTarget = await target.accept();
  await sendText(client, "to the target");
  await assertReads(atTarget, "to the target");
  await sendText(atTarget, "to client");
  await assertReads(client, "to client");

  assertEquals(await atServer.by("front", "accepted_connections_total"), { tcp: 1 });
  await becomes(atServer, "established_connections", 1);
  await becomes(atServer, "http_connections", 1);
  await becomes(atServer, "pending_backend_dials", 0);
  await becomes(atAgent, "open_endpoint_connections", 1);
  for (const gauges of [atServer, atAgent]) {
    assertEquals(await gauges.value("dial_duration_seconds_count"), 1);
    assertLess((await gauges.value("dial_duration_seconds_sum"))!, 5);
    assertEquals(await gauges.value("connection_duration_seconds_count"), 0);
  }
  const peer = [...atServer.monitor.peers][0]!.name;
  assertEquals(await atServer.value("quic_streams", { agent: peer }), 1);

  await atTarget.closeWrite();
  assertEquals(await readText(client), "");
  await client.closeWrite();
  for (const gauges of [atServer, atAgent]) {
    await becomes(gauges, "connection_duration_seconds_count", 1);
    assertEquals(await gauges.value("tunnels_total", { by: "target" }), 1);
    assertEquals(await gauges.by("reason", "tunnels_total"), { end: 1 });
  }
  await becomes(atServer, "established_connections", 0);
  await becomes(atServer, "http_connections", 0);
  await becomes(atAgent, "open_endpoint_connections", 0);
  // The server carries the request and its answer as well; the agent reads and writes those itself.
  assertEquals(await atServer.by("direction", "carried_bytes_total"), {
    to_target: request.length + "to the target".length,
    to_client: OK.length + "to client".length,
  });
  assertEquals(await atAgent.by("direction", "carried_bytes_total"), {
    to_target: "to the target".length,
    to_client: "to client".length,
  });
}, BOTH);

test("Metrics have the failures of an agent's dials by reason, at both ends", async (net) => {
  const { server, atServer, atAgent } = await start(net);
  const cases = [
    [requestFor(NOBODY), "refused"],
    [requestFor("169.254.169.254:80"), "denied"],
    [requestFor("no-such-name.invalid:80"), "unknown-name"],
    ["GET / HTTP/1.1\r\n\r\n", "bad-request"],
  ] as const;
  for (const [request, reason] of cases) {
    await ask(net, server, request);
    await becomes(atAgent, "endpoint_dial_failure_total", 1, { reason });
    // In the raw dialect the server sees a tunnel like any other, whose target has sent that answer.
    const code = net.isRaw ? 0 : 1;
    await becomes(atServer, "dial_failures_total", code, {
      reason: "error_response",
      code: reason,
    });
  }
  assertEquals(await atAgent.value("connection_duration_seconds_count"), 0);
  assertEquals(await atAgent.value("dial_duration_seconds_count"), 0);
  assertEquals(await atServer.value("dial_duration_seconds_count"), net.isRaw ? cases.length : 0);
}, BOTH);

test("Metrics tell a target that does not answer from one that refuses", async (net) => {
  const atServer = new Scrapes("proxy-server");
  const atAgent = new Scrapes("proxy-agent");
  const server = await net.server({}, atServer.monitor);
  const target = await silentTarget(net);
  net.passthrough(server, target.port, { dialTimeoutMs: 200 }, atAgent.monitor);
  await soon("its end", ask(net, server, "hello"));
  await becomes(atAgent, "endpoint_dial_failure_total", 1, { reason: "timeout" });
  // In the raw dialect the passthrough can only reset the stream.
  const code = net.isRaw ? "" : "timeout";
  await becomes(atServer, "dial_failures_total", 1, { reason: "error_response", code });
  assertEquals(await atServer.value("connection_duration_seconds_count"), 0);
}, BOTH);

test(
  "Metrics have the clients for whom there is no agent, while they wait and after",
  async (net) => {
    const atServer = new Scrapes("proxy-server");
    const server = await net.server({ agentWaitMs: 500, maxPending: 1 }, atServer.monitor);
    const first = readUntilOver(await net.client(server));
    await becomes(atServer, "pending_opens", 1);
    await becomes(atServer, "pending_backend_dials", 1);
    assertEquals(await atServer.value("capacity", { of: "pending_opens" }), 1);
    await soon("its end", readUntilOver(await net.client(server)));
    await becomes(atServer, "dial_failures_total", 1, { reason: "no_agent" });
    await soon("its end", first);
    await becomes(atServer, "dial_failures_total", 2, { reason: "no_agent" });
    assertEquals(await atServer.value("pending_opens"), 0);
    assertEquals(await atServer.value("ready_backends"), 0);
  },
  OWN_ONLY,
);

test("Metrics have clients that the server does not serve, by reason", async (net) => {
  using _ = logLines(0);
  const atServer = new Scrapes("proxy-server");
  const server = await net.server({ maxConnections: 1, maxAgents: 7 }, atServer.monitor);
  const held = await net.client(server);
  await becomes(atServer, "http_connections", 1);
  assertEquals(await soon("its end", readUntilOver(await net.client(server))), "");
  await becomes(atServer, "refused_connections_total", 1, { reason: "max-connections" });
  await becomes(atServer, "accepted_connections_total", 2);
  assertEquals(await atServer.by("of", "capacity"), {
    connections: 1,
    agents: 7,
    pending_opens: 1_000,
  });
  held.abort();
}, OWN_ONLY);

test("Metrics have connections of a load balancer that bring no client", async (net) => {
  using _ = logLines(0);
  const atServer = new Scrapes("proxy-server");
  const acceptProxyProtocol = [parseCidr("127.0.0.0/8")];
  const server = await net.server({ acceptProxyProtocol }, atServer.monitor);
  (await net.client(server)).abort();
  await becomes(atServer, "refused_connections_total", 1, { reason: "health-check" });
  await ask(net, server, "no header");
  await becomes(atServer, "refused_connections_total", 1, { reason: "proxy-header" });
  assertEquals(await atServer.value("accepted_connections_total"), 2);
  assertEquals(await atServer.by("reason", "dial_failures_total"), {});
}, OWN_ONLY);

test("Metrics have handshakes by result, at both ends", async (net) => {
  using _ = logLines(0);
  const start = async (config: Parameters<Network["server"]>[0]) => {
    const atServer = new Scrapes("proxy-server");
    return { atServer, server: await net.server(config, atServer.monitor) };
  };
  const counts = (gauges: Scrapes, result: string) =>
    eventually(`${result} is counted`, async () => {
      return (await gauges.value("handshakes_total", { result }))! > 0;
    });
  const full = await start({ maxAgents: 1 });
  const [strange, good] = [new Scrapes("proxy-agent"), new Scrapes("proxy-agent")];
  const tls = await (await TestCa.create("another CA")).client();
  const stranger = net.agent(full.server, { tls }, strange.monitor);
  for (const gauges of [full.atServer, strange]) await counts(gauges, "tls");
  await stranger.stop();
  net.agent(full.server, {}, good.monitor);
  for (const gauges of [full.atServer, good]) await counts(gauges, "ok");
  const second = net.agent(full.server);
  await counts(full.atServer, "refused");
  await second.stop();
  assertEquals(await full.atServer.value("handshakes_total", { result: "ok" }), 1);
  assertEquals(await strange.value("handshakes_total", { result: "ok" }), 0);

  const strict = await start({ agentNames: ["another"] });
  const unknown = net.agent(strict.server);
  await counts(strict.atServer, "not-admitted");
  assertEquals(await strict.atServer.value("connected_agents"), 0);
  await unknown.stop();

  const alone = new Scrapes("proxy-agent");
  const silent = Deno.listenDatagram({ ...loopback(0), transport: "udp" });
  const { port } = silent.addr as Deno.NetAddr;
  const lost = net.agent({ quicPort: port } as Server, {}, alone.monitor);
  await becomes(alone, "handshakes_total", 1, { result: "timeout" });
  await lost.stop();
  silent.close();
}, OWN_ONLY);

test("Metrics have a flood at the QUIC listener", async (net) => {
  using _ = logLines(0);
  const atServer = new Scrapes("proxy-server");
  const server = await net.server({}, atServer.monitor);
  await becomes(atServer, "quic_retries_total", 0);
  for (const reason of dropReasons) {
    await becomes(atServer, "quic_dropped_datagrams_total", 0, { reason });
  }
  const attacker = Deno.listenDatagram({ ...loopback(0), transport: "udp" });
  const send = (datagram: Uint8Array) =>
    attacker.send(datagram, { ...loopback(server.quicPort), transport: "udp" });
  await send(new Uint8Array(10));
  await becomes(atServer, "quic_dropped_datagrams_total", 1, { reason: "invalid" });
  await send(new Uint8Array(1_200));
  await becomes(atServer, "quic_dropped_datagrams_total", 1, { reason: "unknown-connection" });
  await send(new InitialForger({ token: new Uint8Array(60) }).next(pingFrame()));
  await becomes(atServer, "quic_dropped_datagrams_total", 1, { reason: "bad-token" });
  // Of those that begin at one time, a hundred need not prove their address.
  for (let i = 0; i < 103; i++) await send(new InitialForger().next(pingFrame()));
  await becomes(atServer, "quic_retries_total", 3);
  attacker.close();
}, OWN_ONLY);

test("Metrics have the connection to each peer, and whether it takes tunnels", async (net) => {
  const { server, agent, atServer, atAgent } = await start(net);
  await becomes(atServer, "connected_agents", 1);
  await becomes(atServer, "ready_backends", 1);
  await becomes(atServer, "ready", 1);
  await becomes(atAgent, "ready", 1);
  await becomes(atAgent, "open_server_connections", 1);
  await becomes(atAgent, "known_servers", 1);
  const address = `127.0.0.1:${server.quicPort}`;
  const ends = [[atServer, { agent: "agent-1" }], [atAgent, { server: address }]] as const;
  for (const [gauges, labels] of ends) {
    assert((await gauges.value("quic_sent_bytes_total", labels))! > 0);
    assertEquals(await gauges.value("quic_streams", labels), 0);
  }
  assertEquals(await atServer.value("quic_stream_credit", { agent: "agent-1" }), 10_000);
  await agent.stop();
  await becomes(atServer, "connected_agents", 0);
  await becomes(atServer, "ready", 0);
  assertEquals(await atServer.value("quic_sent_bytes_total"), undefined);
  await becomes(atAgent, "open_server_connections", 0);
}, OWN_ONLY);

const dialFailures: readonly (readonly [TunnelEnding, reason: string, code: string])[] = [
  [{ by: "client", reason: "end" }, "frontend_close", ""],
  [{ by: "client", reason: "reset" }, "frontend_close", ""],
  [{ by: "server", reason: "no-agent" }, "no_agent", ""],
  [{ by: "server", reason: "connect-timeout" }, "backend_dial_timeout", ""],
  [{ by: "agent", reason: "connection-lost" }, "backend_close", ""],
  [{ by: "agent", reason: "connection-closed" }, "backend_close", ""],
  [{ by: "agent", reason: "refused" }, "error_response", ""],
  [{ by: "target", reason: "refused", result: "timeout" }, "error_response", "timeout"],
  [{ by: "client", reason: "refused", result: "bad-request" }, "error_response", "bad-request"],
  [{ by: "server", reason: "stopped" }, "other", ""],
];
for (const [ending, reason, code] of dialFailures) {
  const { by, reason: word, result } = ending;
  Deno.test(`Metrics count a tunnel that was not connected: ${by} ${word} ${result}`, async () => {
    const gauges = new Scrapes("proxy-server");
    gauges.monitor.begin().end(ending);
    assertEquals(await gauges.value("dial_failures_total", { reason, code }), 1);
    assertEquals(Object.values(await gauges.by("reason", "dial_failures_total")), [1]);
    assertEquals(await gauges.value("tunnels_total", { by: by!, reason: word }), 1);
    assertEquals(await gauges.value("connection_duration_seconds_count"), 0);
  });
}

Deno.test("Metrics count an agent out that does not answer, and one that drains", async () => {
  const gauges = new Scrapes("proxy-server");
  gauges.monitor.isListening = true;
  const peer = fakePeer("a");
  gauges.monitor.peers.add(peer);
  assertEquals(await gauges.value("ready"), 1);
  assertEquals(await gauges.value("ready_backends"), 1);
  peer.isResponsive = false;
  assertEquals(await gauges.value("ready_backends"), 0);
  assertEquals(await gauges.value("ready"), 0);
  peer.isResponsive = peer.isDraining = true;
  assertEquals(await gauges.value("ready_backends"), 0);
  assertEquals(await gauges.value("connected_agents"), 1);
});

Deno.test("Metrics have the agents and clients of each group, and none without groups", async () => {
  const gauges = new Scrapes("proxy-server");
  const { monitor } = gauges;
  const ofGroups = async () =>
    samplesOf(await gauges.metrics.text()).filter(({ labels }) => labels.group !== undefined)
      .map(({ name, labels, value }) => `${name.split("_group_")[1]} ${labels.group} ${value}`);
  assertEquals(await ofGroups(), []);
  const group = (name: string, waiting: number) => ({ name, waiting, listeners: [], routes: [] });
  monitor.readFrom({ groups: () => [group("a", 3), group("x".repeat(200), 0)] });
  const [one, other] = [fakePeer("1"), fakePeer("2")];
  other.isDraining = true;
  for (const peer of [one, other]) monitor.peers.add(Object.assign(peer, { groups: ["a"] }));
  monitor.begin({ group: "a" }).end({ by: "server", reason: "no-agent" });
  monitor.begin({ group: "a" });
  monitor.begin();
  const values = await ofGroups();
  assertEquals(values.filter((value) => value.includes(" a ")), [
    "ready_backends a 1",
    "connected_agents a 2",
    "http_connections a 1",
    "pending_opens a 3",
    "dial_failures_total a 1",
  ]);
  const long = `${"x".repeat(127)}…`;
  assertEquals(values.filter((value) => value.endsWith(` ${long} 0`)).length, 5);
});

Deno.test("Metrics have each number of a connection under its own name", async () => {
  const gauges = new Scrapes("proxy-agent");
  const stats = {
    rttMs: 1_000,
    congestionWindowBytes: 2,
    sentPackets: 3,
    receivedPackets: 4,
    lostPackets: 5,
    sentBytes: 6,
    receivedBytes: 7,
    streams: 8,
    streamCredit: 9,
  };
  gauges.monitor.peers.add(fakePeer("192.0.2.1:8888", stats));
  const values = samplesOf(await gauges.metrics.text())
    .filter(({ labels }) => labels.server === "192.0.2.1:8888")
    .map(({ name, value }) => [name.replace("quic_tunnel_agent_quic_", ""), value]);
  assertEquals(Object.fromEntries(values), {
    smoothed_rtt_seconds: 1,
    congestion_window_bytes: 2,
    sent_packets_total: 3,
    received_packets_total: 4,
    lost_packets_total: 5,
    sent_bytes_total: 6,
    received_bytes_total: 7,
    streams: 8,
    stream_credit: 9,
  });
});

Deno.test("Metrics count connections by what carries them", async () => {
  const scrapes = new Scrapes("proxy-agent");
  scrapes.monitor.peers.add(fakePeer("a"));
  for (const name of ["b", "c"]) {
    scrapes.monitor.peers.add(Object.assign(fakePeer(name), { transport: "tcp" as const }));
  }
  assertEquals(await scrapes.by("transport", "transport_connections"), { udp: 1, tcp: 2 });
});

Deno.test("Metrics tell the QUIC library, and leave out what it does not tell", async () => {
  const scrapes = new Scrapes("proxy-agent");
  const { peers } = scrapes.monitor;
  peers.add(fakePeerOnDeno("a", 3));
  assertEquals(await scrapes.by("library", "quic_library"), { deno: 1 });
  assertEquals(await scrapes.by("server", "quic_streams"), { a: 3 });
  const others = [
    "smoothed_rtt_seconds",
    "congestion_window_bytes",
    "stream_credit",
    "lost_packets_total",
    "sent_packets_total",
    "sent_bytes_total",
    "received_bytes_total",
  ];
  for (const name of others) assertEquals(await scrapes.by("server", `quic_${name}`), {}, name);
  // Another one to the same server, while the first one drains.
  peers.add({ ...fakePeer("a", { sentBytes: 7, streams: 1 }), library: "binding" });
  assertEquals(await scrapes.by("library", "quic_library"), { deno: 1, binding: 1 });
  assertEquals(await scrapes.by("server", "quic_streams"), { a: 4 });
  assertEquals(await scrapes.by("server", "quic_sent_bytes_total"), { a: 7 });
});

Deno.test("Metrics sum the connections of one name, and never count back while there is one", async () => {
  const gauges = new Scrapes("proxy-server");
  const { peers } = gauges.monitor;
  const [first, second] = [
    fakePeer("a", { sentBytes: 100, rttMs: 30, streams: 1 }),
    fakePeer("a", { sentBytes: 10, rttMs: 20, streams: 2 }),
  ];
  const other = fakePeer("b", { sentBytes: 1 });
  for (const peer of [first, second, other]) peers.add(peer);
  const numbers = () =>
    Promise.all(
      ["sent_bytes_total", "streams", "smoothed_rtt_seconds"]
        .map((name) => gauges.by("agent", `quic_${name}`)),
    );
  assertEquals(await numbers(), [{ a: 110, b: 1 }, { a: 3 }, { a: 0.03 }]);
  peers.delete(first);
  second.now.sentBytes = 11;
  assertEquals(await numbers(), [{ a: 111, b: 1 }, { a: 2 }, { a: 0.02 }]);
  peers.delete(second);
  assertEquals(await gauges.by("agent", "quic_sent_bytes_total"), { b: 1 });
  peers.add(fakePeer("a", { sentBytes: 5 }));
  assertEquals(await gauges.by("agent", "quic_sent_bytes_total"), { a: 5, b: 1 });
});

Deno.test("Metrics cut names of certificates, and quote what is in them", async () => {
  const gauges = new Scrapes("proxy-server");
  const long = "x".repeat(10_000);
  for (const name of [`${long}1`, `${long}2`, 'a"} 1\nb{c="', "\x1b[2J\r\u202ex"]) {
    gauges.monitor.peers.add(fakePeer(name, { sentBytes: 1 }));
  }
  const names = await gauges.by("agent", "quic_sent_bytes_total");
  assertEquals(names, {
    [`${"x".repeat(127)}…`]: 2,
    'a\\"} 1\\nb{c=\\"': 1,
    [String.raw`\\u{1b}[2J\\u{d}\\u{202e}x`]: 1,
  });
});

Deno.test("Metrics have the time from which on a file is of no use", async () => {
  const gauges = new Scrapes("proxy-server");
  let certificates = [
    fakeCertificate(new Date(2_000_000)),
    fakeCertificate(new Date(4_000_000), "--client-ca-file"),
    fakeCertificate(new Date(3_000_000), "--client-ca-file"),
  ];
  gauges.monitor.readFrom({ certificates: () => certificates });
  const name = "certificate_expiration_timestamp_seconds";
  assertEquals(await gauges.by("file", name), { "cert-file": 2_000, "client-ca-file": 4_000 });
  certificates = [fakeCertificate(new Date(5_000_000))];
  assertEquals(await gauges.by("file", name), { "cert-file": 5_000 });
});

Deno.test("Metrics put times into konnectivity's buckets", async () => {
  const server = new Scrapes("proxy-server");
  const agent = new Scrapes("proxy-agent");
  {
    using time = new FakeTime();
    for (const { monitor } of [server, agent]) {
      const tunnel = monitor.begin();
      await time.pass(50);
      tunnel.connected();
      await time.pass(20_000);
      tunnel.end(OVER);
    }
  }
  for (const gauges of [server, agent]) {
    assertEquals(await gauges.value("dial_duration_seconds_bucket", { le: "0.025" }), 0);
    assertEquals(await gauges.value("dial_duration_seconds_bucket", { le: "0.1" }), 1);
    assertEquals(await gauges.value("dial_duration_seconds_sum"), 0.05);
    assertEquals(await gauges.value("connection_duration_seconds_bucket", { le: "15" }), 0);
    assertEquals(await gauges.value("connection_duration_seconds_bucket", { le: "30" }), 1);
  }
  const bounds = async ({ metrics }: Scrapes, name: string) =>
    samplesOf(await metrics.text()).filter((sample) => sample.name.endsWith(`${name}_bucket`))
      .map(({ labels }) => Number(labels.le?.replace("+Inf", "Infinity")));
  assertEquals(
    await bounds(server, "dial_duration_seconds"),
    [1e-6, 1e-5, 1e-4, 0.005, 0.025, 0.1, 0.5, 2.5, 12.5, Infinity],
  );
  assertEquals(
    await bounds(agent, "dial_duration_seconds"),
    [0.005, 0.025, 0.1, 0.5, 2.5, 10, 30, Infinity],
  );
});

Deno.test("Metrics have what is known of some labels from the start", async () => {
  const zeros = async (gauges: Scrapes) =>
    samplesOf(await gauges.metrics.text())
      .filter(({ name }) => /(?:handshakes|refused_connections|dial_failures?)_total$/.test(name))
      .map(({ name, labels, value }) =>
        `${name.replace(/^quic_tunnel_/, "")} ${Object.values(labels).join(" ").trim()} ${value}`
      );
  assertEquals(await zeros(new Scrapes("proxy-server")), [
    "server_dial_failures_total no_agent 0",
    "server_dial_failures_total backend_dial_timeout 0",
    "server_dial_failures_total backend_close 0",
    "server_dial_failures_total frontend_close 0",
    "server_dial_failures_total other 0",
    "server_dial_failures_total error_response 0",
    ...failureCodes.map((code) => `server_dial_failures_total error_response ${code} 0`),
    ...["ok", "tls", "timeout", "not-admitted", "refused", "error"]
      .map((result) => `server_handshakes_total ${result} 0`),
    ...["tcp", "tls", "unix"].flatMap((front) => {
      const common = [
        "max-connections",
        "health-check",
        "proxy-header",
        "bad-request",
        "no-route",
      ];
      const ofTls = ["handshake", "handshake-limit", "certificate", "not-admitted"];
      return [...common, ...(front === "tls" ? ofTls : [])]
        .map((reason) => `server_refused_connections_total ${reason} ${front} 0`);
    }),
  ]);
  assertEquals(await zeros(new Scrapes("proxy-passthrough")), [
    ...failureCodes.map((reason) => `agent_endpoint_dial_failure_total ${reason} 0`),
    ...["ok", "tls", "timeout", "error"].map((result) => `agent_handshakes_total ${result} 0`),
  ]);
});

Deno.test("Metrics have the process and its runtime", async () => {
  const gauges = new Scrapes("proxy-agent");
  const positive = [
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "deno_heap_used_bytes",
    "deno_heap_size_bytes",
    "deno_external_memory_bytes",
    "deno_event_loop_lag_seconds",
  ];
  for (const name of positive) {
    const value = await gauges.value(name);
    assert(value !== undefined && value > 0, `${name} is ${value}`);
  }
  assertEquals(await gauges.value("build_info", { deno: Deno.version.deno }), 1);
});

Deno.test("Metrics do not scan the tunnels but for their bytes", async () => {
  const gauges = new Scrapes("proxy-server");
  const { monitor } = gauges;
  let reads = 0;
  const count = 5_000;
  for (let i = 0; i < count; i++) {
    const tunnel = monitor.begin();
    Object.defineProperty(tunnel, "carried", {
      get: () => (reads++, { aToB: 1, bToA: 2 }),
    });
    Object.defineProperty(tunnel, "facts", { get: () => assert(false, "facts were read") });
    if (i % 2) tunnel.connected();
  }
  assertEquals(await gauges.value("carried_bytes_total", { direction: "to_client" }), 2 * count);
  assertEquals(reads, count);
  assertEquals(await gauges.value("established_connections"), count / 2);
});

Deno.test("Metrics ask each connection once a scrape", async () => {
  const gauges = new Scrapes("proxy-server");
  const peer = fakePeer("a");
  let asked = 0;
  gauges.monitor.peers.add({ ...peer, stats: () => (asked++, peer.now) });
  await gauges.metrics.text();
  assertEquals(asked, 1);
});
