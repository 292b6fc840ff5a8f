// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The QUIC library of an agent, `--quic-library`. */
import { UsageError } from "../errors.ts";
import { quote } from "../printable.ts";
import { QRHT_ALPN, speaksQrht } from "../qrht/dialect.ts";
import { checkDenoIdentity, type QuicLibrary, quicLibraryOf, trustNoOtherCa } from "../quic/mod.ts";
import type { TryOut } from "../tls/material.ts";
import type { AgentFlagValues } from "./program_flags.ts";

/** The flags of an agent that concern it. */
export type LibraryFlagValues = Pick<
  AgentFlagValues,
  "quicLibrary" | "alpn" | "mtu" | "congestionControl"
>;

/** An agent's library, and how it is tried out with certificates and key. */
export interface ChosenLibrary {
  readonly quicLibrary: QuicLibrary;
  /** Of the binding, which is the default, there is nothing to say. */
  readonly tryOut: TryOut | undefined;
}

/**
 * The library that an agent uses. If it is Deno's, no other CAs are trusted from then on.
 *
 * @throws {UsageError} when it cannot do what other flags ask for, or would trust other CAs
 */
export function chosenLibrary(
  { quicLibrary: choice, alpn, mtu, congestionControl }: LibraryFlagValues,
): ChosenLibrary {
  const quicLibrary = quicLibraryOf(choice);
  if (quicLibrary === "binding") return { quicLibrary, tryOut: undefined };
  const on = "on Deno's QUIC, which --quic-library selects";
  if (!alpn.some(speaksQrht)) {
    throw new UsageError(
      `--alpn ${alpn.map((name) => quote(name)).join(",")}: only ${QRHT_ALPN} is spoken ${on}`,
    );
  }
  if (mtu > 0) throw new UsageError(`--mtu ${mtu}: the MTU cannot be set ${on}`);
  if (congestionControl === "reno") {
    throw new UsageError(`--congestion-control reno: there are only bbr and cubic ${on}`);
  }
  // As early as can be: Deno may load its own CAs at any time.
  trustNoOtherCa();
  return { quicLibrary, tryOut: checkDenoIdentity };
}
