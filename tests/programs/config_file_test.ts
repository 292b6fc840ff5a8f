// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** `--config`, with programs as processes. */
import { assertEquals, assertMatch } from "@std/assert";
import { stringify } from "yaml";
import { CertificateFiles } from "../support/certificate_files.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { readText, readUntilOver, requestFor, sendText } from "../support/network.ts";
import { startOrigin, startProgram } from "../support/processes.ts";

Deno.test("programs start with nothing but a file", async () => {
  await using files = await CertificateFiles.create();
  await files.issue("agent");
  const write = async (name: string, flags: Record<string, unknown>) => {
    const path = `${files.path}/${name}.yaml`;
    await Deno.writeTextFile(path, stringify(flags));
    return path;
  };
  const serverFile = await write("server", {
    ...files.server(),
    "listen-quic": "127.0.0.1:0",
    "listen-tcp": ["127.0.0.1:0@agent", "127.0.0.1:0@other"],
  });
  await using server = startProgram("server", { config: serverFile });
  for (const group of ["agent", "other"]) {
    await server.line(new RegExp(`tcp listener on .* group=${group}`));
  }
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/);
  const agentFile = await write("agent", { ...files.agent(), server: quic, name: "of-file" });
  await using agent = startProgram("agent", { config: agentFile, name: "of-flag" });
  await agent.line(/"connected to quic server"/);
  await server.line(/"hello from agent".*name=of-flag/);

  await Deno.writeTextFile(serverFile, "\nlisten-qiuc: :1\n");
  await using refused = startProgram("server", { config: serverFile });
  await refused.line(/server\.yaml:2: unknown key "listen-qiuc"; did you mean listen-quic\?$/);
  assertEquals((await refused.status).code, 2);
});

/** What comes first. */
async function readSome(from: Duplex): Promise<string> {
  const buffer = new Uint8Array(1024);
  return new TextDecoder().decode(buffer.subarray(0, await from.read(buffer) ?? 0));
}

