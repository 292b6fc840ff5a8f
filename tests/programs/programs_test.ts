// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs as processes, with the permissions of their tasks. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { createCa, issueCertificate } from "../../certs/issue.ts";
import { makeCerts } from "../../certs/make.ts";
import { eventually } from "../support/eventually.ts";
import { checkPattern } from "../support/pattern.ts";
import {
  agentFlags,
  anyPort,
  ChildProgram,
  serverFlags,
  startOrigin,
  startProgram,
} from "../support/processes.ts";

/** Of a body that is there to see that it arrives. */
const SIZE = 1000;

interface Tunnel extends AsyncDisposable {
  readonly dir: string;
  readonly server: ChildProgram;
  readonly agent: ChildProgram;
  readonly originPort: number;
  readonly proxyPort: number;
  readonly quicPort: string;
}

/** Certificates, an origin, a server and an agent. */
async function startTunnel(verbosity = 0): Promise<Tunnel> {
  const stack = new AsyncDisposableStack();
  const dir = await Deno.makeTempDir();
  stack.defer(() => Deno.remove(dir, { recursive: true }));
  try {
    await makeCerts(dir);
    const origin = stack.use(await startOrigin());
    const server = stack.use(
      startProgram("server", { ...anyPort, ...serverFlags(dir), v: verbosity }),
    );
    const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/);
    const [, quic] = await server.line(/quic listener on 127\.0\.0\.1:(\d+)/);
    const agent = stack.use(
      startProgram("agent", { server: `127.0.0.1:${quic}`, ...agentFlags(dir), v: verbosity }),
    );
    await server.line(/agent connected/);
    return {
      dir,
      server,
      agent,
      originPort: origin.port,
      proxyPort: Number(tcp),
      quicPort: quic!,
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** Asks the origin for a body through the tunnel and leaves it to the caller to read. */
async function request(tunnel: Tunnel, size: number): Promise<Deno.TcpConn> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: tunnel.proxyPort });
  try {
    const origin = `127.0.0.1:${tunnel.originPort}`;
    await send(connection, `CONNECT ${origin} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`);
    const answer = "HTTP/1.1 200 OK\r\n\r\n";
    assertEquals(await readText(connection, answer.length), answer);
    await send(
      connection,
      `GET /bytes/${size} HTTP/1.1\r\nHost: ${origin}\r\nConnection: close\r\n\r\n`,
    );
    return connection;
  } catch (error) {
    connection.close();
    throw error;
  }
}

async function send(connection: Deno.TcpConn, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  for (let offset = 0; offset < bytes.length;) {
    offset += await connection.write(bytes.subarray(offset));
  }
}

async function readText(connection: Deno.TcpConn, length: number): Promise<string> {
  const bytes = new Uint8Array(length);
  for (let offset = 0; offset < length;) {
    const n = await connection.read(bytes.subarray(offset));
    assert(n !== null, `the connection ended after ${offset} of ${length} bytes`);
    offset += n;
  }
  return new TextDecoder().decode(bytes);
}

/** Reads an answer to its end and checks every byte of its body. */
async function readBody(connection: Deno.TcpConn, size: number): Promise<void> {
  let head = "";
  while (!head.endsWith("\r\n\r\n")) head += await readText(connection, 1);
  assertMatch(head, /^HTTP\/1\.1 200 /);
  const buffer = new Uint8Array(65_536);
  let offset = 0;
  for (let n; (n = await connection.read(buffer)) !== null;) {
    checkPattern(buffer.subarray(0, n), offset);
    offset += n;
  }
  assertEquals(offset, size);
  connection.close();
}

Deno.test("1000 connections at once, half of them stalled, all get their bytes and do not hold up others", async () => {
  await using tunnel = await startTunnel();
  const slowSize = 1_000_000, quickSize = 100_000, fastSize = 20_000_000;
  const requests = Array.from(
    { length: 1000 },
    (_, i) => request(tunnel, i % 2 ? slowSize : quickSize),
  );
  const connections = await Promise.all(requests);
  const slow = connections.filter((_, i) => i % 2);
  // Nobody reads the slow ones until everything else is done: they are what must not hold it up.
  await Promise.all(
    connections.filter((_, i) => i % 2 === 0).map((connection) => readBody(connection, quickSize)),
  );
  await readBody(await request(tunnel, fastSize), fastSize);
  await Promise.all(slow.map((connection) => readBody(connection, slowSize)));
});

