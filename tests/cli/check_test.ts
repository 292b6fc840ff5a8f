// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `--check` finds, in this process and in programs. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { checkAgent, checkPassthrough, checkServer } from "../../lib/cli/check/programs.ts";
import type { ReportOutput } from "../../lib/cli/check/report.ts";
import type { FlagTable, FlagValues } from "../../lib/cli/flag.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import * as programFlags from "../../lib/cli/program_flags.ts";
import { QuicEndpoint } from "../../lib/quic/mod.ts";
import type { ServerConfig } from "../../lib/server/config.ts";
import { CertificateFiles, inDays } from "../support/certificate_files.ts";
import {
  answering,
  carrierToNowhere,
  proxyTo,
  tcpListener,
  tlsListener,
} from "../support/carrier_server.ts";
import { combinations, loopback, Network, NOBODY } from "../support/network.ts";
import { agentFlags, anyPort, ChildProgram, programArguments } from "../support/processes.ts";
import { assertNothingLive } from "../support/quic.ts";
import { assertBody, Site } from "../support/site.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { UdpRelay } from "../support/udp_relay.ts";

type Flags = Record<string, string | number>;

/** A check's report. */
interface Checked {
  readonly isWell: boolean;
  readonly lines: readonly string[];
}

const argumentsOf = (flags: Flags) =>
  Object.entries(flags).map(([name, value]) => `--${name}=${value}`);

/** What a program reports that was started with these flags. */
async function report<T extends FlagTable>(
  table: T,
  check: (values: FlagValues<T>, output: ReportOutput) => Promise<boolean>,
  flags: Flags,
  ...more: string[]
): Promise<Checked> {
  const parsed = parseFlags(table, [...argumentsOf(flags), ...more], { get: () => undefined });
  assert(parsed.kind === "run");
  const lines: string[] = [];
  return { isWell: await check(parsed.values, { write: (line) => void lines.push(line) }), lines };
}

const serverCheck = (flags: Flags) => report(programFlags.serverFlags, checkServer, flags);

/** @param target that of `--check`, if it has one */
const agentCheck = (flags: Flags, ...target: string[]) =>
  report(programFlags.agentFlags, checkAgent, flags, "--check", ...target);

/** Asserts what is to be fixed first, and which steps have which mark. */
function assertFix({ isWell, lines }: Checked, step: RegExp, fix: RegExp): void {
  const all = lines.join("\n");
  assertEquals(isWell, false, all);
  const failed = lines.filter((line) => line.startsWith("FAIL"));
  assertMatch(failed[0] ?? "", step, all);
  assertMatch(lines.at(-1)!, fix);
  assert(lines.at(-1)!.startsWith("fix this first: "));
}

const files = await CertificateFiles.create();
addEventListener("unload", () => Deno.removeSync(files.path, { recursive: true }));

/** Runs a check of an agent against a server in this process. */
async function against(
  config: Partial<ServerConfig>,
  flags: Flags = {},
  ...target: string[]
): Promise<Checked> {
  await using net = new Network(combinations["qrht/1"]!);
  const server = await net.server({ tls: await files.identity("server"), ...config });
  return await agentCheck({
    server: `127.0.0.1:${server.quicPort}`,
    ...files.agent(),
    ...flags,
  }, ...target);
}

Deno.test("checkServer() finds a server that can start, and names a warning", async () => {
  const { isWell, lines } = await serverCheck({ ...anyPort, ...files.server() });
  assert(isWell, lines.join("\n"));
  assertEquals(lines.map((line) => line.slice(0, 9).trim()).slice(0, -1), Array(6).fill("ok"));
  assertEquals(lines.at(-1), "all checks passed");

  await files.issue("renamed", {
    usage: "server",
    dnsNames: ["other.example"],
    notBefore: inDays(-300),
    notAfter: inDays(5.5),
  });
  const warned = await serverCheck({ ...anyPort, ...files.server("renamed") });
  assert(warned.isWell);
  assertMatch(warned.lines[2]!, /^warn +expiry: --cert-file expires first, .* in 5 days/);
  assertMatch(
    warned.lines[3]!,
    /^warn +purpose: .* other\.example, not quic-tunnel-server: /,
  );
  assertEquals(warned.lines.at(-1), "all checks passed, with 2 warnings");
  assertNothingLive();
});

