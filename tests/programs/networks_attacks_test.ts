// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What an agent with a certificate of one group can get hold of: nothing of another's. */
import { assertEquals, assertMatch } from "@std/assert";
import { encodeFrame, FrameType } from "../../lib/qrht/frame.ts";
import { encodeHello } from "../../lib/qrht/messages.ts";
import { parseAgents } from "../../lib/server/agent_set.ts";
import { parseRoute } from "../../lib/server/routes.ts";
import type { QuicStream } from "../../lib/quic/mod.ts";
import type { ServerConfig } from "../../lib/server/config.ts";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { readExactly } from "../support/memory_duplex.ts";
import {
  assertReads,
  lineWith,
  logLines,
  loopback,
  readUntilOver,
  requestFor,
  sendText,
  type Server,
  soon,
  text,
  withNetwork,
} from "../support/network.ts";
import { frames, ScriptedNetwork, type ScriptedPeer } from "../support/scripted_peer.ts";
import { TestCa } from "../support/tls.ts";

const ca = await TestCa.create();
const tls = await ca.server();
const own = await ca.client({ commonName: "cluster-a", dnsNames: ["cluster-a"] });
const renewed = await ca.client({ commonName: "node-2", dnsNames: ["cluster-a", "node-2"] });
/** In `cluster-b` alone, whatever else is in it resembles `cluster-a`. */
const foreign = await ca.client({
  commonName: "cluster-a",
  dnsNames: ["cluster-b", "cluster-a.", "*.cluster-a", "cluster-a.example", "xcluster-a"],
  uris: ["spiffe://cluster-a"],
  ipAddresses: ["10.0.0.1"],
});
const SECRET = requestFor("10.0.0.1:443") + "secret";

interface Attack {
  readonly net: ScriptedNetwork;
  readonly server: Server;
  readonly lines: readonly string[];
  /** An agent of the group that the client is of. */
  agent(tls?: typeof own): Promise<ScriptedPeer>;
  /** A client of it, that has sent its secret. */
  client(): Promise<Duplex>;
  readonly moved: Partial<ServerConfig>;
  readonly gone: Partial<ServerConfig>;
}

const listeners = (...all: readonly string[]) =>
  all.map((text) => ({ ...loopback(0), ...(text && { agents: parseAgents(text) }) }));
const routes = (...all: readonly string[]) => all.map(parseRoute);

/**
 * The ways in which a client may be of a group, and what leads such clients to the other one: while
 * agents of theirs are of use otherwise, and when they are not.
 */
const ways: Readonly<Record<string, Record<"config" | "moved" | "gone", Partial<ServerConfig>>>> = {
  listener: {
    config: { listenTcp: listeners("cluster-a", "cluster-b", "cluster-a") },
    moved: { listenTcp: listeners("cluster-b", "cluster-b", "cluster-a") },
    gone: { listenTcp: listeners("cluster-b", "cluster-b", "cluster-b") },
  },
  route: {
    config: {
      routes: routes("cluster-a=10.0.0.0/8", "cluster-b=*"),
      listenTcp: listeners("", "cluster-b"),
    },
    moved: { routes: routes("cluster-b=10.0.0.0/8", "cluster-a=11.0.0.0/8") },
    gone: { routes: routes("cluster-b=*") },
  },
};

