// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The ten most likely mistakes of a newcomer, made with real programs: each end that can know of one says what is wrong
 * and what to do about it, and so does `--check` (docs/troubleshooting.md).
 */
import { assertEquals, assertMatch } from "@std/assert";
import type { AgentConfig } from "../../lib/agent/session.ts";
import { CertificateFiles, inDays } from "../support/certificate_files.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import { combinations, loopback, Network } from "../support/network.ts";
import { anyPort, ChildProgram, programArguments, startProgram } from "../support/processes.ts";
import { UdpRelay } from "../support/udp_relay.ts";

type Task = "server" | "agent" | "passthrough";
type Flags = Record<string, string | number>;

/** Programs of one test, and their certificates. */
class Stage implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly files: CertificateFiles;

  private constructor(files: CertificateFiles) {
    this.files = this.#stack.use(files);
  }

  static async create(): Promise<Stage> {
    return new Stage(await CertificateFiles.create());
  }

  use<T extends AsyncDisposable | Disposable>(value: T): T {
    return this.#stack.use(value);
  }

  start(task: Task, flags: Flags): ChildProgram {
    return this.use(startProgram(task, flags));
  }

  /** A server that listens. */
  async server(flags: Flags = {}) {
    const program = this.start("server", { ...anyPort, ...this.files.server(), ...flags });
    const [, tcp] = await program.line(/tcp listener on 127\.0\.0\.1:(\d+)/);
    const [, quic] = await program.line(/quic listener on (127\.0\.0\.1:\d+)/);
    return { program, tcpPort: Number(tcp), quic: quic! };
  }

  agent(server: string, flags: Flags = {}): ChildProgram {
    return this.start("agent", { server, ...this.files.agent(), ...flags });
  }

  /** A server in this process, whose files nobody checks. Its QUIC address. */
  async uncheckedServer(certificate: string): Promise<string> {
    const net = this.use(new Network(combinations["qrht/1"]!));
    const server = await net.server({ tls: await this.files.identity(certificate) });
    return `127.0.0.1:${server.quicPort}`;
  }

  /** An agent in this process, whose files nobody checks. */
  async uncheckedAgent(server: string, certificate: string): Promise<void> {
    const net = this.use(new Network(combinations["qrht/1"]!));
    const config: Partial<AgentConfig> = {
      servers: [loopback(Number(server.split(":")[1]))],
      tls: await this.files.identity(certificate),
    };
    // All that it takes of the server is overruled.
    net.agent({ quicPort: 0 } as Parameters<Network["agent"]>[0], config);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

/** Asserts that a program does not start, and says why in one line. */
async function assertUsageError(program: ChildProgram, message: RegExp): Promise<void> {
  assertEquals((await program.status).code, 2);
  const [line] = await program.line(/^proxy-.*/);
  assertMatch(line, message);
  assertEquals(program.lines.filter((line) => line !== "").length, 1, program.lines.join("\n"));
}

/** Asserts what `--check` says is to be fixed first. */
async function assertChecked(task: Task, flags: Flags, fix: RegExp): Promise<void> {
  const args = [...programArguments(task, flags), "--check"];
  await using program = new ChildProgram(Deno.execPath(), args);
  assertEquals((await program.status).code, 1, program.lines.join("\n"));
  const [line] = await program.line(/^fix this first: .*/);
  assertMatch(line, fix);
}

function test(mistake: string, fn: (stage: Stage) => Promise<void>): void {
  Deno.test(`mistake: ${mistake}`, async () => {
    await using stage = await Stage.create();
    await fn(stage);
  });
}

test("the wrong CA, at either end", async (stage) => {
  const { files } = stage;
  const one = await stage.server();
  const wrong = { ...files.agent("agent", "other"), server: one.quic };
  await stage.agent(one.quic, wrong).line(
    /WRN agent "cannot connect to the server".*not signed by the CA, but issued by .*CN=CA.* hint="set --ca-file to the CA of the server's certificate"/,
  );
  await one.program.line(
    /WRN server "agent refused".*alert 48.* hint="set the agent's --ca-file to the CA of --cert-file"/,
  );
  await assertChecked("agent", wrong, /set --ca-file to the CA of the server's certificate/);

  const other = await stage.server(files.server("server", "other"));
  await stage.agent(other.quic).line(
    /"cannot connect to the server".*alert 48.* hint="set the server's --client-ca-file to the CA of --cert-file"/,
  );
  await other.program.line(
    /"agent refused".*alert 48.* error="certificate is issued by .*CN=CA.*" hint="set --client-ca-file to the CA of the agent's certificate"/,
  );
  const flags = { server: other.quic, ...files.agent() };
  await assertChecked("agent", flags, /set the server's --client-ca-file to the CA of --cert-file/);
});

test("the wrong name", async (stage) => {
  const { program, quic } = await stage.server();
  const wrong = { server: quic, ...stage.files.agent(), "server-name": "x.example" };
  await stage.agent(quic, wrong).line(
    /"cannot connect to the server".*certificate is for .*quic-tunnel-server.*, not for .*x\.example.* hint="set --server-name to a name in the server's certificate, or issue/,
  );
  await program.line(
    /"agent refused".* hint="check that the agent's --server-name is a name in --cert-file, and check the clocks/,
  );
  await assertChecked(
    "agent",
    wrong,
    /set --server-name to a name in the server's certificate, or issue/,
  );
});

test("UDP that is blocked", async (stage) => {
  const socket = Deno.listenDatagram({ transport: "udp", ...loopback(0) });
  using _ = { [Symbol.dispose]: () => socket.close() };
  const server = `127.0.0.1:${(socket.addr as Deno.NetAddr).port}`;
  await stage.agent(server).line(
    /"cannot connect to the server" server=127.*error=".*no answer after 2000 ms; over TCP: 127\.0\.0\.1:\d+: connection refused" hint="check that the address is correct, that proxy-server is running there, and that firewalls allow UDP to this port" failures=1 /,
  );
  const fix =
    /allow UDP port \d+ in all firewalls .*; for TCP in place of UDP, start proxy-server with --listen-fallback on/;
  await assertChecked("agent", { server, ...stage.files.agent() }, fix);
});

test("a port that is taken", async (stage) => {
  const { quic, tcpPort } = await stage.server();
  for (const taken of [{ "listen-quic": quic }, { "listen-tcp": `127.0.0.1:${tcpPort}` }]) {
    const flags = { ...anyPort, ...stage.files.server(), ...taken };
    await assertUsageError(
      stage.start("server", flags),
      /cannot listen on --listen-(quic|tcp) 127\.0\.0\.1:\d+: .*in use.*; port \d+ is in use by another program, perhaps a proxy-server: stop it, or choose another port$/,
    );
    await assertChecked("server", flags, /--listen-\w+ 127.* is in use: stop the program/);
  }
});

test("no agent", async (stage) => {
  const { program, tcpPort } = await stage.server({ "agent-wait": "0" });
  using client = await Deno.connect(loopback(tcpPort));
  await program.line(
    /WRN server "client refused".*reason=no-agent error="no agent is connected" hint="start an agent; if one is running, its log has the reason why it does not connect"/,
  );
  await client.read(new Uint8Array(1)).catch(() => {});
});

test("a clock that is wrong", async (stage) => {
  const { files } = stage;
  await files.issue("early", { notBefore: inDays(1), notAfter: inDays(3) });
  await files.issue("early-server", {
    usage: "server",
    dnsNames: ["quic-tunnel-server"],
    notBefore: inDays(1),
    notAfter: inDays(3),
  });
  const early = /is not valid before \S+ \(check the clock of this machine: it shows \S+\)/;
  await assertUsageError(stage.start("agent", files.agent("early")), early);
  await assertChecked("agent", files.agent("early"), early);

  const server = await stage.uncheckedServer("early-server");
  const [line] = await stage.agent(server).line(/.*"cannot connect to the server".*/);
  assertMatch(line, early);
  assertMatch(line, / hint="synchronize the clocks of both machines, or wait"/);
  const flags = { server, ...files.agent() };
  await assertChecked("agent", flags, /synchronize the clocks of both machines/);

  const { program, quic } = await stage.server();
  await stage.uncheckedAgent(quic, "early");
  const [refused] = await program.line(/.*"agent refused".*/);
  assertMatch(refused, early);
  assertMatch(refused, / hint="synchronize the clocks of both machines, or wait"/);
});

test("a certificate that has expired", async (stage) => {
  const { files } = stage;
  const past = { notBefore: inDays(-3), notAfter: inDays(-1) };
  await files.issue("expired", past);
  await files.issue("expired-server", {
    usage: "server",
    dnsNames: ["quic-tunnel-server"],
    ...past,
  });
  const own = /the certificate in --cert-file ".*" expired on \S+; renew it$/;
  await assertUsageError(stage.start("agent", files.agent("expired")), own);
  await assertChecked("agent", files.agent("expired"), own);

  const server = await stage.uncheckedServer("expired-server");
  await stage.agent(server).line(
    /"cannot connect to the server".*certificate expired on \S+" hint="renew the server's certificate, or correct the clock/,
  );
  await assertChecked("agent", { server, ...files.agent() }, /renew the server's certificate/);

  const { program, quic } = await stage.server();
  await stage.uncheckedAgent(quic, "expired");
  await program.line(
    /"agent refused".*alert 45.* error="certificate expired on \S+" hint="renew the agent's certificate, or correct the clock/,
  );
});

test("a key file that cannot be read", async (stage) => {
  const { files } = stage;
  const missing = { ...files.agent(), "cert-key": `${files.path}/nope.key` };
  const cannot = /cannot read --cert-key ".*nope\.key": No such file or directory/;
  await assertUsageError(stage.start("agent", missing), cannot);
  await assertChecked("agent", missing, cannot);
  // Nothing is unreadable to root.
  if (Deno.build.os === "windows" || Deno.uid() === 0) return;
  await Deno.chmod(`${files.path}/agent.key`, 0);
  await assertUsageError(
    stage.start("agent", files.agent()),
    /cannot read --cert-key ".*": Permission denied; the user that runs this program needs read access/,
  );
});

test("an MTU that is too small", async (stage) => {
  const { program, quic, tcpPort } = await stage.server();
  const relay = stage.use(
    new UdpRelay({ hostname: "127.0.0.1", port: Number(quic.split(":")[1]) }, { maxBytes: 1280 }),
  );
  const server = `127.0.0.1:${relay.addr.port}`;
  const agent = stage.agent(server);
  await agent.line(/connected to quic server/);
  const net = stage.use(new Network(combinations["qrht/1"]!));
  const target = net.servingTarget(async (connection) => {
    await readToEnd(connection);
  });
  using client = await Deno.connect(loopback(tcpPort));
  await client.write(new TextEncoder().encode(`CONNECT ${target.authority} HTTP/1.1\r\n\r\n`));
  await client.read(new Uint8Array(100));
  const upload = client.write(new Uint8Array(100_000));
  await program.line(
    /WRN server "large datagrams are lost".* largerThan=1200 hint="tunnels are slower than necessary: raise the MTU of the whole path to the peer to 1400, also that of VPNs"/,
    20_000,
  );
  await upload;
  await assertChecked(
    "agent",
    { server, ...stage.files.agent() },
    /MTU of the whole path to the peer to 1400/,
  );
});

test("an MTU that is too small for what an agent sends", async (stage) => {
  const { quic, tcpPort } = await stage.server();
  const relay = stage.use(
    new UdpRelay({ hostname: "127.0.0.1", port: Number(quic.split(":")[1]) }, {
      toServer: { maxBytes: 1280 },
    }),
  );
  const net = stage.use(new Network(combinations["qrht/1"]!));
  const target = net.servingTarget(async (connection) => {
    await connection.write(new Uint8Array(100_000));
  });
  const agent = stage.agent(`127.0.0.1:${relay.addr.port}`);
  await agent.line(/connected to quic server/);
  using client = await Deno.connect(loopback(tcpPort));
  await client.write(new TextEncoder().encode(`CONNECT ${target.authority} HTTP/1.1\r\n\r\n`));
  await agent.line(
    /WRN agent "large datagrams are lost" server=.* hint=".*MTU of the whole path to the peer to 1400/,
    20_000,
  );
});

test("a flag that is misspelt", async (stage) => {
  const { files } = stage;
  const cases: [Task, string, RegExp][] = [
    ["agent", "sever", /^proxy-agent: unknown flag --sever; did you mean --server\?$/],
    ["server", "listen-udp", /^proxy-server: unknown flag --listen-udp; did you mean --listen-tcp/],
    ["passthrough", "bogus", /^proxy-passthrough: unknown flag --bogus; --help lists all flags$/],
  ];
  for (const [task, flag, message] of cases) {
    const flags = { ...(task === "server" ? files.server() : files.agent()), [flag]: "x:1" };
    await assertUsageError(stage.start(task, flags), message);
    await assertUsageError(stage.start(task, { ...flags, check: "x:1" }), /unknown flag|invalid/);
  }
});

Deno.test({
  name: "a misspelt variable, and an empty one of a flag that restricts, end the start",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const cases: [env: Record<string, string>, line: string][] = [
      [
        { QRHT_ALOW: "10.0.0.0/8" },
        "proxy-agent: unknown environment variable QRHT_ALOW; did you mean QRHT_ALLOW?",
      ],
      [
        { QRHT_ALLOW: "", QRHT_UPSTREAM: "127.0.0.1:1" },
        "proxy-agent: environment variable QRHT_ALLOW is empty: give it a value, or unset it",
      ],
    ];
    const files = { "ca-file": "a", "cert-file": "b", "cert-key": "c" };
    for (const [env, line] of cases) {
      await using agent = startProgram("agent", files, env);
      assertEquals((await agent.status).code, 2);
      assertEquals(agent.lines, [line]);
    }
  },
});
