// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Three networks behind one server, as docs/networks.md has them, with programs as processes. */
import { assertEquals, assertMatch } from "@std/assert";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { CertificateFiles } from "../support/certificate_files.ts";
import { eventually } from "../support/eventually.ts";
import { readText, readUntilOver, requestFor, sendText, soon } from "../support/network.ts";
import { ChildProgram, programArguments, startOrigin, startProgram } from "../support/processes.ts";

const GROUPS = ["cluster-a", "cluster-b", "bastion"];

Deno.test("proxy-server leads clients of three listeners to three networks", async () => {
  await using files = await CertificateFiles.create();
  for (const name of [...GROUPS, "stranger"]) await files.issue(name);
  await using server = new ChildProgram(Deno.execPath(), [
    ...programArguments("server", {
      "listen-quic": "127.0.0.1:0",
      "listen-admin": "127.0.0.1:0",
      v: 2,
      ...files.server(),
    }),
    ...GROUPS.map((name) => `--listen-tcp=127.0.0.1:0@${name}`),
  ]);
  const ports = await Promise.all(GROUPS.map(async (name) => {
    const [, port] = await server.line(new RegExp(`tcp listener on .*:(\\d+)" .*group=${name}`));
    return Number(port);
  }));
  const [, admin] = await server.line(/admin listener on .*:(\d+)"/);
  const [, quic] = await server.line(/quic listener on .*:(\d+)"/);
  const get = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${admin}${path}`);
    return `${response.status} ${await response.text()}`;
  };
  assertMatch(await get("/readyz?group=bastion"), /^503 \[-\]group bastion failed/);

  await using origin = await startOrigin();
  const ssh = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using _ = ssh;
  const greet = async () => {
    const connection = await ssh.accept();
    await connection.write(new TextEncoder().encode("SSH-2.0-test\r\n"));
    connection.close();
  };
  const flagsOf = (name: string) => ({ server: `127.0.0.1:${quic}`, v: 2, ...files.agent(name) });
  await using a = startProgram("agent", { ...flagsOf("cluster-a"), allow: "127.0.0.0/8" });
  await using b = startProgram("agent", { ...flagsOf("cluster-b"), allow: "127.0.0.0/8" });
  const upstream = `127.0.0.1:${ssh.addr.port}`;
  await using bastion = startProgram("passthrough", { ...flagsOf("bastion"), upstream });
  await using stranger = startProgram("agent", flagsOf("stranger"));
  for (const agent of [a, b, bastion]) await agent.line(/"connected to quic server"/);
  await stranger.line(/code 102 \(not admitted: no name in the certificate is of a --route/);
  await eventually(
    "every group can be served",
    async () => /^200 (?:\[\+\].* ok\n)+readyz check passed\n$/.test(await get("/readyz?verbose")),
  );

  // The same address in both networks.
  const authority = `127.0.0.1:${origin.port}`;
  const connect = async (port: number) =>
    tcpDuplex(await Deno.connect({ hostname: "127.0.0.1", port }));
  for (const [index, agent] of [a, b].entries()) {
    const client = await connect(ports[index]!);
    await sendText(client, `${requestFor(authority)}GET / HTTP/1.0\r\n\r\n`);
    assertMatch(await readText(client), /^HTTP\/1.1 200 OK\r\n\r\nHTTP\/1.\d 200 /);
    await client[Symbol.asyncDispose]();
    await agent.line(new RegExp(`"tunnel ended" .*target=${authority} `));
    await server.line(
      new RegExp(`"tunnel ended" .*group=${GROUPS[index]} .*agent=${GROUPS[index]} `),
    );
  }
  const greeted = greet();
  await using client = await connect(ports[2]!);
  assertEquals(await readUntilOver(client), "SSH-2.0-test\r\n");
  await greeted;
  assertMatch(await get("/metrics"), /group_ready_backends\{group="cluster-b"\} 1\n/);

  // A group whose agent has gone, beside others.
  a.kill("SIGTERM");
  assertEquals((await soon("the agent's end", a.status)).code, 0);
  assertMatch(await get("/readyz?group=cluster-a"), /^503 /);
  assertMatch(await get("/readyz"), /^200 /);
  await using refused = await connect(ports[0]!);
  await sendText(refused, requestFor(authority));
  assertEquals(await readUntilOver(refused), "");
  await using other = await connect(ports[1]!);
  await sendText(other, `${requestFor(authority)}GET / HTTP/1.0\r\n\r\n`);
  assertMatch(await readText(other), /^HTTP\/1.1 200 OK\r\n/);
  assertEquals(a.lines.filter((line) => line.includes('"tunnel ended"')).length, 1);
});
