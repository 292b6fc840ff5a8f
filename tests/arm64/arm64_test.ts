// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Agents on emulated Linux on arm64, connected to a server on this machine, which is x86-64. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import type { Flags, ProgramTask } from "../../tools/project_program.ts";
import { pattern } from "../support/bytes.ts";
import { readExactly } from "../support/memory_duplex.ts";
import {
  agentFlags,
  anyPort,
  ChildProgram,
  programArguments,
  serverFlags,
  startProgram,
} from "../support/processes.ts";
import { emulatedDeno } from "./support/emulated_deno.ts";

/** An emulated program takes some seconds to start, more on a busy machine. */
const START_MS = 90_000;
const BULK_BYTES = 20 << 20;
const PIECE_BYTES = 64 << 10;

assertEquals(Deno.build.arch, "x86_64", "the server of these tests needs x86-64");

const folder = await Deno.makeTempDir();
addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
const emulated = await emulatedDeno(folder);
const certs = await Deno.makeTempDir({ dir: folder });
const others = await Deno.makeTempDir({ dir: folder });
await Promise.all([makeCerts(certs), makeCerts(others)]);

/** Starts a program as it would start on such a machine. */
function startOnArm64(
  task: ProgramTask,
  flags: Flags,
  more: string[] = [],
  env: Record<string, string> = {},
): ChildProgram {
  const args = [...emulated.args, ...programArguments(task, flags), ...more];
  return new ChildProgram(emulated.command, args, {
    name: `${task} on arm64`,
    env: { DENO_NO_UPDATE_CHECK: "1", ...env },
  });
}

interface RunningServer extends AsyncDisposable {
  readonly tcp: number;
  readonly quic: string;
  readonly fallback: string;
  readonly program: ChildProgram;
}

async function startServer(): Promise<RunningServer> {
  const program = startProgram("server", {
    ...anyPort,
    "listen-fallback": "127.0.0.1:0",
    ...serverFlags(certs),
  });
  const [, tcp] = await program.line(/tcp listener on 127\.0\.0\.1:(\d+)/, START_MS);
  const [, quic] = await program.line(/quic listener on (127\.0\.0\.1:\d+)/, START_MS);
  const [, fallback] = await program.line(/fallback listener on (127\.0\.0\.1:\d+)/, START_MS);
  return {
    tcp: Number(tcp),
    quic: quic!,
    fallback: fallback!,
    program,
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  };
}

/** A target that serves each of its connections. */
function target(serve: (connection: Duplex) => Promise<void>): Disposable & { port: number } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  void (async () => {
    for await (const connection of listener) {
      const duplex = tcpDuplex(connection);
      serve(duplex).catch(() => {}).finally(() => duplex[Symbol.asyncDispose]());
    }
  })().catch(() => {});
  return { port: listener.addr.port, [Symbol.dispose]: () => listener.close() };
}

const answer = new TextEncoder().encode("HTTP/1.1 200 OK\r\n\r\n");

async function connectTo(port: number, through: RunningServer): Promise<Duplex> {
  const client = tcpDuplex(await Deno.connect({ hostname: "127.0.0.1", port: through.tcp }));
  const head = `CONNECT 127.0.0.1:${port} HTTP/1.1\r\nHost: x\r\n\r\n`;
  await writeAll(client, new TextEncoder().encode(head));
  assertEquals(await readExactly(client, answer.length), answer);
  return client;
}

/** Sends a file of the size of the transfers, in pieces, and tells its digest. */
async function send(to: Duplex): Promise<string> {
  const hash = createHash("sha256");
  for (let sent = 0; sent < BULK_BYTES; sent += PIECE_BYTES) {
    const piece = pattern(PIECE_BYTES, sent + 1);
    hash.update(piece);
    await writeAll(to, piece);
  }
  await to.closeWrite();
  return hash.digest("hex");
}

async function receive(from: Duplex): Promise<string> {
  const hash = createHash("sha256");
  const buffer = new Uint8Array(PIECE_BYTES);
  for (let n; (n = await from.read(buffer)) !== null;) hash.update(buffer.subarray(0, n));
  return hash.digest("hex");
}

async function curl(url: string, proxy?: number): Promise<string> {
  const more = proxy ? ["--proxytunnel", "--proxy", `127.0.0.1:${proxy}`] : [];
  const { success, stdout, stderr } = await new Deno.Command("curl", {
    args: ["-sS", "--fail", "--max-time", "30", ...more, url],
  }).output();
  const decoder = new TextDecoder();
  assert(success, decoder.decode(stderr));
  return decoder.decode(stdout);
}

