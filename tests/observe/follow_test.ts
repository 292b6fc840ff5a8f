// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A tunnel is followed through the logs of server and agent, as docs/logging.md says. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { configureLog, resetLog } from "../../lib/log.ts";
import { eventually } from "../support/eventually.ts";
import { type Network, readUntilOver, test } from "../support/network.ts";

type Line = Readonly<Record<string, unknown>>;

/** Makes two tunnels, one after the other, and gives what server and agent have logged at the end. */
async function logsOfTwo(net: Network) {
  const lines: Line[] = [];
  const collect = (line: string) => {
    assertMatch(line, /^\{"time":"[^"]+","level":"(?:trace|debug|info|warning)","category":"/);
    lines.push(JSON.parse(line));
  };
  configureLog(4, collect, { format: "json" });
  using _ = { [Symbol.dispose]: resetLog };
  const server = await net.serverWithAgent();
  for (let i = 1; i <= 2; i++) {
    const { client, atTarget } = await net.tunnel(server);
    for (const end of [atTarget, client]) await end.closeWrite();
    await Promise.all([readUntilOver(client), readUntilOver(atTarget)]);
    const ended = () => lines.filter(({ message }) => message === "tunnel ended");
    await eventually("both have logged the end", () => ended().length === 2 * i);
  }
  const of = (category: string) => lines.filter((line) => line.category === category);
  return { all: lines, server: of("server"), agent: of("agent") };
}

const messagesOf = (lines: readonly Line[]) => lines.map(({ message }) => message);

const endOf = (lines: readonly Line[]) => lines.find(({ message }) => message === "tunnel ended")!;

test("the id of a tunnel is on every line about it, at both ends", async (net) => {
  const { all, server, agent } = await logsOfTwo(net);
  const { tunnel } = endOf(server);
  assertMatch(String(tunnel), /^[0-9a-f]{32}$/);
  const of = (lines: readonly Line[]) => lines.filter((line) => line.tunnel === tunnel);
  assertEquals(messagesOf(of(server)), [
    "accepted tcp connection",
    "stream opened",
    "tunnel ended",
  ]);
  assertEquals(messagesOf(of(agent)), ["connect request", "tunnel ended"]);

  const others = new Set(all.map((line) => line.tunnel));
  assertEquals(others.size, 3, "two tunnels, and lines without one");
  const about = all.filter(({ client, target }) => client || target);
  assert(about.every((line) => typeof line.tunnel === "string"), JSON.stringify(about));

  const { received, durationMs, reason } = endOf(agent);
  assertEquals([typeof received, typeof durationMs, reason], ["number", "number", "end"]);
}, ["qrht/1"]);

test("connection id and stream of a tunnel are the same at both ends", async (net) => {
  const { all, server, agent } = await logsOfTwo(net);
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
  const onStreams = all.filter((line) => line.stream !== undefined);
  assert(onStreams.every((line) => line.cid === cid), JSON.stringify(onStreams));
}, ["qrht/1", "raw"]);