Deno.test("checkServer() names an address that is taken, and what may have it", async () => {
  const listener = Deno.listen(loopback(0));
  await using quic = new QuicEndpoint({
    ...loopback(0),
    listen: { tls: await files.identity("server"), alpn: ["x"] },
  });
  using _ = listener;
  const { port } = listener.addr as Deno.NetAddr;
  const tcp = `127.0.0.1:${port}`, udp = `127.0.0.1:${quic.addr.port}`;
  const flags = { ...files.server(), "listen-tcp": tcp, "listen-quic": udp };
  const taken = await serverCheck(flags);
  assertFix(
    taken,
    /tcp address .*in use .*if a proxy-server is already/,
    /--listen-tcp 127.*in use/,
  );
  assert(taken.lines.some((line) => /udp address .*in use by a QUIC server/.test(line)));
  const own = { ...files.server(), ...anyPort };
  const fallback = await serverCheck({ ...own, "listen-fallback": tcp });
  assertFix(fallback, /fallback address .*in use by another/, /--listen-fallback 127.*in use/);
  const free = await serverCheck({ ...own, "listen-fallback": "127.0.0.1:0" });
  assert(free.lines.some((line) => /^ok +fallback address .*: a free port/.test(line)));
  const shared = await serverCheck({ ...flags, "reuse-port": "true" });
  const found = shared.lines.filter((line) => /reuse-port flag|tcp address/.test(line)).join("\n");
  if (Deno.build.os !== "linux") assertMatch(found, /^FAIL +reuse-port flag: .*needs Linux/);
  else assertMatch(found, /^ok +reuse-port flag: .*\nwarn +tcp address .*: in use, by servers/);
  const foreign = await serverCheck({ ...flags, "listen-tcp": "192.0.2.1:1" });
  assertFix(foreign, /tcp address 192\.0\.2\.1:1: cannot listen/, /an address of this machine/);
});

