// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What to do about a failed connection: the log field `hint`. */
import { CloseCode } from "../qrht/codes.ts";
import { ClientRefusedError } from "../tls/client_judge.ts";
import type { CertificateFault } from "../tls/faults.ts";
import { HandshakeError, type HandshakeFailure } from "../tls/tls_carrier.ts";
import { type CloseInfo, TlsAlert, tlsAlertOf } from "../quic/errors.ts";

type FaultKind = CertificateFault["kind"];

const ALPN = "configure at least one common protocol in --alpn at both ends";
const CLOCKS = "synchronize the clocks of both machines, or wait";

/** For an agent that has rejected the server's certificate. */
const serverFaults: Partial<Record<FaultKind, string>> = {
  untrusted: "set --ca-file to the CA of the server's certificate",
  ca: "add the renewed certificate of this CA to --ca-file, or correct the clock of this machine",
  chain:
    "renew the intermediate certificate in the server's --cert-file, and remove the expired one",
  constraint: "use a certificate whose names its CA may issue at the server",
  name:
    "set --server-name to a name in the server's certificate, or issue a certificate with this name",
  expired: "renew the server's certificate, or correct the clock of this machine",
  early: CLOCKS,
  purpose: "use a certificate for servers (serverAuth) at the server",
};

/** For an agent that the server has rejected, by TLS alert. */
const alertsForAgent: Readonly<Record<number, string>> = {
  [TlsAlert.BadCertificate]: "see the server's log, and check the clocks of both machines",
  [TlsAlert.UnsupportedCertificate]: "set --cert-file to a certificate for clients (clientAuth)",
  [TlsAlert.CertificateExpired]: "renew --cert-file, or correct the clocks of both machines",
  [TlsAlert.CertificateUnknown]: "see the server's log: it says what is wrong with --cert-file",
  [TlsAlert.UnknownCa]: "set the server's --client-ca-file to the CA of --cert-file",
  [TlsAlert.CertificateRequired]: "set --cert-file to a certificate for clients (clientAuth)",
  [TlsAlert.NoApplicationProtocol]: ALPN,
};

/** The same by application error code. */
const codesForAgent: Readonly<Record<number, string>> = {
  [CloseCode.NotAdmitted]:
    "add a name in --cert-file to the server's --agent-name, or to a --route or --listen-tcp of it",
  [CloseCode.NoFurtherAgents]: "see the server's log: it is draining, or has reached --max-agents",
};

/**
 * For a server that has rejected the certificate of a peer.
 *
 * @param peer what it calls the peer
 * @param caFlag flag of the CA file that the certificate is verified with
 */
function peerFaults(
  peer: string,
  caFlag: string,
  missing: string,
): Partial<Record<FaultKind, string>> {
  return {
    missing,
    untrusted: `set ${caFlag} to the CA of the ${peer}'s certificate`,
    ca: `add the renewed certificate of this CA to ${caFlag}, or correct the clock of this machine`,
    chain: `renew the intermediate certificate at the ${peer}`,
    constraint: `use a certificate whose names its CA may issue at the ${peer}`,
    expired: `renew the ${peer}'s certificate, or correct the clock of this machine`,
    early: CLOCKS,
    purpose: `use a certificate for clients (clientAuth) at the ${peer}`,
    version: `issue the ${peer} a certificate of version 3, with its own key`,
  };
}

const agentFaults = peerFaults(
  "agent",
  "--client-ca-file",
  "set --cert-file at the agent to a certificate",
);
const tlsClientFaults = peerFaults(
  "client",
  "--tls-client-ca-file",
  // Programs in Go send none that is not of a CA which the server names (RFC 8446, section 4.2.4).
  "set a certificate at the client, such as clientCert in an EgressSelectorConfiguration, of a CA in --tls-client-ca-file: kube-apiserver sends no other",
);

/** For a server whose handshake with a TLS client has failed. */
const tlsClientFailures: Partial<Record<HandshakeFailure, string>> = {
  "plain-text": "configure TLS at the client, or use --listen-tcp for it",
  "no-certificate": tlsClientFaults.missing!,
  "server-refused":
    "check that the client trusts the CA of --tls-cert-file, and connects to a name in it",
};

/** For a server that an agent has rejected, by TLS alert. */
const alertsForServer: Readonly<Record<number, string>> = {
  [TlsAlert.BadCertificate]:
    "check that the agent's --server-name is a name in --cert-file, and check the clocks of both machines",
  [TlsAlert.UnsupportedCertificate]: "set --cert-file to a certificate for servers (serverAuth)",
  [TlsAlert.CertificateExpired]: "renew --cert-file, or correct the clocks of both machines",
  [TlsAlert.CertificateUnknown]: "see the agent's log: it says what is wrong with --cert-file",
  [TlsAlert.UnknownCa]: "set the agent's --ca-file to the CA of --cert-file",
  [TlsAlert.NoApplicationProtocol]: ALPN,
};

const NO_ANSWER =
  "check that the address is correct, that proxy-server is running there, and that firewalls allow UDP to this port";
const HALF_AN_ANSWER = "packets are lost on the path, or the server is overloaded";

/** The same where a carrier takes the place of UDP, which was established. */
const NO_ANSWER_OVER_TCP =
  "check that the TCP connection leads to --listen-fallback of proxy-server, or that the proxy in its place forwards datagrams to the server";
const HALF_AN_ANSWER_OVER_TCP =
  "the path over TCP is slow, the server is overloaded, or a proxy in front of it forwards no large datagrams";

/**
 * Hint for an agent whose connection failed, or was refused by either end.
 *
 * @param faults what is wrong with the server's certificate
 */
export function hintForAgent(
  info: CloseInfo,
  faults: readonly CertificateFault[] = [],
): string | undefined {
  if (info.by === "timeout") {
    if (info.isCarried) return info.isUnanswered ? NO_ANSWER_OVER_TCP : HALF_AN_ANSWER_OVER_TCP;
    return info.isUnanswered ? NO_ANSWER : HALF_AN_ANSWER;
  }
  const alert = tlsAlertOf(info);
  if (info.by === "peer") {
    if (info.application) return codesForAgent[info.code];
    return alert === undefined ? undefined : alertsForAgent[alert];
  }
  return alert === TlsAlert.NoApplicationProtocol ? ALPN : firstHint(serverFaults, faults);
}

/**
 * Hint for a server that refused an agent, or was refused by one.
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
  return alert === TlsAlert.NoApplicationProtocol ? ALPN : firstHint(agentFaults, faults);
}

/**
 * Hint for a server that refused a client of its TLS listener.
 *
 * @param error why
 * @param faults what is wrong with the client's certificate
 */
export function hintForTlsClient(
  error: unknown,
  faults: readonly CertificateFault[],
): string | undefined {
  if (error instanceof HandshakeError) return tlsClientFailures[error.kind];
  const isWrongName = error instanceof ClientRefusedError && error.names !== undefined;
  if (isWrongName) return "add a name in the client's certificate to --client-name";
  return firstHint(tlsClientFaults, faults);
}

function firstHint(
  hints: Partial<Record<FaultKind, string>>,
  faults: readonly CertificateFault[],
): string | undefined {
  return faults.map(({ kind }) => hints[kind]).find((hint) => hint !== undefined);
}