Deno.test("proxy-agent on arm64 carries requests and files both ways, and drains", async (t) => {
  await using server = await startServer();
  await using agent = startOnArm64("agent", {
    ...agentFlags(certs),
    server: server.quic,
    "listen-admin": "127.0.0.1:0",
    name: "emulated",
  });
  const [, admin] = await agent.line(/admin listener on (127\.0\.0\.1:\d+)/, START_MS);
  await agent.line(/"connected to quic server" .* alpn=qrht\/1 library=deno/, START_MS);
  await server.program.line(/"hello from agent" .* name=emulated /);

  await t.step("a request, through the tunnel and to the admin listener", async () => {
    using web = target(async (connection) => {
      await connection.read(new Uint8Array(4_096));
      const text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
      await writeAll(connection, new TextEncoder().encode(text));
    });
    assertEquals(await curl(`http://127.0.0.1:${web.port}/`, server.tcp), "hello");
    assertMatch(await curl(`http://${admin}/readyz`), /ok/);
    const metrics = await curl(`http://${admin}/metrics`);
    assertStringIncludes(metrics, 'quic_tunnel_agent_quic_library{library="deno"} 1');
    assertStringIncludes(metrics, 'target="aarch64-unknown-linux-gnu"');
    assert(!metrics.includes("quic_tunnel_agent_quic_smoothed_rtt_seconds{"));
  });

  await t.step("20 MiB each way at once", async () => {
    const digests: Promise<string>[] = [];
    using both = target(async (connection) => {
      digests.push(send(connection), receive(connection));
      await Promise.all(digests);
    });
    await using client = await connectTo(both.port, server);
    const [sent, received] = await Promise.all([send(client), receive(client)]);
    assertEquals(await Promise.all(digests), [received, sent]);
  });

  await t.step("a download that goes on while it drains", async () => {
    const digest = Promise.withResolvers<string>();
    const begun = Promise.withResolvers<void>();
    using slow = target(async (connection) => {
      await begun.promise;
      digest.resolve(await send(connection));
    });
    await using client = await connectTo(slow.port, server);
    agent.kill("SIGTERM");
    await agent.line(/"draining"/);
    begun.resolve();
    const received = await receive(client);
    assertEquals(received, await digest.promise);
    await client.closeWrite();
    assertEquals((await agent.status).code, 0);
    await server.program.line(/"agent disconnected" .*agent stopped/);
  });
});

Deno.test("proxy-passthrough on arm64 connects every stream to its upstream, over TCP", async () => {
  await using server = await startServer();
  using upstream = target(async (connection) => {
    const buffer = new Uint8Array(PIECE_BYTES);
    for (let n; (n = await connection.read(buffer)) !== null;) {
      await writeAll(connection, buffer.subarray(0, n));
    }
    await connection.closeWrite();
  });
  await using agent = startOnArm64("passthrough", {
    ...agentFlags(certs),
    server: server.quic,
    transport: "tcp",
    fallback: server.fallback,
    upstream: `127.0.0.1:${upstream.port}`,
  });
  await agent.line(/"connected to quic server" .* transport=tcp library=deno/, START_MS);
  await using client = tcpDuplex(
    await Deno.connect({ hostname: "127.0.0.1", port: server.tcp }),
  );
  const [sent, received] = await Promise.all([send(client), receive(client)]);
  assertEquals(received, sent);
});

Deno.test("proxy-agent on arm64 tells who refuses whom, and lets in no other server", async () => {
  await using server = await startServer();
  const cases: readonly (readonly [Record<string, string>, RegExp, Record<string, string>])[] = [
    [
      // A certificate of another CA.
      { ...agentFlags(others), "ca-file": join(certs, "ca.pem") },
      /unknown CA.* hint="set the server's --client-ca-file/,
      {},
    ],
    [
      { ...agentFlags(certs), "ca-file": join(others, "ca.pem") },
      /certificate is not of a CA in --ca-file.* hint="set --ca-file/,
      { DENO_CERT: join(certs, "ca.pem") },
    ],
  ];
  for (const [flags, words, env] of cases) {
    await using agent = startOnArm64("agent", { ...flags, server: server.quic }, [], env);
    const [line] = await agent.line(/.*"cannot connect to the server".*/, START_MS);
    assertMatch(line, words);
  }
});

Deno.test("--check on arm64 names the library, and proxy-server says that it needs x86-64", async () => {
  await using server = await startServer();
  const flags = { ...agentFlags(certs), server: server.quic };
  await using check = startOnArm64("agent", flags, ["--check"]);
  await check.line(/^ok +handshake with .*: qrht\/1, library deno/, START_MS);
  assertEquals((await check.status).code, 0);
  await using other = startOnArm64("server", { ...anyPort, ...serverFlags(certs) });
  const [line] = await other.line(/^proxy-server: .*/, START_MS);
  assertStringIncludes(line, "the QUIC library has no build for aarch64-unknown-linux-gnu");
  assertStringIncludes(line, "proxy-server does not run here");
  assert((await other.status).code !== 0);
});
