// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The command line of the benchmark. */
import { UsageError } from "../lib/errors.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { MAX_PEERS, parsePeers, PEER_FORM, type PeerSpec } from "./peers.ts";

export const rowNames = [
  "bulk",
  "fairness",
  "gets",
  "groups",
  "clients",
  "counts",
  "growth",
  "memory",
  "idle",
  "restart",
  "lossy",
  "tls",
  "carrier",
  "library",
] as const;
export type RowName = typeof rowNames[number];

export interface Options {
  readonly isShort: boolean;
  readonly rows: readonly RowName[];
  readonly peers: readonly PeerSpec[];
  /** Where the results go besides. */
  readonly json: string | undefined;
  /** Whether a bar that is missed fails all. */
  readonly fails: boolean;
  readonly help: boolean;
}

export const HELP =
  `Compares the tunnel with no tunnel, with the QUIC library in memory, and with its own portable path.

Usage: deno task bench [options]

  --short        fewer measurements, about two minutes
  --only ROWS    only these rows, comma-separated: ${rowNames.join(",")}
  --peer SPEC    also measure another program in bulk, gets, clients, counts and memory; up to
                 ${MAX_PEERS} times. SPEC is ${PEER_FORM}:
                 clients connect to host:port; mode "connect" asks there for the origin with HTTP
                 CONNECT, mode "pass" expects to be connected to it. The benchmark itself listens at
                 the address of the origin. With the process IDs of the program's two ends, CPU time
                 and memory are measured as well
  --json FILE    also write all figures to this file
  --fail         exit with code 1 if a bar is missed
  --help         show this help`;

/** @throws {UsageError} when an argument is unknown or lacks a value, or there is no such row */
export function parseOptions(args: readonly string[]): Options {
  const flags = { text: ["only", "json"], list: ["peer"], switches: ["short", "fail"] } as const;
  const { only = rowNames.join(","), peer, json, short, fail, help } = parseCommandLine(
    args,
    flags,
  );
  const named = only.split(",");
  const unknown = named.find((name) => !(rowNames as readonly string[]).includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`unknown row ${JSON.stringify(unknown)} for --only`);
  }
  const rows = rowNames.filter((name) => named.includes(name));
  return { isShort: short, rows, peers: parsePeers(peer), json, fails: fail, help };
}
