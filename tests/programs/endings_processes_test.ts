// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The rows of docs/endings.md in which a program ends a tunnel, with programs that are processes. */

import { assert, assertEquals } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { endInOrder, lookAt, RESET, type Sees } from "../support/endings.ts";
import { assertReads, OK, requestFor, sendText, within } from "../support/network.ts";
import {
  agentFlags,
  anyPort,
  type ChildProgram,
  serverFlags,
  startProgram,
} from "../support/processes.ts";
import { ResettableTarget, ResettableTcp } from "../support/tcp_pair.ts";

/** Time in which an end that vanishes is noticed. */
const IDLE_MS = 5_000;

/** What a loaded machine may take longer. */
const SLACK_MS = 15_000;

interface Tunnel extends AsyncDisposable {
  readonly server: ChildProgram;
  readonly agent: ChildProgram;
  readonly client: ResettableTcp;
  readonly target: ResettableTcp;
}

async function openTunnel(dir: string, drainTimeout: string): Promise<Tunnel> {
  await using stack = new AsyncDisposableStack();
  const common = { "drain-timeout": drainTimeout, v: 2 };
  const server = stack.use(
    startProgram("server", { ...anyPort, ...serverFlags(dir), ...common }),
  );
  const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/, SLACK_MS);
  const [, quic] = await server.line(/quic listener on 127\.0\.0\.1:(\d+)/);
  const agent = stack.use(
    startProgram("agent", { server: `127.0.0.1:${quic}`, ...agentFlags(dir), ...common }),
  );
  await server.line(/agent connected/, SLACK_MS);
  await agent.line(/connected to quic server/);
  const targets = stack.use(await ResettableTarget.listen());
  const client = stack.use(await ResettableTcp.connect(Number(tcp)));
  await sendText(client, requestFor(targets.authority));
  await assertReads(client, OK);
  const target = await targets.accept();
  await sendText(client, "hello");
  await assertReads(target, "hello");
  const kept = stack.move();
  return { server, agent, client, target, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

/** Waits for an end, and tells whether another one was still to come then. */
async function first(name: string, ms: number, end: Promise<Sees>, other: Promise<Sees>) {
  let isOver = false;
  other.then(() => isOver = true);
  return { sees: await within(ms + SLACK_MS, name, end), otherIsOver: isOver };
}

for (
  const { program, peer, near, far } of [
    { program: "server", peer: "agent", near: "client", far: "target" },
    { program: "agent", peer: "server", near: "target", far: "client" },
  ] as const
) {
  /** By what is done to the program. */
  const rows: Record<string, (dir: string) => Promise<void>> = {
    /** SIGTERM: what is under way goes on. */
    async EOF(dir) {
      await using tunnel = await openTunnel(dir, "30s");
      const { client, target } = tunnel;
      tunnel[program].kill("SIGTERM");
      await tunnel[program].line(/ "draining" .*tunnels=1 /);
      await sendText(client, "after SIGTERM");
      await assertReads(target, "after SIGTERM");
      await endInOrder(target, client);
      assertEquals((await tunnel[program].status).code, 0);
      for (const child of [tunnel.server, tunnel.agent]) {
        await child.line(/"tunnel ended" .*by=target reason=end$/);
      }
    },

    /** SIGTERM without time to drain: CONNECTION_CLOSE. */
    async close(dir) {
      await using tunnel = await openTunnel(dir, "0s");
      const seen = Promise.all([lookAt(tunnel.client), lookAt(tunnel.target)]);
      tunnel[program].kill("SIGTERM");
      assertEquals(await within(SLACK_MS, `${program} close`, seen), [RESET, RESET]);
      assertEquals((await tunnel[program].status).code, 0);
      await tunnel[program].line(new RegExp(`"tunnel ended" .*by=${program} reason=stopped$`));
      await tunnel[peer].line(
        new RegExp(`"tunnel ended" .*by=${program} reason=connection-closed error=`),
      );
    },

    /** SIGKILL: its system resets its TCP connections, and says nothing to its peer. */
    async reset(dir) {
      await using tunnel = await openTunnel(dir, "30s");
      const atNear = lookAt(tunnel[near]), atFar = lookAt(tunnel[far]);
      tunnel[program].kill("SIGKILL");
      assertEquals(await within(SLACK_MS, `the ${near}`, atNear), RESET);
      const seen = await within(IDLE_MS + SLACK_MS, `the ${far}`, atFar);
      assertEquals(seen, RESET);
      await tunnel[peer].line(
        new RegExp(`"tunnel ended" .*by=${program} reason=connection-lost error=`),
      );
    },

    /** SIGSTOP: nobody hears of it any more, and it does not know until it goes on. */
    async silence(dir) {
      await using tunnel = await openTunnel(dir, "0s");
      const atNear = lookAt(tunnel[near]), atFar = lookAt(tunnel[far]);
      tunnel[program].kill("SIGSTOP");
      try {
        const { sees, otherIsOver } = await first(`the ${far}`, IDLE_MS, atFar, atNear);
        assertEquals([sees, otherIsOver], [RESET, false]);
        await tunnel[peer].line(
          new RegExp(`"tunnel ended" .*by=${program} reason=connection-lost error=`),
        );
      } finally {
        tunnel[program].kill("SIGCONT");
      }
      assertEquals(await within(SLACK_MS, `the ${near}`, atNear), RESET);
      await tunnel[program].line(
        new RegExp(`"tunnel ended" .*by=${peer} reason=connection-(?:lost|closed) error=`),
      );
    },
  };

  Deno.test(`endings of processes: ${Object.keys(rows).map((how) => `${program} ${how}`).join(", ")}`, async () => {
    const dir = await Deno.makeTempDir();
    try {
      await makeCerts(dir);
      const results = await Promise.allSettled(Object.values(rows).map((run) => run(dir)));
      const failed = results.flatMap((result, i) =>
        result.status === "rejected" ? [`${Object.keys(rows)[i]}: ${result.reason}`] : []
      );
      assert(failed.length === 0, failed.join("\n"));
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  });
}
