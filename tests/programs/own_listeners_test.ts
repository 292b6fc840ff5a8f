// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Clients reach neither the listeners of an agent, nor a debugger in it. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { loopback, readUntilOver, requestFor, sendText } from "../support/network.ts";
import { Site } from "../support/site.ts";

/** The first line that a client gets that asks for a target, and for a page of it. */
async function statusOf(tcpPort: number, target: string): Promise<string> {
  const client = tcpDuplex(await Deno.connect(loopback(tcpPort)));
  try {
    await sendText(client, requestFor(target));
    await sendText(client, "GET /livez HTTP/1.0\r\n\r\n");
    return (await readUntilOver(client)).split("\r\n")[0]!;
  } finally {
    client.abort();
  }
}

Deno.test("an agent does not connect clients to its admin listener or to a debugger, unless a rule says so", async () => {
  await using site = await Site.start();
  const { tcpPort, quic } = await site.server();
  const agent = await site.agent(quic, { "listen-admin": ":0", v: 2 });
  const [, port] = await agent.line(/admin listener on \S+:(\d+)/);
  const denied = (target: string, what: string) =>
    `HTTP/1.1 403 ${target}: denied by default rule ${what}`;
  const own = Deno.networkInterfaces().filter(({ family }) => family === "IPv4")
    .map(({ address }) => address);
  for (const host of [...own, "0.0.0.0", "localhost", "[::1]"]) {
    const target = `${host}:${port}`;
    assertEquals(await statusOf(tcpPort, target), denied(target, `own listener ${port}`));
  }
  const inspector = "127.0.0.1:9229";
  assertEquals(await statusOf(tcpPort, inspector), denied(inspector, "debugger 9229"));
  await agent.end("SIGTERM", 5_000);

  // The rule has to name the port, so that it must be known before: the one that was free for the
  // first agent.
  const admin = `127.0.0.1:${port}`;
  await site.agent(quic, { "listen-admin": admin, allow: `*,${admin}` });
  assertStringIncludes(await statusOf(tcpPort, admin), "HTTP/1.1 200");
});

Deno.test({
  name: "SIGUSR1 opens no debugger, whenever it comes",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using site = await Site.start();
    const { program } = await site.server();
    // Deno begins to listen half a second after its start.
    for (let i = 0; i < 20; i++) {
      program.kill("SIGUSR1");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    program.kill("SIGUSR2");
    await program.line(/INF snapshot "snapshot" peers=0/);
    assertEquals(program.lines.filter((line) => /debugger/i.test(line)), []);
  },
});
