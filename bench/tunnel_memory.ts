// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task bench-memory`: resident memory of a server and an agent, without tunnels and with thousands, by
 * what these do. On Linux, which tells it in /proc.
 */
import { delay } from "@std/async/delay";
import { writeCerts } from "../certs/make.ts";
import { writeAll } from "../lib/tunnel/duplex.ts";
import { alignColumns } from "../tools/columns.ts";
import { commandOutput } from "../tools/command_output.ts";
import { startTunnel, through } from "./tunnels.ts";
import { openWay, type WayConn } from "./way.ts";

/** Their ends are all in this process: four files for each, with those of the programs beside. */
const TUNNELS = 2_000;
/** What each carries in each direction, in the step in which they do. */
const BYTES = 100_000;
/** How often all of it is done: a program keeps what it has once taken. */
const ROUNDS = 4;
/** Tunnels that are opened, or carry something, at a time. */
const AT_ONCE = 50;
/** What is left to a program, to give up what it needs no more. */
const SETTLE_MS = 4_000;
/** Everything together is given up after this. */
const TOTAL_MS = 170_000;

/** Runs a step for each item, some at a time. */
async function forEach<T>(items: readonly T[], step: (item: T) => Promise<void>): Promise<void> {
  const left = items.values();
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (const item of left) await step(item);
  }));
}

/** Sends back what comes, on every connection. */
async function echo(listener: Deno.TcpListener): Promise<void> {
  for await (const conn of listener) {
    conn.readable.pipeTo(conn.writable).catch(() => {
      // It was closed at the other end.
    });
  }
}

/** Sends bytes and takes as many. */
async function carry(conn: WayConn, bytes: number): Promise<void> {
  const sending = writeAll(conn, new Uint8Array(bytes));
  const buffer = new Uint8Array(16_384);
  for (let left = bytes; left > 0;) {
    const n = await conn.read(buffer);
    if (n === null) throw new Error(`a tunnel ended ${left} bytes too early`);
    left -= n;
  }
  await sending;
}

/** Resident memory of processes, in MiB. */
async function residentMib(pids: readonly number[]): Promise<number[]> {
  const args = ["VmRSS", ...pids.map((pid) => `/proc/${pid}/status`)];
  const { stdout } = await commandOutput("grep", args);
  const found = stdout.matchAll(/(\d+) kB/g);
  return Array.from(found, ([, kib]) => Number(kib) / 1_024);
}

const late = new AbortController();
const { signal } = late;
const timer = setTimeout(() => late.abort(new Error(`took more than ${TOTAL_MS} ms`)), TOTAL_MS);
const dir = await Deno.makeTempDir();
try {
  await writeCerts(dir);
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const echoing = echo(listener).catch(() => {
    // The listener was closed.
  });
  await using tunnel = await startTunnel({ certificates: dir, signal });
  const way = through(tunnel, listener.addr.port);
  const pids = [tunnel.server.pid, tunnel.agent.pid];
  const rows = [["resident memory, MiB", "server", "agent"]];
  const measure = async (name: string) => {
    await delay(SETTLE_MS);
    signal.throwIfAborted();
    const mib = await residentMib(pids);
    rows.push([name, ...mib.map((value) => value.toFixed())]);
    return mib;
  };
  const perTunnel = (mib: readonly number[], before: readonly number[]) =>
    mib.map((value, i) => ((value - before[i]!) * 1_024 / TUNNELS).toFixed());

  const before = await measure("no tunnels");
  const conns: WayConn[] = [];
  const openAll = () =>
    forEach(Array.from({ length: TUNNELS }), async () => {
      const conn = await openWay(way);
      conns.push(conn);
      await carry(conn, 1);
    });
  const closeAll = () => {
    for (const conn of conns.splice(0)) conn.close();
  };
  await openAll();
  const open = await measure(`${TUNNELS} tunnels, open and silent`);
  await forEach(conns, (conn) => carry(conn, BYTES));
  const carried = await measure(`the same, each has carried ${BYTES / 1_000} kB both ways`);
  closeAll();
  await measure("all of them closed");
  for (let round = 2; round <= ROUNDS; round++) {
    await openAll();
    await forEach(conns, (conn) => carry(conn, BYTES));
    await measure(`all of it again, round ${round}`);
    closeAll();
  }
  console.log(alignColumns(rows));
  const rest = [["KiB for each tunnel", "server", "agent"]];
  rest.push(["open and silent", ...perTunnel(open, before)]);
  rest.push(["after having carried something", ...perTunnel(carried, before)]);
  console.log(`\n${alignColumns(rest)}`);
  listener.close();
  await echoing;
} finally {
  clearTimeout(timer);
  await Deno.remove(dir, { recursive: true });
}
