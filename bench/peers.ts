// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the tunnel is compared with: two plain relays by TCP, and programs of others that someone has started. */
import { messageOf, UsageError } from "../lib/errors.ts";
import { type Authority, formatAuthority, parseAuthority } from "../lib/net/authority.ts";
import { quote } from "../lib/printable.ts";
import { cpuTimes } from "./cpu.ts";
import { get } from "./http_client.ts";
import type { Bench } from "./row.ts";
import { startOrigin, startRelays, through, type Tunnel } from "./tunnels.ts";
import { straight, type Way } from "./way.ts";

/** Something that clients reach an origin through. */
export interface Peer {
  /** What figures of it are called by. */
  readonly id: string;
  readonly name: string;
  readonly way: Way;
  /** Its processes where they are known: in the place of the server, and of the agent. */
  readonly pids: readonly number[];
  /** Whether it is a program of others, whose failures are theirs. */
  readonly isForeign: boolean;
}

/** A peer as the command line describes it. */
export interface PeerSpec {
  readonly name: string;
  /** Where clients connect. */
  readonly entry: Authority;
  /** Where it connects them, or what it is asked to. */
  readonly origin: Authority;
  /** Whether it speaks CONNECT, or connects all clients to the origin. */
  readonly mode: "connect" | "pass";
  readonly pids: readonly number[];
}

export const PEER_FORM = "NAME=host:port,origin,mode[,pid[,pid]]";
export const MAX_PEERS = 8;

const MAX_NAME_LENGTH = 20;
/** What other figures are called by. */
const takenNames = ["direct", "relays", "tunnel", "memory", "auto", "portable", "binding", "1500"];
/** What a peer may fail in one row before it is left out. */
const MAX_FAILED = 2;

/**
 * Reads what follows `--peer`, all of them.
 *
 * @throws {UsageError} when one is not of the form, or there are too many, or two of a name
 */
export function parsePeers(specs: readonly string[]): PeerSpec[] {
  if (specs.length > MAX_PEERS) {
    throw new UsageError(`${specs.length} times --peer, at most ${MAX_PEERS} are compared`);
  }
  const peers = specs.map(parsePeer);
  const twice = peers.find(({ name }, i) => peers.findIndex((peer) => peer.name === name) < i);
  if (twice) throw new UsageError(`two peers of --peer are called ${quote(twice.name)}`);
  return peers;
}

function parsePeer(spec: string): PeerSpec {
  const refuse = (problem: string) => new UsageError(`invalid --peer ${quote(spec)}: ${problem}`);
  const [, name, rest] = /^([^=]*)=(.*)$/.exec(spec) ?? [];
  if (name === undefined || rest === undefined) throw refuse(`it is not of the form ${PEER_FORM}`);
  if (!/^[\w.-]+$/.test(name) || name.length > MAX_NAME_LENGTH) {
    throw refuse(`the name is not 1 to ${MAX_NAME_LENGTH} letters, digits, ".", "_" and "-"`);
  }
  if (takenNames.includes(name)) throw refuse(`the name ${quote(name)} is taken`);
  const [entry, origin, mode, ...pids] = rest.split(",");
  if (mode === undefined) throw refuse(`it is not of the form ${PEER_FORM}`);
  if (mode !== "connect" && mode !== "pass") {
    throw refuse(`the mode ${quote(mode)} is neither "connect" nor "pass"`);
  }
  if (pids.length > 2) throw refuse(`it has ${pids.length} process IDs, at most 2 are looked at`);
  const wrong = pids.find((pid) => !/^[1-9]\d{0,8}$/.test(pid));
  if (wrong !== undefined) throw refuse(`${quote(wrong)} is not a process ID`);
  const address = (text: string): Authority => {
    let parsed: Authority;
    try {
      parsed = parseAuthority(text);
    } catch (error) {
      throw refuse(messageOf(error));
    }
    if (parsed.hostname === "127.0.0.1") return parsed;
    throw refuse(`${quote(text)} is not at 127.0.0.1, and nothing else is measured`);
  };
  return { name, entry: address(entry!), origin: address(origin!), mode, pids: pids.map(Number) };
}

/** What is measured in turns: no tunnel, the peers, and a tunnel. */
export function subjectsOf(
  { origin, peers }: Pick<Bench, "origin" | "peers">,
  tunnel: Tunnel,
): Peer[] {
  const pids = [tunnel.server.pid, tunnel.agent.pid];
  return [
    { id: "direct", name: "direct", way: straight(origin), pids: [], isForeign: false },
    ...peers,
    { id: "tunnel", name: "tunnel", way: through(tunnel, origin), pids, isForeign: false },
  ];
}

/** Has peers do what programs of others may fail: that is noted, and they are left out if it goes on. */
export class Attempts {
  readonly #failed = new Map<string, number>();
  readonly #bench: Pick<Bench, "note" | "signal">;

  constructor(bench: Pick<Bench, "note" | "signal">) {
    this.#bench = bench;
  }

  /** @throws what the work throws, unless it is a foreign peer's */
  async by(
    { id, name, isForeign }: Pick<Peer, "id" | "name" | "isForeign">,
    work: () => Promise<void>,
  ): Promise<void> {
    const failed = this.#failed.get(id) ?? 0;
    if (failed >= MAX_FAILED) return;
    try {
      await work();
    } catch (error) {
      this.#bench.signal.throwIfAborted();
      if (!isForeign) throw error;
      this.#failed.set(id, failed + 1);
      this.#bench.note(`${name}: ${messageOf(error)}`);
    }
  }
}

/** The relays and the peers of the command line, which all have their origin. */
export interface Peers extends AsyncDisposable {
  readonly peers: readonly Peer[];
}

/**
 * Starts the relays, and the origins that peers connect to; and tries each peer.
 *
 * @param origin port of the origin that the relays are asked for
 * @throws {UsageError} when an origin cannot listen where a peer expects it, or a peer does not answer
 */
export async function startPeers(
  specs: readonly PeerSpec[],
  origin: number,
  signal: AbortSignal,
): Promise<Peers> {
  await using started = new AsyncDisposableStack();
  const relays = started.use(await startRelays(signal));
  const pids = relays.programs.map(({ pid }) => pid);
  const way = through(relays, origin);
  const peers: Peer[] = [
    { id: "relays", name: "two TCP relays", way, pids, isForeign: false },
  ];
  for (const address of new Set(specs.map(({ origin }) => formatAuthority(origin)))) {
    try {
      started.use(await startOrigin(signal, parseAuthority(address)));
    } catch (error) {
      signal.throwIfAborted();
      throw new UsageError(`the origin of --peer cannot listen on ${address}: ${messageOf(error)}`);
    }
  }
  for (const { name, entry, origin, mode, pids } of specs) {
    if (pids.length > 0 && !await cpuTimes(pids)) {
      throw new UsageError(`peer ${quote(name)} has no processes ${pids.join(" and ")} in /proc`);
    }
    const target = mode === "connect" ? { target: formatAuthority(origin) } : {};
    const way: Way = { ...entry, ...target };
    try {
      await get(way);
    } catch (error) {
      const who = `peer ${quote(name)} at ${formatAuthority(entry)}`;
      throw new UsageError(`${who} does not connect a client: ${messageOf(error)}`);
    }
    peers.push({ id: name, name, way, pids, isForeign: true });
  }
  const keep = started.move();
  return { peers, [Symbol.asyncDispose]: () => keep.disposeAsync() };
}