Deno.test("a running server and agent follow their files, and their tunnels go on", async () => {
  await using files = await CertificateFiles.create();
  for (const name of ["a", "b"]) await files.issue(name);
  await using origin = await startOrigin();
  const write = async (name: string, flags: Record<string, unknown>) => {
    const path = `${files.path}/${name}.yaml`;
    await Deno.writeTextFile(path, stringify(flags));
    return path;
  };
  const ofServer = { ...files.server(), "listen-quic": "127.0.0.1:0", v: 2 };
  const listener = { "listen-tcp": "127.0.0.1:0" };
  const byA = { ...ofServer, ...listener, route: ["a=127.0.0.0/8"] };
  const config = await write("server", byA);
  await using server = startProgram("server", { config });
  const [, tcp] = await server.line(/tcp listener on .*:(\d+)"/);
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/);
  const ofAgent = (name: string) => ({ ...files.agent(name), server: quic!, v: 2 });
  const allowing = { ...ofAgent("a"), allow: "127.0.0.0/8" };
  const agentFile = await write("agent", allowing);
  await using a = startProgram("agent", { config: agentFile });
  await server.line(/"agent connected".*agent=a /);

  const authority = `127.0.0.1:${origin.port}`;
  const ask = async () => {
    const client = tcpDuplex(await Deno.connect({ hostname: "127.0.0.1", port: Number(tcp) }));
    await sendText(client, requestFor(authority));
    return { client, answer: (await readSome(client)).split("\r\n")[0] };
  };
  const answer = async () => {
    const { client, answer } = await ask();
    await client[Symbol.asyncDispose]();
    return answer;
  };
  const { client, answer: first } = await ask();
  assertEquals(first, "HTTP/1.1 200 OK");

  // The agent denies what its file no longer allows.
  await write("agent", { ...allowing, allow: "10.0.0.0/8", mtu: 1400 });
  a.kill("SIGHUP");
  await a.line(/"config reloaded" flags=allow/);
  await a.line(/"changed flags need a restart" flags=mtu/);
  assertMatch(await answer() ?? "", /^HTTP\/1.1 403 /);
  await write("agent", allowing);
  a.lines.length = 0;
  a.kill("SIGHUP");
  await a.line(/"config reloaded" flags=allow/);
  assertEquals(await answer(), "HTTP/1.1 200 OK");

  // A file that is wrong changes nothing.
  await write("server", { ...byA, route: ["a=127.0.0.0/8", "b=10.0.0.0/99"] });
  server.kill("SIGHUP");
  await server.line(/"config not reloaded" error=.*route in .*server\.yaml:/);
  assertEquals(await answer(), "HTTP/1.1 200 OK");

  // Another group has the route: the first agent goes when its tunnel is over.
  await write("server", { ...byA, route: ["b=127.0.0.0/8"] });
  server.kill("SIGHUP");
  await server.line(/"agent is no longer admitted" agent=a /);
  assertMatch(await answer() ?? "", /^HTTP\/1.1 503 /);
  await a.line(/code 102 \(not admitted: no name in the certificate is of a --route/);
  await using b = startProgram("agent", { ...ofAgent("b"), allow: "127.0.0.0/8" });
  await server.line(/"agent connected".*agent=b .*groups=b/);
  await b.line(/"connected to quic server"/);
  assertEquals(await answer(), "HTTP/1.1 200 OK");
  await b.line(/"tunnel ended"/);
  await sendText(client, "GET / HTTP/1.0\r\n\r\n");
  assertMatch(await readText(client), /^HTTP\/1.\d 200 /);
  await client[Symbol.asyncDispose]();
  await server.line(/"agent disconnected" agent=a /);
});

Deno.test("a running server follows who is admitted, and whom its listeners are for", async () => {
  await using files = await CertificateFiles.create();
  for (const name of ["a", "b"]) await files.issue(name);
  await using origin = await startOrigin();
  const path = `${files.path}/server.yaml`;
  await using stack = new AsyncDisposableStack();
  const write = (agents: readonly string[], more: Record<string, unknown> = {}) =>
    Deno.writeTextFile(
      path,
      stringify({
        ...files.server(),
        "listen-quic": "127.0.0.1:0",
        "agent-wait": "0",
        v: 2,
        "listen-tcp": agents.map((name) => `127.0.0.1:0@${name}`),
        ...more,
      }),
    );
  await write(["a", "b"]);
  const server = stack.use(startProgram("server", { config: path }));
  const portOf = async (group: string) =>
    Number((await server.line(new RegExp(`tcp listener on .*:(\\d+)" .*group=${group}`)))[1]);
  const ports = [await portOf("a"), await portOf("b")] as const;
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/);
  const reload = async (flags: string) => {
    // What is waited for comes after this.
    for (const program of [server, agents.a, agents.b]) program.lines.length = 0;
    server.kill("SIGHUP");
    await server.line(new RegExp(`"config reloaded" flags=${flags}$`));
  };
  const start = (name: string) =>
    stack.use(
      startProgram("agent", { ...files.agent(name), server: quic!, allow: "127.0.0.0/8", v: 2 }),
    );
  const agents = { a: start("a"), b: start("b") };
  for (const name of ["a", "b"]) {
    await server.line(new RegExp(`"agent connected" .*agent=${name} `));
  }
  const open = async (port: number) => {
    const client = tcpDuplex(await Deno.connect({ hostname: "127.0.0.1", port }));
    stack.use(client);
    await sendText(client, requestFor(`127.0.0.1:${origin.port}`));
    return client;
  };
  /** Asserts that a listener leads to an agent. */
  const leads = async (port: number, to: keyof typeof agents) => {
    agents[to].lines.length = 0;
    const client = await open(port);
    assertMatch(await readSome(client), /^HTTP\/1\.1 200 OK\r/);
    client.abort();
    await agents[to].line(/"tunnel ended"/);
  };
  await leads(ports[0], "a");
  await leads(ports[1], "b");
  const client = await open(ports[0]);
  assertMatch(await readSome(client), /^HTTP\/1\.1 200 OK\r/);

  await write(["b", "a"]);
  await reload("listen-tcp");
  await leads(ports[0], "b");
  await leads(ports[1], "a");

  // Of no listener any more: it goes when the tunnel that it has is over.
  await write(["b", "b"]);
  await reload("listen-tcp");
  await server.line(/"agent is no longer admitted" agent=a .*tunnels=\d/);
  await leads(ports[0], "b");
  await leads(ports[1], "b");
  await sendText(client, "GET / HTTP/1.0\r\n\r\n");
  assertMatch(await readText(client), /^HTTP\/1.\d 200 /);
  await client[Symbol.asyncDispose]();
  await server.line(/"agent disconnected" agent=a .*code 102/);
  await server.line(/"agent refused" .*names=a .*is of a --route or a --listen-tcp/);

  // Let in again, and its turn to be the only one that is admitted.
  await write(["a", "b"]);
  await reload("listen-tcp");
  await agents.a.line(/"connected to quic server"/, 20_000); // after a pause of 10 s at most
  await server.line(/"agent connected" .*agent=a /);
  await leads(ports[0], "a");
  await write(["a", "b"], { "agent-name": "a" });
  await reload("agent-name");
  await server.line(/"agent is no longer admitted" agent=b .*tunnels=\d/);
  await server.line(/"agent refused" .*names=b .*no name in the certificate matches --agent-name/);
  await leads(ports[0], "a");
  assertEquals(await readUntilOver(await open(ports[1])), "");

  // Addresses stay what they were.
  await write(["a", "b", "a"], { "agent-name": "a" });
  server.kill("SIGHUP");
  await server.line(/"changed flags need a restart" flags=listen-tcp$/);
  await leads(ports[0], "a");
});
