// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** From nothing to a tunnel with what `--make-certs` writes. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { fileURLToPath } from "node:url";
import { commandOutput } from "../../tools/command_output.ts";
import {
  anyPort,
  programArguments,
  serverFlags,
  startOrigin,
  startProgram,
} from "../support/processes.ts";
import { readText, requestFor, sendText } from "../support/network.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const cwd = fileURLToPath(new URL("../../", import.meta.url));

function run(task: "server" | "agent", args: readonly string[], env: Record<string, string> = {}) {
  return commandOutput(Deno.execPath(), [...programArguments(task), ...args], { cwd, env });
}

Deno.test("proxy-server --make-certs makes what a server, an agent and its bundle need", async () => {
  await using folder = await temporaryFolder();
  const dir = `${folder.path}/certs`;
  const { code, stdout, stderr } = await run("server", [`--make-certs=${dir}`]);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^Created ca.pem, server.pem, agent.pem in /);

  await using server = startProgram("server", { ...anyPort, ...serverFlags(dir) });
  const [, tcp] = await server.line(/tcp listener on .*:(\d+)"/);
  const [, quic] = await server.line(/quic listener on .*:(\d+)"/);
  const bundle = [
    "--cert-name=127.0.0.1",
    "--agent-name=node-1",
    `--listen-quic=127.0.0.1:${quic}`,
  ];
  const asFile = await run("server", ["--make-certs", dir, ...bundle, `--bundle=${dir}/join`]);
  assertMatch(asFile.stdout, /^Created server.pem, node-1.pem in .*proxy-agent --join=\S+\n$/s);
  const asString = await run("server", ["--make-certs", dir, ...bundle, "--bundle=-"]);
  const [, string = ""] = /QRHT_JOIN=(\S+)/.exec(asString.stdout) ?? [];

  await using origin = await startOrigin();
  const authority = `127.0.0.1:${origin.port}`;
  for (const QRHT_JOIN of [`${dir}/join`, string]) {
    const allow = { allow: "127.0.0.0/8", v: 4 };
    await using agent = startProgram("agent", allow, { QRHT_JOIN });
    await agent.line(/"connected to quic server"/);
    const client = tcpDuplex(await Deno.connect({ hostname: "127.0.0.1", port: Number(tcp) }));
    await sendText(client, `${requestFor(authority)}GET / HTTP/1.0\r\n\r\n`);
    assertMatch(await readText(client), /^HTTP\/1.1 200 OK\r\n\r\nHTTP\/1.\d 200 /);
    await client[Symbol.asyncDispose]();
    agent.kill("SIGTERM");
    assertEquals((await agent.status).code, 0);
    const secret = string.slice(-100);
    assert(!agent.lines.some((line) => line.includes(secret) || line.includes("PRIVATE")));
  }
});

Deno.test("proxy-server --make-certs refuses what it cannot do, and the server its flags", async () => {
  await using folder = await temporaryFolder();
  const { path } = folder;
  for (
    const [args, message] of [
      [[`--make-certs=${path}`, "--cert-days=0"], "--cert-days"],
      [["--make-certs="], "must not be empty"],
      [["--make-certs=/proc/none"], "proxy-server: "],
      [["--cert-name=a", "--cert-file=a", "--cert-key=a", "--client-ca-file=a"], "--make-certs"],
    ] as const
  ) {
    const { code, stdout, stderr } = await run("server", args);
    assert(code > 0 && stdout === "" && stderr.includes(message), `${args}: ${stderr}`);
  }
});

Deno.test("proxy-agent --join refuses what is no bundle, without quoting it", async () => {
  await using folder = await temporaryFolder();
  const key = `${folder.path}/a.key`;
  await Deno.writeTextFile(
    key,
    "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
  );
  const secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ";
  for (
    const [args, message] of [
      [[`--join=${key}`], "--join: there is no line with the server's address"],
      [[`--join=qrht-agent:${secret}!`], "--join: the string is damaged"],
      [[`--join=${key}`, "--ca-file=x"], "--join cannot be combined with --ca-file"],
      [[`--join=${folder.path}/none`], "cannot read --join"],
      [["--server=a:1"], "missing required flag --ca-file"],
    ] as const
  ) {
    const { code, stderr } = await run("agent", args);
    assertEquals(code, 2);
    assert(stderr.includes(message) && !stderr.includes(secret.slice(0, 8)), stderr);
  }
});
