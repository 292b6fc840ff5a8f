// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The programs of this project opposite a server and an agent on quic-go, which end tunnels as the
 * Go programs do (`go_peers/main.go`).
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { ABANDONED_MS } from "../../lib/tunnel/pipe.ts";
import { type Duplex, writeAll } from "../../lib/tunnel/duplex.ts";
import { eventually } from "../support/eventually.ts";
import {
  agentFlags,
  anyPort,
  ChildProgram,
  serverFlags,
  startProgram,
} from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { buildGo, go } from "./support/go.ts";
import { readUntil } from "./support/read_until.ts";

const hostname = "127.0.0.1";
/** More than the peers' flow control allows for a stream that nobody reads. */
const BODY_BYTES = 100_000_000;
/** What is read of it. */
const READ_BYTES = 100_000;
/** How many of those take all that the flow control of a connection allows. */
const ABORTS = 3;
/** The time within which the programs of this project reset such tunnels, and some slack. */
const BOUND_MS = ABANDONED_MS + 5_000;

const send = (to: Duplex | Deno.Conn, text: string) => writeAll(to, new TextEncoder().encode(text));

/** Answers `GET /` and `GET /large`, and closes what begins with `PUT` in the middle of its body. */
class Target implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname, port: 0 });
  readonly #serving: Promise<void>[] = [];
  readonly #accepting = this.#accept();
  readonly authority = `${hostname}:${this.#listener.addr.port}`;
  /** Connections that it has closed. */
  closed = 0;

  async #accept(): Promise<void> {
    for await (const connection of this.#listener) {
      const served = this.#serve(connection).catch(() => {}).finally(() => {
        close(connection);
        this.closed++;
      });
      this.#serving.push(served);
    }
  }

  async #serve(connection: Deno.TcpConn): Promise<void> {
    const head = await readUntil(connection, /\r\n\r\n/);
    if (head.startsWith("PUT ")) return await readBytes(connection, READ_BYTES);
    await send(connection, "HTTP/1.1 200 OK\r\n\r\n");
    if (head.startsWith("GET /large ")) await writeAll(connection, new Uint8Array(BODY_BYTES));
    else await send(connection, "ok\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#accepting;
    await Promise.all(this.#serving);
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // readUntil() has closed it.
  }
}

async function readBytes(from: Deno.Conn, count: number): Promise<void> {
  const buffer = new Uint8Array(65_536);
  for (let left = count; left > 0;) {
    const n = await from.read(buffer);
    if (n === null) throw new Error(`the connection ends ${left} bytes too early`);
    left -= n;
  }
}

/** A connection to the target, through the server on a port. */
async function connect(port: number, { authority }: Target): Promise<Deno.TcpConn> {
  const client = await Deno.connect({ hostname, port });
  await send(client, `CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`);
  assertEquals(await readUntil(client, /\r\n\r\n/), "HTTP/1.1 200 OK\r\n\r\n");
  return client;
}

/** Asserts that a new client is served. */
async function get(port: number, target: Target): Promise<true> {
  const client = await connect(port, target);
  try {
    await send(client, "GET / HTTP/1.1\r\n\r\n");
    assertStringIncludes(await readUntil(client, /ok\n/), " 200 OK\r\n");
    return true;
  } finally {
    close(client);
  }
}

interface Scene extends AsyncDisposable {
  readonly target: Target;
  readonly dir: string;
  /** Starts a peer on quic-go. */
  peer(role: "server" | "agent", ...args: string[]): ChildProgram;
  use<T extends AsyncDisposable>(resource: T): T;
}

async function scene(): Promise<Scene> {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  await makeCerts(dir);
  await buildGo("go_peers", `${dir}/go_peers`);
  const target = stack.use(new Target());
  const rest = stack.move();
  return {
    target,
    dir,
    use: (resource) => rest.use(resource),
    peer: (role, ...args) =>
      rest.use(new ChildProgram(`${dir}/go_peers`, [role, dir, ...args], { name: `go ${role}` })),
    [Symbol.asyncDispose]: () => rest.disposeAsync(),
  };
}

/**
 * Asserts that the tunnels of some clients, each abandoned at one end, end in time, and that others
 * are served then.
 */
async function assertAbandonedEnd(
  program: ChildProgram,
  port: number,
  target: Target,
  abandon: (client: Deno.TcpConn) => Promise<void>,
): Promise<void> {
  await get(port, target);
  const clients = await Promise.all(Array.from({ length: ABORTS }, () => connect(port, target)));
  await Promise.all(clients.map(abandon));
  await eventually("another client is served", () => get(port, target), BOUND_MS);
  await eventually("the tunnels end", () => {
    return program.lines.filter((line) => line.endsWith(" reason=half-open")).length === ABORTS;
  }, BOUND_MS);
  clients.forEach(close);
}

function test(name: string, fn: (net: Scene) => Promise<void>): void {
  Deno.test({
    name: go ? name : `${name}: not run, because Go is not installed`,
    ignore: !go,
    async fn() {
      await using net = await scene();
      await fn(net);
    },
  });
}

/** proxy-server, and an agent on quic-go that is connected to it. */
async function serverWithGoAgent(net: Scene) {
  const server = net.use(startProgram("server", { ...anyPort, v: 2, ...serverFlags(net.dir) }));
  const [, port] = await server.line(/tcp listener on \S*:(\d+)/);
  const [, quic] = await server.line(/quic listener on (\S+:\d+)/);
  const agent = net.peer("agent", quic!);
  await server.line(/agent connected.* alpn=quic-echo-example/);
  return { server, agent, port: Number(port) };
}

test("proxy-agent behind a server on quic-go ends the tunnels of clients that abort downloads", async (net) => {
  const server = net.peer("server");
  const [, quic] = await server.line(/quic listener on (\S+)/);
  const [, port] = await server.line(/tcp listener on \S+:(\d+)/);
  const agent = net.use(startProgram("agent", { server: quic!, v: 2, ...agentFlags(net.dir) }));
  await agent.line(/connected to quic server.* alpn=quic-echo-example/);
  await assertAbandonedEnd(agent, Number(port), net.target, async (client) => {
    await send(client, "GET /large HTTP/1.1\r\n\r\n");
    await readBytes(client, READ_BYTES);
    close(client);
  });
});

test("proxy-server with an agent on quic-go ends the tunnels of targets that abort uploads", async (net) => {
  const { server, port } = await serverWithGoAgent(net);
  await assertAbandonedEnd(server, port, net.target, async (client) => {
    const { closed } = net.target;
    await send(client, "PUT / HTTP/1.1\r\n\r\n");
    Promise.try(() => writeAll(client, new Uint8Array(BODY_BYTES))).catch(() => {});
    await eventually("the targets have closed", () => net.target.closed >= closed + ABORTS);
  });
});

test("proxy-server grants an agent on quic-go no streams of its own, and is served", async (net) => {
  const { agent, port } = await serverWithGoAgent(net);
  await agent.line(/^connected, a stream of its own: too many open streams$/);
  for (let i = 0; i < 20; i++) await get(port, net.target);
  const client = await connect(port, net.target);
  await send(client, "GET /large HTTP/1.1\r\n\r\n");
  await readBytes(client, BODY_BYTES);
  close(client);
});