Deno.test("checkServer() tries the listeners for clients that there are to be", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/s`;
  const flags = { ...files.server(), "listen-quic": "127.0.0.1:0", "uds-name": path };
  const free = await serverCheck(flags);
  assert(free.isWell, free.lines.join("\n"));
  assert(!free.lines.some((line) => line.includes("tcp address")));
  const [line] = free.lines.filter((line) => line.includes("unix socket"));
  assertMatch(line!, /free, with access 0660, uid \d+, gid \d+; clients of another uid /);
  assertEquals(Array.from(Deno.readDirSync(folder.path)), []);
  using _ = Deno.listen({ transport: "unix", path });
  const taken = await serverCheck({ ...flags, "listen-tcp": "127.0.0.1:0" });
  assertFix(taken, /unix socket \S+: another program listens/, /: --uds-name \S+: another/);
  assert(taken.lines.some((line) => line.startsWith("ok") && line.includes("tcp address")));
});

Deno.test("checkServer() prints the routes as they are understood", async () => {
  const check = (...flags: string[]) =>
    report(
      programFlags.serverFlags,
      checkServer,
      { "listen-quic": "127.0.0.1:0", ...files.server() },
      "--listen-tcp=127.0.0.1:0",
      ...flags,
    );
  const { isWell, lines } = await check(
    "--listen-tcp=127.0.0.1:0@Bastion",
    "--route=*=*",
    "--route=cluster-a=10.1.0.0/16,10.0.0.0/8",
    "--route=cluster-b=10.1.0.0/17,10.1.128.0/17,10.0.0.0/8",
  );
  assert(isWell, lines.join("\n"));
  assert(lines.some((line) => /^ok +tcp address 127.0.0.1:0 of bastion: /.test(line)));
  const routes = lines.filter((line) => / (?:groups|route) /.test(line))
    .map((line) => line.replace(/ \(\d+ ms\)$/, "").replace(/ +/, " "));
  assertEquals(routes, [
    "ok groups of agents: bastion; cluster-b; cluster-a; cluster-a,cluster-b; *",
    "ok route 10.1.0.0/17: cluster-b, before 10.1.0.0/16 of cluster-a",
    "ok route 10.1.128.0/17: cluster-b, before 10.1.0.0/16 of cluster-a",
    "warn route 10.1.0.0/16: cluster-a, before 10.0.0.0/8 of cluster-a,cluster-b; " +
    "never matches: more specific routes have all of it",
    "ok route 10.0.0.0/8: cluster-a,cluster-b, before * of *",
    "ok route *: *",
  ]);
  assertFix(await check("--route=a=*", "--mode=raw"), /groups of agents/, /--mode=raw/);
});

Deno.test("a check judges files before anything else, and says which is wrong", async () => {
  await files.issue("expired", { notBefore: inDays(-3), notAfter: inDays(-1) });
  await files.issue("early", { notBefore: inDays(1), notAfter: inDays(3) });
  await files.issue("for-servers", { usage: "server" });
  const cases: [flags: Flags, step: RegExp, fix: RegExp][] = [
    [files.agent("missing"), /FAIL +files: cannot read --cert-file/, /missing\.pem/],
    [
      { ...files.agent(), "cert-key": `${files.path}/server.key` },
      /FAIL +certificates: /,
      /--cert-key .* does not match the certificate in --cert-file/,
    ],
    [files.agent("expired"), /FAIL +certificates: /, /expired on .*; renew it/],
    [files.agent("early"), /FAIL +certificates: /, /check the clock of this machine/],
    [files.agent("for-servers"), /FAIL +purpose: /, /for clients \(clientAuth\)/],
  ];
  for (const [flags, step, fix] of cases) {
    const checked = await against({}, flags);
    assertFix(checked, step, fix);
    assert(checked.lines.some((line) => /^skipped +handshake with /.test(line)));
    assert(checked.lines.some((line) => /^ok +udp to /.test(line)), "needs no files");
  }
  const server = await serverCheck({ ...anyPort, ...files.server("agent") });
  assertFix(server, /FAIL +purpose: /, /for servers \(serverAuth\)/);
});

Deno.test("checkAgent() finds a server of either dialect that lets it in, and a target", async () => {
  const target = Deno.listen(loopback(0));
  using _ = target;
  const authority = `127.0.0.1:${(target.addr as Deno.NetAddr).port}`;
  const { isWell, lines } = await against({ name: "site" }, {}, authority);
  assert(isWell, lines.join("\n"));
  assertEquals(lines.map((line) => line.slice(0, 9).trim()).slice(0, -1), Array(12).fill("ok"));
  assert(
    lines.some((line) => /handshake .*: qrht\/1, round trip \d+ ms, certificate of /.test(line)),
  );
  assert(lines.some((line) => /admission .*: admitted by proxy-server \S+ site /.test(line)));
  const raw = await against({ alpn: ["quic-echo-example"] });
  assert(raw.isWell, raw.lines.join("\n"));
  assert(raw.lines.some((line) => /handshake .*: quic-echo-example, /.test(line)));
});

Deno.test("checkAgent() tells a name that does not resolve, silence, and a port where nothing listens", async () => {
  const silent = Deno.listenDatagram({ transport: "udp", ...loopback(0) });
  using _ = { [Symbol.dispose]: () => silent.close() };
  const quiet = `127.0.0.1:${(silent.addr as Deno.NetAddr).port}`;
  const cases: [server: string, step: RegExp, fix: RegExp][] = [
    ["nowhere.invalid:1", /FAIL +server .* resolves: /, /correct the name nowhere\.invalid/],
    [quiet, /FAIL +udp to .*: no answer/, /in all firewalls/],
  ];
  if (Deno.build.os === "linux") {
    cases.push([NOBODY, /FAIL +udp to .*port closed/, /start proxy-server there/]);
  }
  for (const [server, step, fix] of cases) {
    const checked = await agentCheck({ server, ...files.agent() });
    assertFix(checked, step, fix);
    assert(checked.lines.some((line) => /^skipped +admission by /.test(line)));
  }
});

Deno.test("checkAgent() explains a handshake that fails, and a server that sends it away", async () => {
  const handshake = /FAIL +handshake with /;
  const cases: [config: Partial<ServerConfig>, flags: Flags, step: RegExp, fix: RegExp][] = [
    [{}, files.agent("agent", "other"), handshake, /set --ca-file to the CA of the server's/],
    [{}, { "server-name": "x.example" }, handshake, /set --server-name to a name in/],
    [
      { tls: await files.identity("server", "other") },
      {},
      handshake,
      /set the server's --client-ca-file to the CA of --cert-file/,
    ],
    [{}, { alpn: "no-such" }, handshake, /common protocol in --alpn/],
    [
      { agentNames: ["nobody"] },
      {},
      /FAIL +admission by .*code 102/,
      /a name in --cert-file to the server's --agent-name/,
    ],
    [{ maxAgents: 0 }, {}, /FAIL +admission by .*code 103/, /has reached --max-agents/],
  ];
  for (const [config, flags, step, fix] of cases) {
    assertFix(await against(config, flags), step, fix);
  }
});

Deno.test("checkAgent() misses the hello of a server that says none", async () => {
  await using server = new QuicEndpoint({
    ...loopback(0),
    listen: { tls: await files.identity("server"), alpn: ["qrht/1"] },
  });
  const checking = agentCheck({ server: `127.0.0.1:${server.addr.port}`, ...files.agent() });
  const connection = await server.accept();
  assertFix(
    await checking,
    /FAIL +admission by .*no HELLO/,
    /MTU of the whole path to the peer to 1400/,
  );
  assertEquals((await connection.closed).code, 100);
});

Deno.test("checkAgent() notices that large datagrams are lost", async () => {
  await using net = new Network(combinations["qrht/1"]!);
  const server = await net.server({ tls: await files.identity("server") });
  await using relay = new UdpRelay({ hostname: "127.0.0.1", port: server.quicPort }, {
    maxBytes: 1280,
  });
  const flags = { server: `127.0.0.1:${relay.addr.port}`, ...files.agent() };
  // The server's hello may have been in one.
  assertFix(
    await agentCheck(flags),
    /large datagrams .*lost/,
    /MTU of the whole path to the peer to 1400/,
  );
});

Deno.test("checkAgent() tells a target that is denied, does not resolve, or does not answer", async () => {
  const cases: [target: string, flags: Flags, step: RegExp, fix: RegExp][] = [
    ["169.254.169.254:80", {}, /target .* is allowed: denied by default/, /--allow and --deny/],
    ["127.0.0.1:22", { allow: "10.0.0.0/8" }, /is allowed: denied: no --allow/, /--allow and/],
    ["nowhere.invalid:1", {}, /target .* resolves: /, /correct the name nowhere\.invalid/],
    [NOBODY, {}, /target .* answers: .*refused/, /check that target 127\.0\.0\.1:1 is running/],
  ];
  for (const [target, flags, step, fix] of cases) {
    assertFix(await against({}, flags, target), step, fix);
  }
});

Deno.test("checkPassthrough() tells whether the upstream answers", async () => {
  await using net = new Network(combinations["qrht/1"]!);
  const server = await net.server({ tls: await files.identity("server") });
  const target = net.target();
  const passthroughCheck = (upstream: string) => {
    const flags = { server: `127.0.0.1:${server.quicPort}`, ...files.agent(), upstream };
    return report(programFlags.passthroughFlags, checkPassthrough, flags);
  };
  const well = await passthroughCheck(target.authority);
  assert(well.isWell, well.lines.join("\n"));
  assertFix(
    await passthroughCheck(NOBODY),
    /upstream .* answers: /,
    /check that upstream .* is running/,
  );
});

Deno.test("a check of a busy server takes no client, and leaves no agent behind", async () => {
  await using site = await Site.start();
  const server = await site.server({ v: 2 });
  await site.agent(server.quic);
  const flags = { server: server.quic, ...agentFlags(site.dir) };
  let done = false;
  let clients = 0;
  const connect = async () => {
    for (; !done; clients++) {
      await assertBody(await site.request(server.tcpPort, 2_000), 2_000);
    }
  };
  const connecting = [connect(), connect(), connect()];
  for (let i = 0; i < 20; i++) {
    const alpn = i % 2 ? "quic-echo-example" : "qrht/1";
    const { isWell, lines } = await agentCheck({ ...flags, alpn });
    assert(isWell, lines.join("\n"));
  }
  done = true;
  await Promise.all(connecting);
  assert(clients > 20, `${clients} clients`);
  const { program } = server;
  await program.line(
    /agent disconnected.* connection=21 .*code 100 \(closed by --check\).*agents=1/,
  );
  // Not even for a first attempt.
  const ended = program.lines.filter((line) => line.includes('"tunnel ended"'));
  assertEquals(ended.filter((line) => !/ connection=1 /.test(line) || /attempts=/.test(line)), []);
});

/** A program that was started with `--check` and has ended. */
async function programCheck(
  task: "server" | "agent" | "passthrough",
  flags: Flags,
  ...more: string[]
): Promise<{ code: number; lines: string[] }> {
  const args = [...programArguments(task, flags), "--check", ...more];
  await using child = new ChildProgram(Deno.execPath(), args, { env: { QRHT_V: "4" } });
  const { code } = await child.status;
  await child.line(/^all checks passed|^fix this first|^proxy-/);
  return { code, lines: child.lines.filter((line) => line !== "") };
}

Deno.test("--check has a program report on stdout, without a line of a log, and end with 0 or 1", async () => {
  await using site = await Site.start();
  const server = await site.server();
  const agent = { server: server.quic, ...agentFlags(site.dir) };
  const upstream = site.origin;
  const well = await Promise.all([
    programCheck("server", { ...anyPort, ...files.server() }),
    programCheck("agent", agent),
    programCheck("agent", agent, site.origin),
    programCheck("passthrough", { ...agent, upstream }),
  ]);
  for (const { code, lines } of well) {
    assertEquals([code, lines.at(-1)], [0, "all checks passed"], lines.join("\n"));
    for (const line of lines.slice(0, -1)) assertMatch(line, /^ok {7}\S.*: .* \(\d+ ms\)$/);
  }
  const taken = { ...files.server(), "listen-tcp": "127.0.0.1:0", "listen-quic": server.quic };
  const failed = await Promise.all([
    programCheck("server", taken),
    programCheck("agent", { ...agent, "server-name": "x.example" }),
    programCheck("passthrough", { ...agent, upstream: NOBODY }),
  ]);
  for (const { code, lines } of failed) {
    assertEquals(code, 1, lines.join("\n"));
    assertMatch(lines.at(-1)!, /^fix this first: /);
  }
});

Deno.test("--check wants the flags that a program wants, and is no environment variable", async () => {
  const missing = await programCheck("agent", {});
  assertEquals(missing.code, 2);
  assertMatch(missing.lines[0]!, /^proxy-agent: missing required flag --ca-file/);
  const flags = { ...anyPort, ...files.server() };
  await using server = new ChildProgram(Deno.execPath(), programArguments("server", flags), {
    env: { QRHT_CHECK: "true" },
  });
  await server.line(/quic listener on/);
});

Deno.test("checkAgent() says that UDP is blocked where TCP works", async () => {
  await using net = new Network(combinations["qrht/1"]!);
  const server = await net.server({
    tls: await files.identity("server"),
    listenFallback: loopback(0),
  });
  const silent = Deno.listenDatagram({ transport: "udp", ...loopback(0) });
  using _ = { [Symbol.dispose]: () => silent.close() };
  const blocked = {
    server: `127.0.0.1:${(silent.addr as Deno.NetAddr).port}`,
    fallback: `127.0.0.1:${server.fallbackPort}`,
    ...files.agent(),
  };
  const auto = await agentCheck(blocked);
  assert(auto.isWell, auto.lines.join("\n"));
  const of = ({ lines }: Checked, step: string) =>
    lines.filter((line) => line.includes(` ${step}`));
  assertMatch(of(auto, "udp to")[0]!, /^warn +udp to \S+: no answer: UDP is blocked, TCP works/);
  assertMatch(of(auto, "tcp to")[0]!, /^ok +tcp to \S+: \S+ takes datagrams over TLS/);
  for (const step of ["handshake with", "admission by", "large datagrams to"]) {
    assertMatch(of(auto, step).join("\n"), /^ok +[\w ]+ 127\S+ over TCP: [^\n]*$/);
  }
  assertEquals(auto.lines.at(-1), "all checks passed, with 1 warning");

  const only = await agentCheck({ ...blocked, transport: "udp" });
  assertFix(
    only,
    /FAIL +udp to \S+: no answer: UDP is blocked, TCP works/,
    /: set --transport=auto$/,
  );
  assertEquals(of(only, "tcp to"), []);

  const tcp = await agentCheck({ ...blocked, transport: "tcp" });
  assert(tcp.isWell, tcp.lines.join("\n"));
  assertEquals([of(tcp, "udp to").length, of(tcp, "tcp to").length], [0, 1]);
  const both = await agentCheck({ ...blocked, server: `127.0.0.1:${server.quicPort}` });
  assertEquals([of(both, "udp to"), of(both, "tcp to")].map(([line]) => line!.slice(0, 2)), [
    "ok",
    "ok",
  ]);
  assertEquals(both.lines.at(-1), "all checks passed");
});

Deno.test("checkAgent() leaves the server's name to an HTTP proxy", async () => {
  await using net = new Network(combinations["qrht/1"]!);
  const server = await net.server({
    tls: await files.identity("server"),
    listenFallback: loopback(0),
  });
  await using proxy = proxyTo(server.fallbackPort, []);
  for (const transport of ["tcp", "auto"]) {
    const { isWell, lines } = await agentCheck({
      server: "nowhere.invalid:443",
      proxy: `http://127.0.0.1:${proxy.port}`,
      transport,
      ...files.agent(),
    });
    const all = lines.join("\n");
    assert(isWell, all);
    assertMatch(
      all,
      /\n(?:skipped|warn) +server nowhere\S+ resolves: .*proxy is asked for the name/,
    );
    assertMatch(all, /\nok +tcp to nowhere\.invalid:443: .*, through proxy /);
    assertMatch(all, /\nok +admission by nowhere\.invalid:443 over TCP: /);
    assertEquals(/skipped +udp to nowhere\S+: it needs/.test(all), transport === "auto");
  }
});

