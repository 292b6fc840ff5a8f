// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The table of docs/endings.md, row by row: what everybody sees when a tunnel ends, and that nothing is left of it. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import type { TunnelTimeouts } from "../../lib/tunnel/pipe.ts";
import { endInOrder, lookAt, RESET, type Sees } from "../support/endings.ts";
import { eventually } from "../support/eventually.ts";
import { live } from "../../lib/quic/mod.ts";
import {
  assertReads,
  lineWith,
  logLines,
  type Network,
  NOBODY,
  OK,
  readUntilOver,
  requestFor,
  type Running,
  sendText,
  type Server,
  soon,
  test,
  within,
} from "../support/network.ts";
import { ResettableTarget, ResettableTcp } from "../support/tcp_pair.ts";
import { UdpRelay } from "../support/udp_relay.ts";

/** A tunnel and everybody who has a part in it. */
interface Tunnel {
  readonly net: Network;
  readonly server: Server;
  readonly agent: Running;
  readonly client: ResettableTcp;
  readonly target: ResettableTcp;
  /** Between server and agent. */
  readonly relay: UdpRelay;
}

interface Row {
  /** As in docs/endings.md. */
  readonly name: string;
  readonly act: (tunnel: Tunnel) => Promise<void>;
  /** What they see who did not act; undefined for who does not look. */
  readonly client?: Sees;
  readonly target?: Sees;
  /** The ends of the lines that the two programs write. */
  readonly server: RegExp;
  readonly agent: RegExp;
  /** The bound of it all, beside what a loaded machine takes. */
  readonly withinMs: number;
  readonly timeouts?: {
    readonly server?: Partial<TunnelTimeouts>;
    readonly agent?: Partial<TunnelTimeouts>;
  };
  readonly drainTimeoutMs?: number;
  readonly only?: readonly string[];
}

const TIMEOUT_MS = 250;
/** Time in which an end that vanishes is noticed, and the dialects for which that is waited for. */
const IDLE_MS = 5_000;

/** A reset may come before a client knows that it is connected. */
async function connectAndLook(net: Network, server: Server): Promise<Sees> {
  const client = await ResettableTcp.connect(server.tcpPort).catch(() => undefined);
  return client ? await lookAt(net.own(client)) : "reset";
}

/** Writes without an end, and does not care that it fails. */
function flood(from: Duplex): Promise<void> {
  const send = async () => {
    const bytes = new Uint8Array(64 << 10);
    for (;;) await from.write(bytes);
  };
  return send().catch(() => {});
}

