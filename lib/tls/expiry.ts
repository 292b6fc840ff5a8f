// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Says in the log when certificates are about to expire. */
import { certificateFields, type CertificateInfo } from "./certificate.ts";
import type { Logger } from "../log.ts";
import type { FileCertificate } from "./files.ts";

export const DAY_MS = 24 * 60 * 60 * 1000;

/** How near the end of a certificate is. */
export type Expiry = "far" | "soon" | "urgent" | "expired";

/**
 * How near the end of a certificate is: `soon` from 30 days before it on, `urgent` from 7. Certificates that live for
 * weeks or hours are replaced later than that: the last quarter, or tenth, of their life goes for them, if it is shorter.
 */
export function expiryOf({ notBefore, notAfter }: CertificateInfo, now: Date): Expiry {
  const leftMs = notAfter.getTime() - now.getTime();
  const lifeMs = notAfter.getTime() - notBefore.getTime();
  if (leftMs < 0) return "expired";
  if (leftMs <= Math.min(7 * DAY_MS, lifeMs / 10)) return "urgent";
  if (leftMs <= Math.min(30 * DAY_MS, lifeMs / 4)) return "soon";
  return "far";
}

interface Told {
  readonly expiry: Expiry;
  readonly at: Date;
}

/** Logs each certificate whose end is near: when that comes to be, when it gets nearer, and once a day. */
export class ExpiryLog {
  readonly #log: Logger;
  #told = new Map<string, Told>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Logs what is to be said at this time. @param certificates all that are in use */
  report(certificates: readonly FileCertificate[], now: Date): void {
    const told = new Map<string, Told>();
    for (const { flag, info } of certificates) {
      const expiry = expiryOf(info, now);
      if (expiry === "far") continue;
      const key = `${flag} ${info.fingerprint256}`;
      const last = told.get(key) ?? this.#told.get(key);
      const isNews = last?.expiry !== expiry || now.getTime() - last.at.getTime() >= DAY_MS;
      if (isNews) this.#tell(flag, info, expiry, now);
      told.set(key, isNews ? { expiry, at: now } : last);
    }
    this.#told = told;
  }

  #tell(flag: string, info: CertificateInfo, expiry: Exclude<Expiry, "far">, now: Date): void {
    const fields = { file: flag, ...certificateFields(info) };
    if (expiry === "expired") return this.#log.error("certificate has expired", fields);
    const daysLeft = Math.floor((info.notAfter.getTime() - now.getTime()) / DAY_MS);
    const level = expiry === "urgent" ? "error" : "warn";
    this.#log[level]("certificate expires soon", { ...fields, daysLeft });
  }
}
