// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Servers of one machine that share a port for clients. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/errors.ts";
import { refuseReusePort } from "../../lib/server/listeners.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { eventually } from "../support/eventually.ts";
import {
  assertReads,
  linesWith,
  loopback,
  OK,
  readUntilOver,
  requestFor,
  sendText,
  soon,
  test,
} from "../support/network.ts";
import { assertBody, type ServerProcess, Site } from "../support/site.ts";

const isLinux = Deno.build.os === "linux";
const CLIENTS = 40;
const BODY = 100_000;
const SHARED = { "reuse-port": "true", "agent-wait": "0s", v: 2 };

/** Two servers of one port, and an agent of both, over TCP. */
async function startSharing(site: Site): Promise<[ServerProcess, ServerProcess]> {
  const flags = { ...SHARED, "listen-fallback": "127.0.0.1:0" };
  const a = await site.server(flags);
  const b = await site.server({ ...flags, "listen-tcp": `127.0.0.1:${a.tcpPort}` });
  assertEquals(a.tcpPort, b.tcpPort);
  const fallbacks = [a, b].map(async ({ program }) =>
    (await program.line(/fallback listener on ([\d.:]+)/))[1]!
  );
  await site.agent((await Promise.all(fallbacks)).join(), { transport: "tcp" });
  for (const { program } of [a, b]) await program.line(/"agent connected".* transport=tcp/);
  return [a, b];
}

async function openTunnel(site: Site, tcpPort: number): Promise<Duplex> {
  const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
  await sendText(client, requestFor(site.origin));
  await assertReads(client, OK);
  return client;
}

/** Whether a tunnel carries a request and its answer; one that does not has ended. */
async function carries(client: Duplex): Promise<boolean> {
  try {
    await sendText(client, "GET /bytes/1 HTTP/1.0\r\n\r\n");
  } catch {
    // Reset: it is read, too.
  }
  const answer = await soon("an end", readUntilOver(client));
  await client[Symbol.asyncDispose]();
  if (answer === "") return false;
  assert(/^HTTP\/1\.\d 200 /.test(answer), answer);
  return true;
}

Deno.test({
  name: "servers with --reuse-port share clients, and a killed one takes its own tunnels along",
  ignore: !isLinux,
  fn: async () => {
    await using site = await Site.start();
    const [a, b] = await startSharing(site);
    const clients = await Promise.all(
      Array.from({ length: CLIENTS }, () => openTunnel(site, a.tcpPort)),
    );
    a.program.kill("SIGKILL");
    await a.program.status;
    const kept = (await Promise.all(clients.map(carries))).filter((carried) => carried).length;
    // All on one of them: a chance of two in 2^40.
    assert(kept > 0 && kept < CLIENTS, `${kept} of ${CLIENTS}`);
    await eventually("the other one has carried the rest", () => {
      return linesWith(b.program.lines, '"tunnel ended"').length === kept;
    });
    for (let i = 0; i < 10; i++) assert(await carries(await openTunnel(site, a.tcpPort)));
  },
});

Deno.test({
  name: "a server with --reuse-port that is stopped leaves no client unserved",
  ignore: !isLinux,
  fn: async () => {
    await using site = await Site.start();
    const [a, b] = await startSharing(site);
    const askOften = async () => {
      for (let i = 0; i < 30; i++) await assertBody(await site.request(b.tcpPort, BODY), BODY);
    };
    const asking = Promise.all(Array.from({ length: 4 }, askOften));
    await a.program.line(/"tunnel ended"/);
    a.program.kill("SIGTERM");
    await asking;
    assertEquals((await soon("the server's end", a.program.status)).code, 0);
  },
});

test("runServer() says why it cannot share a port", async (net) => {
  const { tcpPort } = await net.server();
  const reusePort = true;
  const error = await assertRejects(
    () => net.server({ reusePort, listenTcp: [loopback(tcpPort)] }),
    UsageError,
    `cannot listen on --listen-tcp 127.0.0.1:${tcpPort}: `,
  );
  assert(/ in use by a program without --reuse-port, or of another user,/.test(error.message));
  await assertRejects(
    () => net.server({ reusePort, listenTcp: [], udsName: "/nowhere" }),
    UsageError,
    "--reuse-port needs --listen-tcp",
  );
}, isLinux ? ["qrht/1"] : []);

Deno.test("refuseReusePort() refuses systems that do not spread clients", () => {
  const config = { reusePort: true, listenTcp: [] };
  refuseReusePort(config, "linux");
  refuseReusePort({ ...config, reusePort: false }, "windows");
  assertThrows(() => refuseReusePort(config, "darwin"), UsageError, "and this is darwin");
});
