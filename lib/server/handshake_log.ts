// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Logger } from "../log.ts";
import { formatAuthority } from "../net/authority.ts";
import { hintForServer } from "../observe/hints.ts";
import { handshakeResultOf, type Monitor } from "../observe/monitor.ts";
import {
  describeClose,
  identityOf,
  type ListenOptions,
  TlsAlert,
  tlsAlertOf,
  type TlsIdentity,
  type TlsSource,
} from "../quic/mod.ts";
import { type CertificateFault, clientCertificateFaults, reasonsOf } from "../tls/faults.ts";
import { LogThrottle } from "../log_throttle.ts";

/** Minimum time between two lines per level: anybody can cause failed handshakes. */
const LINE_INTERVAL_MS = 100;

/** Logs failed handshakes, rate-limited, with their number since the last line if more than one. */
export function failedHandshakeLog(
  log: Logger,
  monitor: Monitor,
  tls: TlsIdentity | TlsSource,
): NonNullable<ListenOptions["handshakeFailed"]> {
  const throttles = {
    warn: new LogThrottle(LINE_INTERVAL_MS),
    debug: new LogThrottle(LINE_INTERVAL_MS),
  };
  return (info, from, certificates) => {
    monitor.notify((observer) => observer.handshake?.(handshakeResultOf(info)));
    // A TLS failure is a warning. A peer that never answered is noise.
    const level = tlsAlertOf(info) === undefined ? "debug" : "warn";
    const times = throttles[level].pass();
    if (times === undefined) return;
    const alert = info.by === "local" ? tlsAlertOf(info) : undefined;
    const faults = alert === undefined ? [] : faultsOf(certificates, alert, identityOf(tls));
    log[level]("agent refused", {
      remote: formatAuthority(from),
      reason: describeClose(info),
      error: reasonsOf(faults),
      hint: hintForServer(info, faults),
      times: times > 1 ? times : undefined,
    });
  };
}

function faultsOf(
  certificates: Uint8Array[] | null,
  alert: number,
  { ca, leftOutCa }: TlsIdentity,
): CertificateFault[] {
  const isTrusted = alert !== TlsAlert.UnknownCa && alert !== TlsAlert.DecryptError;
  return clientCertificateFaults(certificates, isTrusted, undefined, {
    ...(leftOutCa && { leftOut: leftOutCa }),
    ...(alert === TlsAlert.CertificateUnknown && { constraining: ca }),
  });
}