const rows: readonly Row[] = [
  {
    name: "client EOF",
    act: ({ client, target }) => endInOrder(client, target),
    server: /by=client reason=end$/,
    agent: /by=client reason=end$/,
    withinMs: 0,
  },
  {
    name: "client reset",
    act: async ({ client }) => await client.abort(),
    target: RESET,
    server: /by=client reason=reset error=/,
    agent: /by=client reason=reset error=/,
    withinMs: 100,
  },
  {
    name: "client close",
    async act({ client, target }) {
      await client[Symbol.asyncDispose]();
      assertEquals(await lookAt(target), "end");
      // It is told when there is something that nobody takes any more.
      await flood(target);
    },
    server: /by=client reason=reset error=/,
    agent: /by=client reason=reset error=/,
    withinMs: 1_000,
  },
  {
    name: "client silence",
    act: async () => {},
    client: RESET,
    target: RESET,
    server: /durationMs=\d+ reason=idle$/,
    agent: /by=client reason=reset error=/,
    timeouts: { server: { idleTimeoutMs: TIMEOUT_MS } },
    withinMs: TIMEOUT_MS,
  },
  {
    name: "client silence, bytes waiting",
    act: ({ target }) => flood(target),
    client: RESET,
    server: /by=client reason=write-timeout$/,
    agent: /by=client reason=reset error=/,
    timeouts: { server: { writeTimeoutMs: TIMEOUT_MS } },
    withinMs: TIMEOUT_MS,
  },
  {
    name: "client silence after target EOF",
    act: ({ target }) => target.closeWrite(),
    client: "end",
    target: RESET,
    server: /by=client reason=half-open$/,
    agent: /by=client reason=reset error=/,
    timeouts: { server: { halfOpenTimeoutMs: TIMEOUT_MS } },
    withinMs: TIMEOUT_MS,
  },
  {
    name: "target EOF",
    act: ({ client, target }) => endInOrder(target, client),
    server: /by=target reason=end$/,
    agent: /by=target reason=end$/,
    withinMs: 0,
  },
  {
    name: "target reset",
    act: async ({ target }) => await target.abort(),
    client: RESET,
    server: /by=target reason=reset error=/,
    agent: /by=target reason=reset error=/,
    withinMs: 200,
  },
  {
    name: "target close",
    async act({ client, target }) {
      await target[Symbol.asyncDispose]();
      assertEquals(await lookAt(client), "end");
      await flood(client);
    },
    server: /by=target reason=reset error=/,
    agent: /by=target reason=reset error=/,
    withinMs: 1_000,
  },
  {
    name: "target silence",
    act: async () => {},
    client: RESET,
    target: RESET,
    server: /by=target reason=reset error=/,
    agent: /durationMs=\d+ reason=idle$/,
    timeouts: { agent: { idleTimeoutMs: TIMEOUT_MS } },
    withinMs: TIMEOUT_MS,
  },
  {
    name: "target silence, bytes waiting",
    act: ({ client }) => flood(client),
    target: RESET,
    server: /by=target reason=reset error=/,
    agent: /by=target reason=write-timeout$/,
    timeouts: { agent: { writeTimeoutMs: TIMEOUT_MS } },
    withinMs: TIMEOUT_MS,
  },
  {
    name: "target silence after client EOF",
    act: ({ client }) => client.closeWrite(),
    client: RESET,
    target: "end",
    server: /by=target reason=reset error=/,
    agent: /by=target reason=half-open$/,
    timeouts: { agent: { halfOpenTimeoutMs: TIMEOUT_MS } },
    withinMs: TIMEOUT_MS,
  },
  ...(["server", "agent"] as const).flatMap((program): Row[] => {
    const peer = program === "server" ? "agent" : "server";
    const lines = (own: RegExp, others: RegExp) =>
      ({ [program]: own, [peer]: others }) as {
        server: RegExp;
        agent: RegExp;
      };
    return [
      {
        name: `${program} EOF`,
        drainTimeoutMs: 20_000,
        async act(tunnel) {
          const { client, target } = tunnel;
          tunnel[program].abort();
          await sendText(client, "after SIGTERM");
          await assertReads(target, "after SIGTERM");
          await endInOrder(client, target);
          await tunnel[program].done;
        },
        ...lines(/by=client reason=end$/, /by=client reason=end$/),
        withinMs: 0,
      },
      {
        name: `${program} close`,
        act: (tunnel) => tunnel[program].stop(),
        client: RESET,
        target: RESET,
        ...lines(
          new RegExp(`by=${program} reason=stopped$`),
          new RegExp(`by=${program} reason=connection-closed error=`),
        ),
        withinMs: 200,
      },
      {
        name: `${program} silence`,
        act: async ({ relay }) => await relay.cut(),
        client: RESET,
        target: RESET,
        ...lines(
          new RegExp(`by=${peer} reason=connection-lost error=`),
          new RegExp(`by=${program} reason=connection-lost error=`),
        ),
        withinMs: IDLE_MS + 200,
        only: program === "server" ? ["qrht/1"] : ["raw"],
      },
    ];
  }),
];

/** The one line that a program has written about the tunnel's end. */
async function endingOf(lines: readonly string[], program: string): Promise<string> {
  const found = () =>
    lines.filter((line) =>
      line.includes(` ${program} "tunnel `) || line.includes(` ${program} "client refused"`)
    );
  await eventually(`the line of the ${program}`, () => found().length > 0);
  assertEquals(found().length, 1, found().join("\n"));
  return found()[0]!;
}

