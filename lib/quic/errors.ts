// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How a connection ended. */
export interface CloseInfo {
  /**
   * - `local`: this end closed it
   * - `peer`: the peer sent CONNECTION_CLOSE
   * - `timeout`: nothing was heard for the idle timeout or of a peer in doubt, or the handshake took
   *   too long
   * - `reset`: the peer was started anew, and does not know it (stateless reset, RFC 9000 §10.3)
   */
  readonly by: "local" | "peer" | "timeout" | "reset";
  /** Whether `code` is an application code, or a transport code (RFC 9000 §20.1). */
  readonly application: boolean;
  /** Error code; TLS alerts are 0x100 + alert (RFC 9001 §4.8). */
  readonly code: number;
  /** Reason phrase of CONNECTION_CLOSE, or what this end has to say. */
  readonly reason: string;
  /** Set where not a single datagram came from the peer. */
  readonly isUnanswered?: true;
  /** Set for a `timeout` where a carrier took the place of UDP. */
  readonly isCarried?: true;
  /** Set where no program receives at the peer's port, its system says, and no answer came. */
  readonly isRefused?: true;
}

/** A call on a connection that has ended, or one of its streams. */
export class ConnectionClosedError extends Error {
  override readonly name = "ConnectionClosedError";
  /**
   * @param info how the connection ended
   * @param peerCertificates what the peer had shown until then, DER, leaf first
   */
  constructor(readonly info: CloseInfo, readonly peerCertificates: Uint8Array[] | null = null) {
    super(describeClose(info));
  }
}

/** The peer reset its direction of the stream (RESET_STREAM, RFC 9000 §19.4). */
export class StreamResetError extends Error {
  override readonly name = "StreamResetError";
  constructor(readonly streamId: number, readonly code: number) {
    super(`stream ${streamId} was reset by the peer with code ${code}`);
  }
}

/** The peer takes no more bytes of the stream (STOP_SENDING, RFC 9000 §19.5). */
export class StreamStoppedError extends Error {
  override readonly name = "StreamStoppedError";
  constructor(readonly streamId: number, readonly code: number) {
    super(`stream ${streamId} was stopped by the peer with code ${code}`);
  }
}

/** A call on a direction of the stream that this end has ended itself. */
export class StreamEndedError extends Error {
  override readonly name = "StreamEndedError";
  constructor(readonly streamId: number, how: string) {
    super(`stream ${streamId} ${how}`);
  }
}

/** No stream could be opened: the peer allows no further one now (MAX_STREAMS, RFC 9000 §4.6). */
export class StreamOpenError extends Error {
  override readonly name = "StreamOpenError";
}

/** TLS alerts that end a handshake (RFC 8446 §6.2). */
export const TlsAlert = {
  HandshakeFailure: 40,
  BadCertificate: 42,
  UnsupportedCertificate: 43,
  CertificateRevoked: 44,
  CertificateExpired: 45,
  CertificateUnknown: 46,
  UnknownCa: 48,
  AccessDenied: 49,
  DecryptError: 51,
  ProtocolVersion: 70,
  InternalError: 80,
  CertificateRequired: 116,
  NoApplicationProtocol: 120,
} as const;

/** The same, in the words of this project. */
const alerts: Readonly<Record<number, string>> = {
  [TlsAlert.HandshakeFailure]: "handshake failure",
  [TlsAlert.BadCertificate]: "bad certificate",
  [TlsAlert.UnsupportedCertificate]: "unsupported certificate",
  [TlsAlert.CertificateRevoked]: "certificate revoked",
  [TlsAlert.CertificateExpired]: "certificate expired",
  [TlsAlert.CertificateUnknown]: "certificate not acceptable",
  [TlsAlert.UnknownCa]: "certificate of an unknown CA",
  [TlsAlert.AccessDenied]: "access denied",
  [TlsAlert.DecryptError]: "bad certificate signature",
  [TlsAlert.ProtocolVersion]: "no common TLS version",
  [TlsAlert.InternalError]: "TLS internal error",
  [TlsAlert.CertificateRequired]: "no client certificate",
  [TlsAlert.NoApplicationProtocol]: "no common ALPN protocol",
};

/** Transport error codes (RFC 9000 §20.1). */
const transportCodes = [
  "no error",
  "internal error",
  "connection refused",
  "flow control error",
  "stream limit error",
  "stream state error",
  "final size error",
  "frame encoding error",
  "transport parameter error",
  "connection id limit error",
  "protocol violation",
  "invalid token",
  "application error",
  "crypto buffer exceeded",
  "key update error",
  "AEAD limit reached",
  "no viable path",
];

const TLS_ALERT_BASE = 0x100;

/** The transport error code of a TLS alert (RFC 9001, section 4.8). */
export function transportCodeOf(alert: number): number {
  return TLS_ALERT_BASE + alert;
}

/** The TLS alert in a transport error code, if it is one. */
export function tlsAlertOf(info: CloseInfo): number | undefined {
  const alert = info.code - TLS_ALERT_BASE;
  return !info.application && alert >= 0 && alert <= 0xff ? alert : undefined;
}

/** One line that says who closed a connection and why. */
export function describeClose(info: CloseInfo): string {
  if (info.by === "timeout") return `connection timed out: ${info.reason}`;
  if (info.by === "reset") return `connection lost: ${info.reason}`;
  const who = info.by === "peer" ? "closed by the peer" : "closed";
  const alert = tlsAlertOf(info);
  const code = info.application
    ? `code ${info.code}`
    : alert !== undefined
    ? `TLS alert ${alert}, ${alerts[alert] ?? "unknown"}`
    : transportCodes[info.code] ?? `transport code ${info.code}`;
  return `connection ${who}: ${code}${info.reason ? ` (${info.reason})` : ""}`;
}
