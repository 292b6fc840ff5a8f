// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What an agent with a certificate of one group can get hold of: nothing of another's. */
import { assertEquals } from "@std/assert";
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
  agent(): Promise<ScriptedPeer>;
  /** A client of it, that has sent its secret. */
  client(): Promise<Duplex>;
}

/** The ways in which a client may be of a group. */
const ways: Readonly<Record<string, Partial<ServerConfig>>> = {
  listener: {
    listenTcp: ["cluster-a", "cluster-b"].map((name) => ({
      ...loopback(0),
      agents: parseAgents(name),
    })),
  },
  route: {
    routes: [parseRoute("cluster-a=10.0.0.0/8"), parseRoute("cluster-b=*")],
    listenTcp: [loopback(0), { ...loopback(0), agents: parseAgents("cluster-b") }],
  },
};

/** Registers a test in which foreign agents are there from the start, and get nothing until its end. */
function attackTest(name: string, fn: (attack: Attack) => Promise<void>): void {
  for (const [way, config] of Object.entries(ways)) {
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
          agent: () => net.scriptedAgent(server, { tls: own }),
          client: async () => {
            const client = await net.client(server);
            await sendText(client, SECRET);
            return client;
          },
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
