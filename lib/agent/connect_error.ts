// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What an agent makes of a connection to a server that fails, or that has ended. */
import { CarrierDialError } from "../connect_udp/dial_carrier.ts";
import { messageOf } from "../errors.ts";
import { hintForAgent } from "../observe/hints.ts";
import { CloseCode } from "../qrht/codes.ts";
import {
  type CloseInfo,
  ConnectionClosedError,
  tlsAlertOf,
  type TlsIdentity,
} from "../quic/mod.ts";
import { reasonsOf, serverCertificateFaults } from "../tls/faults.ts";
import { serverFaultsInWords } from "../tls/rustls_faults.ts";

/** A connection to a server that was not established, or that ended during `--check`. */
export class ConnectError extends Error {
  override readonly name = "ConnectError";
  /** @param hint what to do about it, where that is known */
  constructor(message: string, readonly hint: string | undefined, options?: ErrorOptions) {
    super(message, options);
  }
}

/** What a server means by the application error code that it closes a connection with. */
const serverCodes: Readonly<Record<number, string>> = {
  [CloseCode.NotAdmitted]: "not admitted by the server: it admits no name in the certificate",
  [CloseCode.NoFurtherAgents]: "the server accepts no more agents",
};

/**
 * Explains an error: the faults of the server's certificate if they are the cause, or the meaning
 * of the server's error code.
 *
 * @param tls what the agent has shown and trusts
 * @param serverName name that the server's certificate must have
 * @returns a {@linkcode ConnectError} for a connection that was closed; any other error as it is
 */
export function explainConnectError(error: unknown, tls: TlsIdentity, serverName: string): unknown {
  if (!(error instanceof ConnectionClosedError)) return error;
  const { info, peerCertificates } = error;
  const isOwnVerdict = info.by === "local" && tlsAlertOf(info) !== undefined;
  const faults = !isOwnVerdict
    ? []
    : peerCertificates
    ? serverCertificateFaults(peerCertificates, tls.ca, serverName, undefined, tls.leftOutCa)
    : serverFaultsInWords(info.reason, serverName);
  const reasons = reasonsOf(faults);
  const message = reasons ? `${error.message}: ${reasons}` : reasonOf(error);
  return new ConnectError(message, hintForAgent(info, faults), { cause: error });
}

/** Whether the port of the server is closed. */
export function isRefused(error: unknown): boolean {
  return closeInfoOf(error)?.isRefused === true;
}

/** Whether either end has decided that there is no connection, whatever it goes through. */
export function isVerdict(error: unknown): boolean {
  const by = closeInfoOf(error)?.by;
  return by === "peer" || by === "local";
}

/**
 * The error of an agent that can connect neither over UDP nor over TCP. Where both ports are closed,
 * the server is not running, and it is that of UDP.
 */
export function neitherWay(udp: unknown, tcp: unknown): unknown {
  if (isRefused(udp) && tcp instanceof CarrierDialError && tcp.isRefused) return udp;
  const hint = hintOfFailure(tcp) ?? hintOfFailure(udp);
  const cause = udp instanceof ConnectError ? udp.cause : udp;
  return new ConnectError(`${messageOf(udp)}; over TCP: ${messageOf(tcp)}`, hint, { cause });
}

/** What to do about a connection that was not established. */
export function hintOfFailure(error: unknown): string | undefined {
  const isKnown = error instanceof ConnectError || error instanceof CarrierDialError;
  return isKnown ? error.hint : undefined;
}

function closeInfoOf(error: unknown): CloseInfo | undefined {
  const cause = error instanceof ConnectError ? error.cause : error;
  return cause instanceof ConnectionClosedError ? cause.info : undefined;
}

/** Whether the server accepts no further agents now, perhaps because it drains. */
export function isTurnedAway(error: unknown): boolean {
  const info = closeInfoOf(error);
  return info?.by === "peer" && info.application && info.code === CloseCode.NoFurtherAgents;
}

/** Why a connection has ended, in words. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof ConnectionClosedError)) return messageOf(error);
  const { by, application, code } = error.info;
  const cause = by === "peer" && application ? serverCodes[code] : undefined;
  return cause ? `${cause}: ${messageOf(error)}` : messageOf(error);
}

/** What to do about the end of a connection that was established. */
export function hintOf(error: unknown): string | undefined {
  if (!(error instanceof ConnectionClosedError) || error.info.by !== "peer") return undefined;
  return hintForAgent(error.info);
}
