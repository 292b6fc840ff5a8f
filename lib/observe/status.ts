// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the status page shows, as `/status.json` gives it. Times are RFC 3339, sizes bytes. */
import type { ProgramName } from "../version.ts";
import type { QuicLibrary } from "../quic/mod.ts";
import type { FrontKind } from "./monitor.ts";

export interface Status {
  readonly program: ProgramName;
  /** `--name`. */
  readonly name?: string | undefined;
  readonly version: string;
  readonly at: string;
  readonly startedAt: string;
  readonly ready: boolean;
  readonly checks: readonly StatusCheck[];
  readonly certificates: readonly StatusCertificate[];
  /** Agents of a server, or servers of an agent. */
  readonly peers: readonly StatusPeer[];
  /** Groups of a server's agents, if there are several. */
  readonly groups: readonly StatusGroup[];
  readonly tunnels: {
    readonly open: number;
    /** The latest of them, newest first, at most 200. */
    readonly latest: readonly StatusTunnel[];
  };
  readonly history: StatusHistory;
}

export interface StatusCheck {
  readonly name: string;
  readonly ok: boolean;
  /** What is wrong. */
  readonly problem?: string | undefined;
}

export interface StatusCertificate {
  /** The flag that named its file, such as `--cert-file`. */
  readonly flag: string;
  readonly subject: string;
  readonly names: readonly string[];
  readonly notBefore: string;
  readonly notAfter: string;
  /** How near its end is. */
  readonly expiry: "far" | "soon" | "urgent" | "expired";
}

export interface StatusPeer {
  readonly name: string;
  readonly address: string;
  readonly state: "serving" | "draining" | "silent";
  /** What carries the datagrams of the connection. */
  readonly transport: "udp" | "tcp";
  /** When an agent tries UDP again. */
  readonly nextUdpTrialAt?: string | undefined;
  /** Groups that an agent belongs to, where a server has several. */
  readonly groups?: readonly string[] | undefined;
  readonly alpn: string;
  /** What makes an agent's connection; the following are missing where that does not tell. */
  readonly library?: QuicLibrary | undefined;
  readonly since: string;
  readonly streams: number;
  readonly streamCredit?: number | undefined;
  /** Smoothed round-trip time, in ms. */
  readonly rttMs?: number | undefined;
  /** Packets that were lost, of those sent. */
  readonly lostPackets?: number | undefined;
  readonly sentPackets?: number | undefined;
  /** Datagrams to and from the peer, since it connected. */
  readonly sentBytes?: number | undefined;
  readonly receivedBytes?: number | undefined;
  /** The same per second, over the last interval of the history. */
  readonly sentBytesPerSecond?: number | undefined;
  readonly receivedBytesPerSecond?: number | undefined;
}

export interface StatusGroup {
  readonly name: string;
  readonly ready: boolean;
  /** Connected agents. */
  readonly agents: number;
  /** Clients that wait for one. */
  readonly waiting: number;
  /** Where clients connect that only it serves. */
  readonly listeners: readonly string[];
  /** Targets that are routed to it. */
  readonly routes: readonly string[];
}

export interface StatusTunnel {
  readonly id?: string | undefined;
  readonly client?: string | undefined;
  /** The kind of listener that it has connected to; only servers know it. */
  readonly front?: FrontKind | undefined;
  /** The group of agents that serves it; only servers with several know it. */
  readonly group?: string | undefined;
  /** Only agents know it. */
  readonly target?: string | undefined;
  readonly peer?: string | undefined;
  readonly state: "connecting" | "open";
  readonly since: string;
  /** Bytes of the client's. */
  readonly sent: number;
  /** Bytes of the target's. */
  readonly received: number;
}

/** The last minutes, in intervals of the same length, oldest first. Arrays are of one length. */
export interface StatusHistory {
  readonly intervalMs: number;
  /** End of the last interval. */
  readonly at: string;
  /** Bytes of clients and of targets, per second. */
  readonly sentBytesPerSecond: readonly number[];
  readonly receivedBytesPerSecond: readonly number[];
  /** Tunnels that were connected, and that could not be. */
  readonly connected: readonly number[];
  readonly failed: readonly number[];
  /** Tunnels open at the end of the interval. */
  readonly open: readonly number[];
  /** Time until tunnels were connected, in ms: median and 99th percentile, null without any. */
  readonly connectP50Ms: readonly (number | null)[];
  readonly connectP99Ms: readonly (number | null)[];
}