Deno.test("a wrong start says what is wrong in one line and exits with 2", async (t) => {
  const dir = await Deno.makeTempDir();
  try {
    await makeCerts(dir);
    const cases: [string, "server" | "agent" | "passthrough", Record<string, string>, RegExp][] = [
      ["unknown flag", "server", { ...serverFlags(dir), bogus: "1" }, /unknown flag.*bogus/],
      ["missing flag", "server", {}, /missing required flag --cert-file/],
      [
        "unreadable file",
        "agent",
        { ...agentFlags(dir), "ca-file": `${dir}/nope.pem` },
        /--ca-file.*nope\.pem.*No such file/,
      ],
      ["bad address", "agent", { ...agentFlags(dir), server: "foo" }, /--server.*"foo"/],
      ["key of another certificate", "agent", {
        ...agentFlags(dir),
        "cert-key": `${dir}/server.key`,
      }, /--cert-key/],
      ["no upstream", "passthrough", agentFlags(dir), /missing required flag --upstream/],
      [
        "address of another machine",
        "server",
        { ...serverFlags(dir), "listen-tcp": "192.0.2.1:1" },
        /--listen-tcp 192\.0\.2\.1:1/,
      ],
      ["not an IP address to listen on", "server", {
        ...serverFlags(dir),
        "listen-quic": "192.0.2.1:1",
      }, /--listen-quic 192\.0\.2\.1:1/],
    ];
    for (const [name, program, flags, message] of cases) {
      await t.step(name, async () => {
        await using child = startProgram(program, flags);
        assertEquals((await child.status).code, 2);
        await eventually("its message", () => child.lines.some((line) => message.test(line)));
        assertEquals(child.lines.filter((line) => line !== "").length, 1, child.lines.join("\n"));
      });
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("--help shows every flag and --version the version, with exit code 0", async () => {
  for (const program of ["server", "agent", "passthrough"] as const) {
    await using child = startProgram(program, { help: "true" });
    assertEquals((await child.status).code, 0);
    await child.line(/--cert-file.*/);
    await child.line(/QRHT_CERT_FILE/);
  }
  await using child = startProgram("server", { version: "true" });
  assertEquals((await child.status).code, 0);
  await child.line(/^proxy-server \d+\.\d+\.\d+$/);
});

Deno.test("flags come from QRHT_ variables, and Go's single dash works", async () => {
  await using tunnel = await startTunnel();
  const { dir, quicPort } = tunnel;
  await using agent = startProgram("agent", {}, {
    QRHT_SERVER: `127.0.0.1:${quicPort}`,
    QRHT_CA_FILE: `${dir}/ca.pem`,
    QRHT_CERT_FILE: `${dir}/client.pem`,
    QRHT_CERT_KEY: `${dir}/client.key`,
  });
  await agent.line(/connected to quic server/);
  await tunnel.server.line(/agents=2/);
});

Deno.test("the first SIGTERM stops a program in order, and its peers see why", async () => {
  await using tunnel = await startTunnel();
  await tunnel.agent.line(/connected to quic server/);
  tunnel.agent.kill("SIGTERM");
  assertEquals((await tunnel.agent.status).code, 0);
  await tunnel.server.line(/agent disconnected.*code 100.*agents=0/);
  tunnel.server.kill("SIGINT");
  assertEquals((await tunnel.server.status).code, 0);
  await tunnel.server.line(/server stopped/);
});

Deno.test("an agent that was killed is noticed within the idle timeout, and one that restarts is used", async () => {
  await using tunnel = await startTunnel();
  tunnel.agent.kill("SIGKILL");
  await tunnel.server.line(/agent disconnected.*timed out.*agents=0/, 15_000);
  await using _agent = startProgram("agent", {
    server: `127.0.0.1:${tunnel.quicPort}`,
    ...agentFlags(tunnel.dir),
  });
  await tunnel.server.line(/agent connected.* connection=2 /);
  await readBody(await request(tunnel, SIZE), SIZE);
});

Deno.test("an agent backs off from a server that is not there", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await makeCerts(dir);
    // A socket that never answers, so that nobody else has its port.
    const silent = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    using _ = { [Symbol.dispose]: () => silent.close() };
    const { port } = silent.addr as Deno.NetAddr;
    await using agent = startProgram("agent", {
      server: `127.0.0.1:${port}`,
      ...agentFlags(dir),
      v: 2,
    });
    const delays = await eventually("three failed attempts", () => {
      const found = agent.lines.flatMap((line) =>
        /cannot connect.*retryInMs=(\d+)/.exec(line)?.[1] ?? []
      );
      return found.length >= 3 && found.map(Number);
    }, 30_000);
    // The ceilings are 250, 500 and 1000 ms, with full jitter below them.
    assert(
      delays.every((delay, attempt) => delay >= 62 && delay <= 250 * 2 ** attempt),
      `${delays}`,
    );
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("certificates that do not fit get nowhere, and both ends say why", async (t) => {
  await using tunnel = await startTunnel();
  const { dir, quicPort, server } = tunnel;
  const other = await Deno.makeTempDir();
  try {
    await makeCerts(other);
    const cases: [string, Record<string, string>, RegExp, RegExp][] = [
      [
        "an agent of another CA",
        { "cert-file": `${other}/client.pem`, "cert-key": `${other}/client.key` },
        /cannot connect to the server.*closed by the peer: TLS alert 48, certificate of an unknown CA.*retryInMs=/,
        /WRN server "agent refused" remote=127\.0\.0\.1:\d+ reason=.*TLS alert 48, certificate of an unknown CA/,
      ],
      [
        "a server of another CA",
        { "ca-file": `${other}/ca.pem` },
        /cannot connect to the server.*TLS alert 48.*not signed by.*retryInMs=/,
        /WRN server "agent refused" remote=127\.0\.0\.1:\d+ reason=.*closed by the peer: TLS alert 48/,
      ],
      [
        "a server of another name",
        { "server-name": "other.example" },
        /cannot connect to the server.*certificate is for .*quic-tunnel-server.*, not for .*other\.example.*retryInMs=/,
        /WRN server "agent refused" remote=127\.0\.0\.1:\d+ reason=.*closed by the peer: TLS alert/,
      ],
    ];
    for (const [name, flags, atAgent, atServer] of cases) {
      await t.step(name, async () => {
        const before = server.lines.length;
        await using agent = startProgram("agent", {
          server: `127.0.0.1:${quicPort}`,
          ...agentFlags(dir),
          ...flags,
        });
        await agent.line(atAgent);
        await eventually(
          "the server's line",
          () => server.lines.slice(before).some((line) => atServer.test(line)),
        );
        assert(!agent.lines.some((line) => line.includes("connected to quic server")));
        assert(!server.lines.some((line) => line.includes("agents=2")));
      });
    }
  } finally {
    await Deno.remove(other, { recursive: true });
  }
});

Deno.test("an expired certificate of its own keeps a program from starting", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const notBefore = new Date("2020-01-01"), notAfter = new Date("2021-01-01");
    const ca = await createCa({ commonName: "CA", notBefore });
    const client = await issueCertificate(ca, {
      commonName: "agent",
      usage: "client",
      notBefore,
      notAfter,
    });
    await Deno.writeTextFile(`${dir}/ca.pem`, ca.certPem);
    await Deno.writeTextFile(`${dir}/client.pem`, client.certPem);
    await Deno.writeTextFile(`${dir}/client.key`, client.keyPem);
    await using agent = startProgram("agent", agentFlags(dir));
    assertEquals((await agent.status).code, 2);
    await agent.line(/^proxy-agent: .*--cert-file.*expired on 2021-01-01/);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
