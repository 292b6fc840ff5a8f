// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Programs of the last release at one end, those of this revision at the other, in both dialects. */

import { assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { makeCerts } from "../../certs/make.ts";
import { QRHT_ALPN, RAW_ALPN } from "../../lib/qrht/dialect.ts";
import type { Flags } from "../../tools/project_program.ts";
import { endInOrder, lookAt, RESET } from "../support/endings.ts";
import { assertCarriesBothWays } from "../support/memory_duplex.ts";
import {
  assertReads,
  NOBODY,
  OK,
  readUntilOver,
  requestFor,
  sendText,
  within,
} from "../support/network.ts";
import {
  type Checkout,
  checkOutPreviousRelease,
  hasPreviousRelease,
  PREVIOUS_RELEASE,
} from "../support/previous_release.ts";
import {
  agentFlags,
  anyPort,
  type ChildProgram,
  serverFlags,
  startProgram,
} from "../support/processes.ts";
import { ResettableTarget, ResettableTcp } from "../support/tcp_pair.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

type AgentTask = "agent" | "passthrough";

/** Whose programs: undefined is this revision. */
interface Mix {
  readonly server?: Checkout;
  readonly agent?: Checkout;
  readonly task: AgentTask;
  readonly alpn: string;
  /** Further flags of the server. */
  readonly flags: Flags;
}

/** Steps of all dialects run at the same time; the test as a whole is sanitized. */
const parallel = { sanitizeOps: false, sanitizeResources: false, sanitizeExit: false };

/** What a loaded machine may take for a step; an end that vanishes is noticed in 5 s. */
const STEP_MS = 30_000;
/** Time in which a server would give up an agent that does not respond to its probes. */
const DOUBT_MS = 2_000;
/** More than the windows and buffers of all ends together. */
const LARGE = 24 << 20;

/** The table of tunnels, of which each row is a step. */
async function carryTunnels(t: Deno.TestContext, mix: Mix): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  await makeCerts(dir);
  const targets = stack.use(await ResettableTarget.listen());

  const startServer = async (listen: Record<string, string>) => {
    const flags = { ...listen, ...serverFlags(dir), "agent-wait": "20s", ...mix.flags };
    const program = stack.use(startProgram("server", flags, {}, mix.server));
    const [, tcp] = await program.line(/tcp listener on (127\.0\.0\.1:\d+)/, STEP_MS);
    const [, quic] = await program.line(/quic listener on (127\.0\.0\.1:\d+)/, STEP_MS);
    return { program, listen: { "listen-tcp": tcp!, "listen-quic": quic! } };
  };
  let { program: server, listen } = await startServer(anyPort);

  const startAgent = async (upstream = targets.authority) => {
    const flags = { server: listen["listen-quic"]!, alpn: mix.alpn, ...agentFlags(dir) };
    const all = mix.task === "passthrough" ? { ...flags, upstream } : flags;
    const agent = stack.use(startProgram(mix.task, all, {}, mix.agent));
    await agent.line(new RegExp(`"connected to quic server" .* alpn=${mix.alpn}(?: |$)`), STEP_MS);
    return agent;
  };
  const stop = async (program: ChildProgram) => {
    program.kill("SIGTERM");
    assertEquals((await within(STEP_MS, "its end", program.status)).code, 0);
  };
  const request = async (authority: string) => {
    const client = stack.use(
      await ResettableTcp.connect(Number(listen["listen-tcp"]!.split(":")[1])),
    );
    if (mix.task === "agent") await sendText(client, requestFor(authority));
    return client;
  };
  const openTunnel = async () => {
    const client = await request(targets.authority);
    if (mix.task === "agent") await assertReads(client, OK);
    await sendText(client, "hello");
    const target = await targets.accept();
    await assertReads(target, "hello");
    // Until this is back, the server may try another agent.
    await sendText(target, "here");
    await assertReads(client, "here");
    return { client, target };
  };
  const step = (name: string, run: () => Promise<void>) =>
    t.step({ name, ...parallel, fn: () => within(2 * STEP_MS, name, run()) });

  await step("a target that refuses", async () => {
    const agent = await startAgent(NOBODY);
    const client = await request(NOBODY);
    if (mix.task === "agent") {
      const answer = await readUntilOver(client);
      assertMatch(answer, /^HTTP\/1\.1 502 127\.0\.0\.1:1: connection refused\r\n/);
      assertEquals(answer.split("HTTP/1.1 ").length, 2, answer);
    } else {
      await sendText(client, "hello");
      assertEquals(await lookAt(client), RESET);
    }
    // A drain would wait for its end.
    await client[Symbol.asyncDispose]();
    await stop(agent);
  });

  let agent = await startAgent();

  await step("large transfers, both ways at once", async () => {
    const { client, target } = await openTunnel();
    await assertCarriesBothWays([client, target], LARGE);
  });

  await step("half-close by either side", async () => {
    const first = await openTunnel();
    await endInOrder(first.client, first.target);
    const second = await openTunnel();
    await endInOrder(second.target, second.client);
  });

  await step("a reset by either side", async () => {
    const first = await openTunnel();
    first.client.abort();
    assertEquals(await lookAt(first.target), RESET);
    const second = await openTunnel();
    second.target.abort();
    assertEquals(await lookAt(second.client), RESET);
  });

  await step("an agent that drains, beside one with the same certificate", async () => {
    const { client, target } = await openTunnel();
    const leaving = agent;
    agent = await startAgent();
    // The server may doubt that the first one is still there.
    for (const until = performance.now() + DOUBT_MS; performance.now() < until;) {
      await sendText(client, "ping");
      await assertReads(target, "ping");
      await delay(DOUBT_MS / 20);
    }
    leaving.kill("SIGTERM");
    await leaving.line(/"draining"/, STEP_MS);
    const late = await openTunnel();
    await endInOrder(late.client, late.target);
    await endInOrder(target, client);
    assertEquals((await leaving.status).code, 0);
  });

  await step("a server that drains, and one that follows it", async () => {
    const { client, target } = await openTunnel();
    server.kill("SIGTERM");
    await server.line(/"draining"/, STEP_MS);
    await endInOrder(target, client);
    assertEquals((await server.status).code, 0);
    ({ program: server } = await startServer(listen));
    const late = await openTunnel();
    await endInOrder(late.client, late.target);
  });

  await step("a server that is killed, and one that follows it", async () => {
    const { client, target } = await openTunnel();
    server.kill("SIGKILL");
    assertEquals([await lookAt(client), await lookAt(target)], [RESET, RESET]);
    ({ program: server } = await startServer(listen));
    const late = await openTunnel();
    await endInOrder(late.client, late.target);
  });

  await step("an agent that is killed", async () => {
    const { client, target } = await openTunnel();
    agent.kill("SIGKILL");
    assertEquals([await lookAt(client), await lookAt(target)], [RESET, RESET]);
    await startAgent();
    const late = await openTunnel();
    await endInOrder(late.client, late.target);
  });
}

const hasRelease = await hasPreviousRelease();
const reason = hasRelease ? "" : `: ${PREVIOUS_RELEASE} is not in the git history here`;

for (const task of ["agent", "passthrough"] as const) {
  for (const old of ["server", "agent"] as const) {
    const [theirs, ours] = old === "server" ? ["server", task] : [task, "server"];
    Deno.test({
      name: `${theirs} of ${PREVIOUS_RELEASE} and ${ours} of this revision${reason}`,
      ignore: !hasRelease,
      async fn(t) {
        await using release = await checkOutPreviousRelease();
        // A server of the last release does not know the mode; with passthrough, no client speaks CONNECT.
        const modes = ours === "server" && task === "agent" ? ["raw", "http-connect"] : [""];
        const mixes = modes.flatMap((mode) =>
          [QRHT_ALPN, RAW_ALPN].map((alpn) => ({
            name: `${alpn} ${mode}`,
            mix: { task, alpn, [old]: release, flags: mode ? { mode } : {} },
          }))
        );
        await Promise.all(
          mixes.map(({ name, mix }) =>
            t.step({ name, ...parallel, fn: (t) => carryTunnels(t, mix) })
          ),
        );
      },
    });
  }
}