Deno.test("checkAgent() names the step over TCP that fails", async () => {
  await using needsPassword = tcpListener(
    answering(
      'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n',
    ),
  );
  await using noTls = tcpListener(answering("HTTP/1.1 400 Bad Request\r\n\r\n"));
  await using noUpgrade = tlsListener(
    answering("HTTP/1.1 404 Not Found\r\n\r\n"),
    await files.identity("server"),
  );
  const of = ({ port }: { port: number }) => `127.0.0.1:${port}`;
  const password = `http://user:secret@${of(needsPassword)}`;
  const cases: [flags: Flags, found: RegExp, fix: RegExp][] = [
    [{ fallback: NOBODY }, /: TCP connection: 127\S+: connection refused/, /--listen-fallback on/],
    [
      { proxy: `http://${NOBODY}` },
      /: proxy: proxy 127\S+: connection refused/,
      /check that the HTTP proxy 127\S+ is running, or correct --proxy/,
    ],
    [{ proxy: password }, /: proxy: proxy .*407/, /does not accept the user name and password/],
    [{ proxy: `http://${of(needsPassword)}` }, /: proxy: proxy .*407/, /user:password@host/],
    [{ fallback: of(noTls) }, /: TLS: 127/, /is --listen-fallback of a proxy-server/],
    [{ fallback: of(noUpgrade) }, /: Upgrade: .*404/, /CONNECT-UDP/],
  ];
  for (const [flags, found, fix] of cases) {
    const checked = await agentCheck({
      server: "127.0.0.1:2",
      transport: "tcp",
      ...files.agent(),
      ...flags,
    });
    assertFix(checked, found, fix);
    assertEquals(checked.lines.join("\n").includes("secret"), false);
    assert(checked.lines.some((line) => /^skipped +handshake with \S+ over TCP: /.test(line)));
  }
  await using deadEnd = carrierToNowhere(await files.identity("server"));
  const checked = await agentCheck({
    server: "127.0.0.1:2",
    transport: "tcp",
    fallback: of(deadEnd),
    ...files.agent(),
  });
  assertFix(
    checked,
    /handshake with \S+ over TCP: .*: no answer after/,
    /: check that .*datagrams/,
  );
  const spare = await against({}, { fallback: NOBODY });
  assert(spare.isWell);
  assertMatch(spare.lines.join("\n"), /\nwarn +tcp to .*: connection refused; UDP works/);
});
