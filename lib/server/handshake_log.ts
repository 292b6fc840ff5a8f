// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Logger } from "../log.ts";
import { formatAuthority } from "../net/authority.ts";
import { hintForServer } from "../observe/hints.ts";
import { handshakeResultOf, type Monitor } from "../observe/monitor.ts";
import { describeClose, type ListenOptions, TlsAlert, tlsAlertOf } from "../quic/mod.ts";
import { clientCertificateFaults, reasonsOf } from "../tls/faults.ts";
import { Throttle } from "./throttle.ts";

/** Time between two lines about failed handshakes of a level: anybody can cause them. */
const LINE_INTERVAL_MS = 100;

/** Logs failed handshakes, with how many there were since the last line where that was not the only one. */
export function failedHandshakeLog(
  log: Logger,
  monitor: Monitor,
): NonNullable<ListenOptions["handshakeFailed"]> {
  const throttles = {
    warn: new Throttle(LINE_INTERVAL_MS),
    debug: new Throttle(LINE_INTERVAL_MS),
  };
  return (info, from, certificates) => {
    monitor.notify((observer) => observer.handshake?.(handshakeResultOf(info)));
    // A peer that failed to show who it is, is worth a line; one that never answered is noise.
    const level = tlsAlertOf(info) === undefined ? "debug" : "warn";
    const times = throttles[level].pass();
    if (times === undefined) return;
    const alert = info.by === "local" ? tlsAlertOf(info) : undefined;
    const faults = alert === undefined
      ? []
      : clientCertificateFaults(certificates, alert !== TlsAlert.UnknownCa);
    log[level]("agent refused", {
      remote: formatAuthority(from),
      reason: describeClose(info),
      error: reasonsOf(faults),
      hint: hintForServer(info, faults),
      times: times > 1 ? times : undefined,
    });
  };
}