/** Registers a test in which foreign agents are there from the start, and get nothing until its end. */
function attackTest(name: string, fn: (attack: Attack) => Promise<void>): void {
  for (const [way, { config, moved, gone }] of Object.entries(ways)) {
    Deno.test(`an agent of another group gets nothing ${name} (by ${way})`, () =>
      withNetwork(new ScriptedNetwork(), async (net) => {
        using lines = logLines(0);
        const server = await net.server({ tls, agentWaitMs: 20_000, ...config });
        const stolen: QuicStream[][] = [];
        for (let i = 0; i < 3; i++) {
          const thief = await net.scriptedAgent(server, { tls: foreign });
          const claim = { program: "proxy-agent", name: "cluster-a", features: ["drain"] };
          await thief.control(encodeFrame(FrameType.Hello, encodeHello(claim)));
          stolen.push(thief.serve(async ({ connected, carrier }) => {
            connected();
            await sendText(carrier, "own");
            await carrier.closeWrite();
          }));
        }
        await fn({
          net,
          server,
          lines,
          agent: (tls = own) => net.scriptedAgent(server, { tls }),
          client: async () => {
            const client = await net.client(server);
            await sendText(client, SECRET);
            return client;
          },
          moved,
          gone,
        });
        assertEquals(stolen.flat().length, 0);
        // They are no mere bystanders: what is theirs gets to them.
        const client = await net.client({ tcpPort: server.tcpPorts[1]! });
        await sendText(client, SECRET);
        await soon("their own", assertReads(client, "own"));
      }));
  }
}

/** Has the next tunnel of an agent's carry all of a client's bytes, and an answer. */
async function assertServes(agent: ScriptedPeer, client: Duplex): Promise<void> {
  const { connected, carrier } = await agent.tunnel();
  connected();
  const read = await soon("the request", readExactly(carrier, SECRET.length));
  assertEquals(text.decode(read), SECRET);
  await sendText(carrier, "here");
  await soon("the answer", assertReads(client, "here"));
}

attackTest("while a client waits for its own", async ({ agent, client }) => {
  const waiting = await client();
  await assertServes(await agent(), waiting);
});

attackTest("of a tunnel that is replayed", async ({ agent, client }) => {
  const [first, second] = [await agent(), await agent()];
  const asking = await client();
  const { stream } = await first.tunnel();
  await writeAll(stream, frames.result("overloaded"));
  await assertServes(second, asking);
});

attackTest("in the middle of a retry, of which all others are gone", async ({ agent, client }) => {
  const first = await agent();
  const asking = await client();
  await first.tunnel();
  first.connection.close(0, "scripted");
  await first.closed();
  await assertServes(await agent(), asking);
});

attackTest("in the middle of a retry, when a reload leads its clients to them", async (attack) => {
  const { agent, client, server, moved } = attack;
  const [first, second] = [await agent(), await agent()];
  const asking = await client();
  const { stream } = await first.tunnel();
  await server.change(moved);
  const others = second.serve(() => Promise.resolve());
  for (const frame of [frames.result("overloaded"), frames.data("no"), frames.end]) {
    await writeAll(stream, frame);
  }
  await stream.closeWrite();
  assertEquals(await soon("the first answer", readUntilOver(asking)), "no");
  assertEquals(others, []);
});

attackTest("while a retry waits, when a reload leads its clients to them", async (attack) => {
  const { agent, client, server, gone } = attack;
  const first = await agent();
  const asking = await client();
  await first.tunnel();
  first.connection.close(0, "scripted");
  await lineWith(attack.lines, '"agent disconnected"', "agent=cluster-a");
  await server.change(gone);
  assertMatch(
    await soon("its end", readUntilOver(asking)),
    /^(HTTP\/1\.1 503 .*)?$/s,
  );
});

attackTest("of a retry that a reload leaves to some agents of the group", async (attack) => {
  const { agent, client, server } = attack;
  const [first, second] = [await agent(), await agent()];
  const asking = await client();
  const { stream } = await first.tunnel();
  const admitted = await agent(renewed);
  await server.change({ agentNames: ["cluster-b", "node-*"] });
  const others = second.serve(() => Promise.resolve());
  await writeAll(stream, frames.result("overloaded"));
  await assertServes(admitted, asking);
  assertEquals(others, []);
});

attackTest("of a group whose agents drain", async ({ agent, client, lines }) => {
  const draining = await agent();
  const running = await client();
  const { connected, carrier } = await draining.tunnel();
  connected();
  await draining.control(frames.hello(), frames.drain);
  await lineWith(lines, '"agent is draining"', "agent=cluster-a");
  const waiting = await client();
  await assertServes(await agent(), waiting);
  await sendText(carrier, "still here");
  await soon("the one under way", assertReads(running, "still here"));
});
