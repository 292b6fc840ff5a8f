// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A link with delay and loss between two network namespaces, for which it takes root on Linux. */
import { commandOutput } from "../tools/command_output.ts";
import { benchProgram } from "./program.ts";

export interface LinkOptions {
  /** One way. */
  readonly delayMs: number;
  /** Part of the packets that is lost, each way. */
  readonly loss: number;
  readonly signal: AbortSignal;
}

/** One end of a link. */
export interface LinkEnd {
  /** The command that runs a program there. */
  readonly under: readonly string[];
  readonly hostname: string;
}

export interface Link extends AsyncDisposable {
  readonly near: LinkEnd;
  readonly far: LinkEnd;
  /** Has TCP use a congestion control algorithm from now on. */
  useTcp(algorithm: string): Promise<void>;
}

/** TEST-NET-1 (RFC 5737): what is sent there leaves the namespaces in no case. */
const addresses = { near: "192.0.2.1", far: "192.0.2.2" };
const PREFIX_BITS = 30;
/** Packets that a device keeps for the relay. */
const QUEUE_PACKETS = 10_000;

/** What TCP can use on this machine; first what it does use. */
export async function tcpAlgorithms(): Promise<string[]> {
  const path = (name: string) => `/proc/sys/net/ipv4/tcp_${name}congestion_control`;
  const names = await run("cat", path(""), path("available_"));
  return [...new Set(names.trim().split(/\s+/))];
}

/**
 * Makes two namespaces with a link between them. All of it is gone with the disposal.
 *
 * @throws {Error} where that is not possible
 */
export async function openLink({ delayMs, loss, signal }: LinkOptions): Promise<Link> {
  await using made = new AsyncDisposableStack();
  const names = { near: `qb${Deno.pid}n`, far: `qb${Deno.pid}f` };
  const sides = ["near", "far"] as const;
  for (const side of sides) {
    await run("ip", "netns", "add", names[side]);
    made.defer(async () => void await run("ip", "netns", "delete", names[side]));
  }
  // The names of the namespaces are those of the devices in them.
  const relay = made.use(
    benchProgram("tun_relay.ts", [names.near, names.far, String(delayMs), String(loss)]),
  );
  await relay.said(/devices are there/, signal);
  const inside = async (side: typeof sides[number], ...command: string[]) =>
    void await run("ip", "netns", "exec", names[side], ...command);
  const set = (side: typeof sides[number], name: string, value: string) =>
    inside(side, "sh", "-c", `echo ${value} > /proc/sys/net/ipv4/${name}`);
  for (const side of sides) {
    const device = names[side];
    await run("ip", "link", "set", device, "netns", device);
    await inside(side, "ip", "address", "add", `${addresses[side]}/${PREFIX_BITS}`, "dev", device);
    await inside(side, "ip", "link", "set", device, "txqueuelen", String(QUEUE_PACKETS), "up");
    await inside(side, "ip", "link", "set", "lo", "up");
    // Each connection begins as if it were the first.
    await set(side, "tcp_no_metrics_save", "1");
  }
  const end = (side: typeof sides[number]) => ({
    under: ["ip", "netns", "exec", names[side]],
    hostname: addresses[side],
  });
  const keep = made.move();
  return {
    near: end("near"),
    far: end("far"),
    async useTcp(algorithm) {
      // By the route: a namespace may set no default that its host does not.
      for (const [side, other] of [["near", "far"], ["far", "near"]] as const) {
        const route = [addresses[other], "dev", names[side], "congctl", algorithm];
        await inside(side, "ip", "route", "replace", ...route);
      }
    },
    [Symbol.asyncDispose]: () => keep.disposeAsync(),
  };
}

/** Runs a command, and returns what it says. */
async function run(command: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await commandOutput(command, args);
  if (!success) throw new Error(`${[command, ...args].join(" ")}: ${stderr.trim()}`);
  return stdout;
}
