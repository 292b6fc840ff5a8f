// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Figures } from "./figures.ts";

/** What the rows of the benchmark have in common. */
export interface Bench {
  /** Folder with the certificates of both ends. */
  readonly certificates: string;
  /** Ports of the origin, on loopback. */
  readonly origin: { readonly transfers: number; readonly http: number };
  readonly isShort: boolean;
  readonly figures: Figures;
  readonly signal: AbortSignal;
  /** Says what whoever reads the figures ought to know. */
  note(text: string): void;
}

/** Measures one kind of thing. */
export type Row = (bench: Bench) => Promise<void>;
