// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A tunnel is followed through the logs of server and agent, which are processes, as docs/logging.md says. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { eventually } from "../support/eventually.ts";
import { readToEnd } from "../support/memory_duplex.ts";
import type { ChildProgram } from "../support/processes.ts";
import { Site } from "../support/site.ts";

type Line = Readonly<Record<string, unknown>>;

/** The lines of a program, each of which has to be a JSON object. */
function linesOf({ lines }: ChildProgram): Line[] {
  return lines.map((line) => {
    assertMatch(line, /^\{"time":"[^"]+","level":"(?:trace|debug|info|warning)","category":"/);
    return JSON.parse(line);
  });
}

/** Makes two tunnels, one after the other, and gives what the programs have logged at the end. */
async function logsOfTwo(alpn: string): Promise<{ server: Line[]; agent: Line[] }> {
  await using site = await Site.start();
  const flags = { v: 4, alpn, "log-format": "json" };
  const server = await site.server(flags);
  const agent = await site.agent(server.quic, flags);
  for (let i = 1; i <= 2; i++) {
    const client = await site.request(server.tcpPort, 10);
    await readToEnd(client);
    await client.closeWrite();
    client.abort();
    await eventually(
      "both have logged the end",
      () =>
        [server.program, agent].every((program) =>
          linesOf(program).filter(({ message }) => message === "tunnel ended").length === i
        ),
    );
  }
  return { server: linesOf(server.program), agent: linesOf(agent) };
}

const messagesOf = (lines: readonly Line[]) => lines.map(({ message }) => message);

const endOf = (lines: readonly Line[]) => lines.find(({ message }) => message === "tunnel ended")!;

Deno.test("in qrht/1, the id of a tunnel is on every line about it, at both ends", async () => {
  const { server, agent } = await logsOfTwo("qrht/1");
  const { tunnel } = endOf(server);
  assertMatch(String(tunnel), /^[0-9a-f]{32}$/);
  const of = (lines: readonly Line[]) => lines.filter((line) => line.tunnel === tunnel);
  assertEquals(messagesOf(of(server)), [
    "accepted tcp connection",
    "stream opened",
    "tunnel ended",
  ]);
  assertEquals(messagesOf(of(agent)), ["connect request", "tunnel ended"]);

  const others = new Set([...server, ...agent].map((line) => line.tunnel));
  assertEquals(others.size, 3, "two tunnels, and lines without one");
  const about = [...server, ...agent].filter(({ client, target }) => client || target);
  assert(about.every((line) => typeof line.tunnel === "string"), JSON.stringify(about));

  const { received, durationMs, reason } = endOf(agent);
  assertEquals([typeof received, typeof durationMs, reason], ["number", "number", "end"]);
});

for (const alpn of ["qrht/1", "quic-echo-example"]) {
  Deno.test(`in ${alpn}, connection id and stream are the same at both ends`, async () => {
    const { server, agent } = await logsOfTwo(alpn);
    const connected = (lines: readonly Line[], message: string) =>
      lines.find((line) => line.message === message)!.cid;
    const cid = connected(server, "agent connected");
    assertMatch(String(cid), /^[0-9a-f]{16}$/);
    assertEquals(connected(agent, "connected to quic server"), cid);

    const { stream } = endOf(server);
    const of = (lines: readonly Line[]) =>
      lines.filter((line) => line.cid === cid && line.stream === stream);
    assertEquals(messagesOf(of(server)), ["stream opened", "tunnel ended"]);
    assertEquals(messagesOf(of(agent)), ["stream accepted", "connect request", "tunnel ended"]);
    const streams = (lines: readonly Line[]) => lines.filter((line) => line.stream !== undefined);
    assert([...streams(server), ...streams(agent)].every((line) => line.cid === cid));
  });
}
