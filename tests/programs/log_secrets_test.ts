// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What clients send in confidence, and private keys, are in no line of processes that log all they can. */
import { assert, assertEquals } from "@std/assert";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { eventually } from "../support/eventually.ts";
import { loopback, NOBODY, readUntilOver, sendText } from "../support/network.ts";
import { agentFlags, startProgram } from "../support/processes.ts";
import { Site } from "../support/site.ts";

const SECRET = "dXNlcjpzM2NyZXQ=";

/** Heads of requests that are refused, each at another place. */
const heads = [
  `CONNECT ${NOBODY} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic ${SECRET}\r\n\r\n`,
  `CONNECT ${NOBODY} HTTP/1.1\r\nCookie: ${SECRET}\r\nno colon ${SECRET}\r\n\r\n`,
  `CONNECT ${NOBODY} HTTP/1.1\r\nX-Token: ${SECRET}\x00${SECRET}\r\n\r\n`,
  `CONNECT user:${SECRET}@${NOBODY} HTTP/1.1\r\n\r\n`,
  `CONNECT ${SECRET}@${NOBODY} HTTP/1.1\r\n\r\n`,
  `CONNECT http://${NOBODY}/a?token=${SECRET} HTTP/1.1\r\n\r\n`,
  `CONNECT ${NOBODY}?${SECRET} HTTP/1.1\r\n\r\n`,
  `CONNECT ${NOBODY}#${SECRET}@a HTTP/1.1\r\n\r\n`,
  `GET http://user:${SECRET}@${NOBODY}/ HTTP/1.1\r\nAuthorization: Bearer ${SECRET}\r\n\r\n`,
  `Authorization: Bearer ${SECRET}\r\n\r\n`,
  `CONNECT ${NOBODY} HTTP/1.1 ${SECRET}\r\n\r\n`,
  `CONNECT ${NOBODY} HTTP/${SECRET}\r\n\r\n`,
];

Deno.test("no line of server or agent has what a client sends in fields of its request, or a key", async () => {
  await using site = await Site.start();
  const server = await site.server({ v: 10 });
  const agent = await site.agent(server.quic, { v: 10 });
  for (const [i, head] of heads.entries()) {
    const client = tcpDuplex(await Deno.connect(loopback(server.tcpPort)));
    await sendText(client, head);
    await readUntilOver(client);
    client.abort();
    await eventually(
      "it is logged",
      () => agent.lines.filter((line) => line.includes('"tunnel refused"')).length === i + 1,
    );
  }
  const keys = ["server.key", "client.key"].map((name) =>
    Deno.readTextFileSync(`${site.dir}/${name}`).split("\n").filter((line) => !/^-|^$/.test(line))
  ).flat();
  assert(keys.length >= 4);
  const lines = [...server.program.lines, ...agent.lines];
  assertEquals(lines.filter((line) => [SECRET, ...keys].some((word) => line.includes(word))), []);
});

Deno.test("a start with a key in the wrong place tells nothing of it", async () => {
  await using site = await Site.start();
  const key = await Deno.readTextFile(`${site.dir}/client.key`);
  const path = (name: string) => `${site.dir}/${name}`;
  const wrong = [
    { "ca-file": path("client.key") },
    { "cert-file": path("client.key") },
    { "cert-key": path("server.key") },
  ];
  for (const flags of wrong) {
    await using agent = startProgram("agent", { ...agentFlags(site.dir), ...flags, v: 10 });
    assertEquals((await agent.status).code, 2);
    await eventually("its message", () => agent.lines.length > 0);
    const parts = key.split("\n").filter((line) => !/^-|^$/.test(line));
    assertEquals(agent.lines.filter((line) => parts.some((part) => line.includes(part))), []);
  }
});
