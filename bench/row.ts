// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Figures } from "./figures.ts";
import type { Peer } from "./peers.ts";

/** What the rows of the benchmark have in common. */
export interface Bench {
  /** Folder with the certificates of both ends. */
  readonly certificates: string;
  /** Port of the origin, on loopback. */
  readonly origin: number;
  /** What else bytes and requests are sent through: two relays, and what the command line names. */
  readonly peers: readonly Peer[];
  readonly isShort: boolean;
  readonly figures: Figures;
  readonly signal: AbortSignal;
  /** Says what whoever reads the figures ought to know. */
  note(text: string): void;
}

/** Measures one kind of thing. */
export type Row = (bench: Bench) => Promise<void>;
