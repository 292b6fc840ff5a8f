// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What to do about a connection that does not come about: the field `hint` of a log line. */
import { CloseCode } from "../qrht/codes.ts";
import type { CertificateFault } from "../tls/faults.ts";
import { type CloseInfo, TlsAlert, tlsAlertOf } from "../quic/errors.ts";

type FaultKind = CertificateFault["kind"];

const ALPN = "give both ends a common name in --alpn";
const CLOCKS = "set the clocks of both machines, or wait";

/** What an agent that has refused the server's certificate can do. */
const serverFaults: Partial<Record<FaultKind, string>> = {
  untrusted: "give --ca-file the CA of the server's certificate",
  name: "set --server-name to a name of the server's certificate, or have it issued for this one",
  expired: "renew the server's certificate, or set the clock of this machine",
  early: CLOCKS,
  purpose: "give the server a certificate for servers (serverAuth)",
};

/** What an agent can do that the server has refused, by the alert. */
const alertsForAgent: Readonly<Record<number, string>> = {
  [TlsAlert.BadCertificate]: "see the server's log; are the clocks of both machines right?",
  [TlsAlert.UnsupportedCertificate]: "give --cert-file a certificate for clients (clientAuth)",
  [TlsAlert.CertificateExpired]: "renew --cert-file, or set the clocks of both machines",
  [TlsAlert.UnknownCa]: "give the server's --client-ca-file the CA of --cert-file",
  [TlsAlert.CertificateRequired]: "give --cert-file a certificate for clients (clientAuth)",
  [TlsAlert.NoApplicationProtocol]: ALPN,
};

/** The same, by the application error code. */
const codesForAgent: Readonly<Record<number, string>> = {
  [CloseCode.NotAdmitted]: "give the server's --agent-name a name of --cert-file",
  [CloseCode.NoFurtherAgents]: "see the server's log: it stops, or has --max-agents already",
};

/** What a server that has refused an agent's certificate can do. */
const clientFaults: Partial<Record<FaultKind, string>> = {
  missing: "give the agent a certificate in --cert-file",
  untrusted: "give --client-ca-file the CA of the agent's certificate",
  expired: "renew the agent's certificate, or set the clock of this machine",
  early: CLOCKS,
  purpose: "give the agent a certificate for clients (clientAuth)",
};

/** What a server can do that an agent has refused, by the alert. */
const alertsForServer: Readonly<Record<number, string>> = {
  [TlsAlert.BadCertificate]:
    "is the agent's --server-name a name of --cert-file, and are the clocks of both machines right?",
  [TlsAlert.UnsupportedCertificate]: "give --cert-file a certificate for servers (serverAuth)",
  [TlsAlert.CertificateExpired]: "renew --cert-file, or set the clocks of both machines",
  [TlsAlert.UnknownCa]: "give the agent's --ca-file the CA of --cert-file",
  [TlsAlert.NoApplicationProtocol]: ALPN,
};

const NO_ANSWER =
  "is this address right, does proxy-server run there, and do all firewalls let UDP through to this port?";
const HALF_AN_ANSWER = "packets are lost on the way, or the server is overloaded";

/**
 * What an agent can do about a connection that its server, or it itself, has refused, or that has never come about.
 *
 * @param faults what is wrong with the server's certificate
 */
export function hintForAgent(
  info: CloseInfo,
  faults: readonly CertificateFault[] = [],
): string | undefined {
  if (info.by === "timeout") return info.isUnanswered ? NO_ANSWER : HALF_AN_ANSWER;
  const alert = tlsAlertOf(info);
  if (info.by === "peer") {
    if (info.application) return codesForAgent[info.code];
    return alert === undefined ? undefined : alertsForAgent[alert];
  }
  return alert === TlsAlert.NoApplicationProtocol ? ALPN : firstHint(serverFaults, faults);
}

/**
 * What a server can do about an agent that it has refused, or that has refused it.
 *
 * @param faults what is wrong with the agent's certificate
 */
export function hintForServer(
  info: CloseInfo,
  faults: readonly CertificateFault[] = [],
): string | undefined {
  const alert = tlsAlertOf(info);
  if (alert === undefined) return undefined;
  if (info.by === "peer") return alertsForServer[alert];
  return alert === TlsAlert.NoApplicationProtocol ? ALPN : firstHint(clientFaults, faults);
}

function firstHint(
  hints: Partial<Record<FaultKind, string>>,
  faults: readonly CertificateFault[],
): string | undefined {
  return faults.map(({ kind }) => hints[kind]).find((hint) => hint !== undefined);
}
