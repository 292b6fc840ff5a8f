// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs as processes, with the permissions of their tasks. */
import { assert, assertEquals } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { eventually } from "../support/eventually.ts";
import { loopback } from "../support/network.ts";
import { agentFlags, serverFlags, startProgram } from "../support/processes.ts";
import { assertBody, Site } from "../support/site.ts";

Deno.test("1000 connections at once, half of them stalled, all get their bytes and do not hold up others", async () => {
  await using site = await Site.start();
  const { tcpPort, quic } = await site.server();
  await site.agent(quic);
  const slowSize = 1_000_000, quickSize = 100_000, fastSize = 20_000_000;
  const connections = await Promise.all(
    Array.from({ length: 1000 }, (_, i) => site.request(tcpPort, i % 2 ? slowSize : quickSize)),
  );
  const slow = connections.filter((_, i) => i % 2);
  // Nobody reads the slow ones until everything else is done: they are what must not hold it up.
  await Promise.all(
    connections.filter((_, i) => i % 2 === 0).map((client) => assertBody(client, quickSize)),
  );
  await assertBody(await site.request(tcpPort, fastSize), fastSize);
  await Promise.all(slow.map((client) => assertBody(client, slowSize)));
});

Deno.test("a wrong start says what is wrong in one line and exits with 2", async (t) => {
  const dir = await Deno.makeTempDir();
  try {
    await makeCerts(dir);
    const cases: [string, "server" | "agent" | "passthrough", Record<string, string>, RegExp][] = [
      ["unknown flag", "server", { ...serverFlags(dir), bogus: "1" }, /unknown flag.*bogus/],
      ["missing flag", "server", {}, /missing required flag --cert-file/],
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
  await using site = await Site.start();
  const { program, quic } = await site.server();
  await using agent = startProgram("agent", {}, {
    QRHT_SERVER: quic,
    QRHT_CA_FILE: `${site.dir}/ca.pem`,
    QRHT_CERT_FILE: `${site.dir}/client.pem`,
    QRHT_CERT_KEY: `${site.dir}/client.key`,
    QRHT_LOG_FORMAT: "json",
  });
  await agent.line(/^\{.*"message":"connected to quic server"/);
  await program.line(/agents=1$/);
});

Deno.test("the first SIGTERM or SIGINT stops a program in order, and its peers see why", async () => {
  await using site = await Site.start();
  const { program, quic } = await site.server();
  const agent = await site.agent(quic);
  agent.kill("SIGTERM");
  assertEquals((await agent.status).code, 0);
  await program.line(/agent disconnected.*code 100.*agents=0/);
  program.kill("SIGINT");
  assertEquals((await program.status).code, 0);
  await program.line(/server stopped/);
});

Deno.test("an agent backs off from a server that is not there", async () => {
  await using site = await Site.start();
  // A socket that never answers, so that nobody else has its port.
  const silent = Deno.listenDatagram({ transport: "udp", ...loopback(0) });
  using _ = { [Symbol.dispose]: () => silent.close() };
  const server = `127.0.0.1:${(silent.addr as Deno.NetAddr).port}`;
  await using agent = startProgram("agent", { server, ...agentFlags(site.dir), v: 2 });
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
});