/** A server, an agent behind a relay, and what they talk to. */
async function openTunnel(net: Network, row: Row): Promise<Tunnel & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const { timeouts, drainTimeoutMs = 0 } = row;
  const server = await net.server({ ...timeouts?.server, drainTimeoutMs });
  const relay = stack.use(new UdpRelay({ hostname: "127.0.0.1", port: server.quicPort }));
  const behind = Object.assign(Object.create(server), { quicPort: relay.addr.port });
  const agent = net.agent(net.isOverTcp ? server : behind, { ...timeouts?.agent, drainTimeoutMs });
  const targets = stack.use(await ResettableTarget.listen());
  const client = stack.use(await ResettableTcp.connect(server.tcpPort));
  await sendText(client, requestFor(targets.authority));
  await assertReads(client, OK);
  const target = await targets.accept();
  await sendText(client, "hello");
  await assertReads(target, "hello");
  const kept = stack.move();
  return {
    ...{ net, server, agent, client, target, relay },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

for (const row of rows) {
  test(`endings: ${row.name}`, async (net) => {
    using lines = logLines(2);
    await using tunnel = await openTunnel(net, row);
    const { client, target } = tunnel;
    const seen = async () => {
      await row.act(tunnel);
      if (row.client) assertEquals(await lookAt(client), row.client, "what the client sees");
      if (row.target) assertEquals(await lookAt(target), row.target, "what the target sees");
      const atServer = await endingOf(lines, "server");
      const atAgent = await endingOf(lines, "agent");
      assertMatch(atServer, row.server);
      assertMatch(atAgent, row.agent);
      await eventually("no stream is left", () => live.streams === 0);
    };
    await within(row.withinMs + 10_000, row.name, seen());
  }, row.only);
}

test("endings: a tunnel that was never connected leaves one line at each program", async (net) => {
  const refused = { server: / by=target reason=refused$/, agent: / by=target reason=refused / };
  const cases: readonly {
    readonly request: string;
    readonly server: RegExp;
    readonly agent: RegExp;
  }[] = [
    { request: requestFor(NOBODY), ...refused },
    {
      request: "GET / HTTP/1.1\r\n\r\n",
      server: / by=client reason=refused$/,
      agent: / by=client reason=refused result=bad-request /,
    },
    {
      request: "CONNECT",
      server: / by=client reason=refused$/,
      agent: / by=client reason=refused result=bad-request error="request head not complete/,
    },
  ];
  const server = await net.server();
  const agent = net.agent(server, { headTimeoutMs: TIMEOUT_MS });
  for (const { request, ...expected } of cases) {
    using lines = logLines(2);
    const client = await net.client(server);
    await sendText(client, request);
    assertMatch(await soon("the answer", readUntilOver(client)), /^HTTP\/1\.1 [45]/);
    client.abort();
    assertMatch(await endingOf(lines, "agent"), expected.agent);
    const atServer = await endingOf(lines, "server");
    // Raw streams do not tell an answer of the agent's from one of the target's.
    if (net.isRaw) assertMatch(atServer, / by=(?:client|target) reason=(?:end|reset)/);
    else assertMatch(atServer, expected.server);
  }
  await agent.stop();
});

test("endings: a client without an agent leaves one line, and so does one that waits as the server stops", async (net) => {
  using lines = logLines(2);
  const impatient = await net.server({ agentWaitMs: 0 });
  assertEquals(await soon("its end", connectAndLook(net, impatient)), RESET);
  const line = await endingOf(lines, "server");
  assertStringIncludes(line, ' WRN server "client refused" ');
  assertMatch(
    line,
    / by=server reason=no-agent error="no agent is connected" hint="start an agent/,
  );
  await impatient.stop();
  lines.length = 0;

  const patient = await net.server({ agentWaitMs: 20_000 });
  const waiting = net.own(await ResettableTcp.connect(patient.tcpPort));
  await lineWith(lines, "accepted tcp");
  await patient.stop();
  assertEquals(await soon("its end", lookAt(waiting)), RESET);
  const stopped = await endingOf(lines, "server");
  assertStringIncludes(stopped, ' DBG server "client refused" ');
  assertStringIncludes(stopped, " by=server reason=stopped ");
});

test("endings: a client whose upstream is not reached sees a reset, not an end", async (net) => {
  using lines = logLines(2);
  const server = await net.server();
  net.passthrough(server, 1);
  const client = net.own(await ResettableTcp.connect(server.tcpPort));
  await sendText(client, "hello");
  assertEquals(await soon("its end", lookAt(client)), RESET);
  const atServer = await endingOf(lines, "server");
  assertMatch(
    atServer,
    net.isRaw ? / by=agent reason=refused error=/ : / by=target reason=refused error=/,
  );
  const atAgent = await eventually(
    "the agent's line",
    () => lines.find((line) => line.includes(' passthrough "cannot reach the upstream" ')),
  );
  assertStringIncludes(atAgent, " by=target reason=refused result=refused ");
});

test("endings: a client that no agent connects in time sees a reset", async (net) => {
  using lines = logLines(2);
  const server = await net.server({ connectTimeoutMs: TIMEOUT_MS });
  net.agent(server);
  const client = net.own(await ResettableTcp.connect(server.tcpPort));
  assertEquals(await soon("its end", lookAt(client)), RESET);
  assertMatch(await endingOf(lines, "server"), / by=agent reason=connect-timeout error=/);
  assertMatch(await endingOf(lines, "agent"), / by=client reason=(?:reset|end)/);
}, ["qrht/1"]);

Deno.test({
  name: "endings: docs/endings.md has a row for each of these, and no other",
  permissions: { read: true },
  fn() {
    const document = Deno.readTextFileSync(new URL("../../docs/endings.md", import.meta.url));
    const documented = [...document.matchAll(/^\| \*\*(.+?)\*\* /gm)].map((match) => match[1]!);
    // Kills are for processes: tests/programs/endings_processes_test.ts.
    const own = [...rows.map(({ name }) => name), "server reset", "agent reset"];
    assertEquals(documented.toSorted(), own.toSorted());
  },
});
