// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the programs do when clients ask for more tunnels than there are file descriptors. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { eventually } from "../support/eventually.ts";
import { loopback, soon } from "../support/network.ts";
import {
  agentFlags,
  anyPort,
  ChildProgram,
  programArguments,
  serverFlags,
} from "../support/processes.ts";
import type { Flags, ProgramTask } from "../../tools/project_program.ts";
import { samplesOf } from "../support/samples.ts";
import { assertBody, Site } from "../support/site.ts";

const LIMIT = 128;
/** More than the limit. */
const CLIENTS = 200;

/** A program with few descriptors, and its admin listener. */
async function startLimited(site: Site, task: ProgramTask, flags: Flags) {
  const program = site.use(
    new ChildProgram("sh", [
      "-c",
      `ulimit -n ${LIMIT} && exec "$@"`,
      "sh",
      Deno.execPath(),
      ...programArguments(task, { ...flags, "listen-admin": "127.0.0.1:0" }),
    ]),
  );
  const [, port] = await program.line(/"?admin listener on 127\.0\.0\.1:(\d+)/);
  const get = async (path: string) => {
    const response = await soon(path, fetch(`http://127.0.0.1:${port}${path}`));
    return { status: response.status, body: await response.text() };
  };
  return { program, get };
}

type Limited = Awaited<ReturnType<typeof startLimited>>;

/** Tunnels that a program has descriptors for, as its metrics tell. */
async function capacityOf({ get }: Limited, end: "server" | "agent"): Promise<number> {
  const { value } = samplesOf((await get("/metrics")).body).find(({ name, labels }) =>
    name === `quic_tunnel_${end}_capacity` && labels.of === "connections"
  )!;
  return value;
}

/** Clients that ask for a tunnel all at once, and the first line of each one's answer. */
async function askAtOnce(site: Site, tcpPort: number) {
  const connections = await Promise.all(
    Array.from({ length: CLIENTS }, () => Deno.connect(loopback(tcpPort))),
  );
  const request = new TextEncoder().encode(`CONNECT ${site.origin} HTTP/1.1\r\n\r\n`);
  const answerTo = async (connection: Deno.Conn) => {
    const buffer = new Uint8Array(300);
    const n = await connection.write(request).then(() => connection.read(buffer)).catch(() => null);
    return new TextDecoder().decode(buffer.subarray(0, n ?? 0)).split("\r\n")[0]!;
  };
  const answers = await soon("their answers", Promise.all(connections.map(answerTo)));
  const open = answers.filter((answer) => answer.includes(" 200 ")).length;
  return { open, answers, close: () => connections.forEach((each) => each.close()) };
}

/** Asserts that a program lacks nothing while its tunnels have all they may have. */
async function assertServes({ program, get }: Limited): Promise<void> {
  for (let i = 0; i < 10; i++) assertEquals((await get("/livez")).status, 200);
  program.kill("SIGHUP");
  await program.line(/INF tls "certificates unchanged"/);
  const errors = program.lines.filter((line) => / ERR |Too many open files/.test(line));
  assertEquals(errors, []);
}

/** Waits until a tunnel can be opened, and carries bytes. */
async function becomesFree(site: Site, tcpPort: number): Promise<void> {
  await eventually("there is room again", async () => {
    const client = await site.request(tcpPort, 1_000).catch(() => undefined);
    if (client) await assertBody(client, 1_000);
    return client !== undefined;
  });
}

function test(name: string, fn: (site: Site) => Promise<void>): void {
  Deno.test({
    name,
    ignore: Deno.build.os !== "linux",
    async fn() {
      await using site = await Site.start();
      await fn(site);
    },
  });
}

test("a server refuses clients that it has no descriptors for, and keeps some for all else", async (site) => {
  const server = await startLimited(site, "server", { ...anyPort, ...serverFlags(site.dir) });
  const { program } = server;
  const [, tcp] = await program.line(/tcp listener on 127\.0\.0\.1:(\d+)/);
  const [, quic] = await program.line(/quic listener on (127\.0\.0\.1:\d+)/);
  const [, clients] = await program.line(
    /WRN server "fewer clients than --max-connections" maxConnections=20000 clients=(\d+) descriptors=128 hint="raise the limit of open files \(LimitNOFILE=, ulimit -n\), or lower --max-connections"/,
  );
  await site.agent(quic!);
  assertEquals(await capacityOf(server, "server"), Number(clients));
  const { open, answers, close } = await askAtOnce(site, Number(tcp));
  assertEquals(open, Number(clients));
  assertEquals(answers.filter((answer) => answer === "").length, CLIENTS - open);
  await program.line(
    new RegExp(`WRN server "clients refused" .*error="${clients} clients are already connected"`),
  );
  await assertServes(server);
  close();
  await becomesFree(site, Number(tcp));
});

test("a server with descriptors for --max-connections warns of nothing", async (site) => {
  const flags = { ...anyPort, ...serverFlags(site.dir), "max-connections": 10 };
  const server = await startLimited(site, "server", flags);
  await server.program.line(/quic listener on/);
  assertEquals(await capacityOf(server, "server"), 10);
  assertEquals(server.program.lines.filter((line) => line.includes(" WRN ")), []);
});

test("an agent answers 503 to clients that it has no descriptors for, and keeps some for all else", async (site) => {
  const { tcpPort, quic } = await site.server();
  const agent = await startLimited(site, "agent", { ...agentFlags(site.dir), server: quic });
  await eventually("it is ready", async () => (await agent.get("/readyz")).status === 200);
  const capacity = await capacityOf(agent, "agent");
  const { open, answers, close } = await askAtOnce(site, tcpPort);
  for (const answer of answers) {
    assertMatch(answer, /^HTTP\/1\.1 (200 OK|503 \S+ the agent is out of file descriptors)$/);
  }
  // Its connection to the server came later.
  assert(open <= capacity && open > capacity - 5, `${open} of ${capacity}`);
  await assertServes(agent);
  close();
  await becomesFree(site, tcpPort);
});
