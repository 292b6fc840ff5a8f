// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What an agent asks of a connection to its server, whichever library has made it. */
import type { Authority } from "../net/authority.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import type { Awaitable } from "../wait.ts";
import type { ConnectionStats } from "./connection_stats.ts";
import type { CloseInfo } from "./errors.ts";
import type { PathMtu } from "./path/path_mtu.ts";
import { unsupported } from "./quiche/platforms.ts";

/** What makes the QUIC connections of an agent: the binding of quiche, or Deno itself. */
export const quicLibraries = ["binding", "deno"] as const;

export type QuicLibrary = typeof quicLibraries[number];

/** The library to use, or `auto`: the binding where there is one for this machine, else Deno's. */
export const quicLibraryChoices = ["auto", ...quicLibraries] as const;

export type QuicLibraryChoice = typeof quicLibraryChoices[number];

/** What a choice comes to on a machine. @param target what it is. @default {this machine} */
export function quicLibraryOf(
  choice: QuicLibraryChoice,
  target: string = Deno.build.target,
): QuicLibrary {
  if (choice !== "auto") return choice;
  return unsupported(target) === undefined ? "binding" : "deno";
}

/** A bidirectional stream. */
export interface AgentStream extends Duplex {
  /** Stream id (RFC 9000 §2.1), unique in its connection. */
  readonly id: number;
  /** Writes these last bytes, at least one, together with the end. */
  finish(last: Uint8Array): Awaitable<void>;
  reset(code: number): void;
  stop(code: number): void;
}

/** Numbers of a connection; a library may not have all of them. */
export type PeerStats =
  & { readonly [Name in keyof ConnectionStats]?: number | undefined }
  & Pick<ConnectionStats, "streams">;

/**
 * Asks the program at the other end for a sign of life, where the library does not tell when it
 * last heard of it.
 */
export interface Heartbeat {
  /** The peer answers. @param ask sends it the question, which has one answer */
  start(ask: () => void): void;
  /** Its answer. @param streams bidirectional streams of the connection that it has open */
  answered(streams: number): void;
}

/** A connection to a server. */
export interface AgentConnection {
  readonly library: QuicLibrary;
  /** Number of the connection in this process, from 1; each library has its own. */
  readonly number: number;
  /** What both ends call the connection; undefined where the library does not tell. */
  readonly id: string | undefined;
  readonly alpn: string;
  readonly remoteAddr: Authority;
  /** Settles, and never rejects, when the connection has ended for any reason. */
  readonly closed: Promise<CloseInfo>;
  /** How the connection ended, once it has. */
  readonly closeInfo: CloseInfo | undefined;
  /** Time since the last sign of the peer's, in milliseconds. */
  readonly silentForMs: number;
  /** Whether a carrier takes the place of UDP. */
  readonly isCarried: boolean;
  /** Whether the peer may be gone. */
  readonly isDoubted: boolean;
  /** Bidirectional streams open now. */
  readonly streamCount: number;
  /** Streams whose credit the library may have lost for ever. */
  readonly cutStreams: number;
  /** Unidirectional streams that may be opened now. */
  readonly uniCredit: number;
  /** How large the datagrams are, where the library tells. */
  readonly path?: PathMtu;
  /** Where the library does not tell how long the peer has been silent. */
  readonly heartbeat?: Heartbeat;
  /** The peer's certificates, DER, leaf first; null where there are none, or it does not tell. */
  readonly peerCertificates: readonly Uint8Array[] | null;
  stats(): PeerStats;
  /**
   * The next stream that the peer has opened.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  acceptStream(): Promise<AgentStream>;
  /**
   * The next unidirectional stream that the peer has opened.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  acceptUniStream(): Promise<Pick<Duplex, "read">>;
  /** Opens a unidirectional stream; undefined when the peer allows none. */
  openUniStream(): Pick<Duplex, "write"> | undefined;
  /** Waits until the peer has all that was written, the connection has ended, or the time is over. */
  settled(timeoutMs: number): Promise<void>;
  /** Closes the connection at once; what was not delivered is lost. Idempotent. */
  close(code: number, reason?: string): void;
}
