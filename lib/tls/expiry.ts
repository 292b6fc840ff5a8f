// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Logs when certificates are about to expire. */
import { certificateFields, type CertificateInfo, listNames } from "./certificate.ts";
import type { Logger } from "../log.ts";
import type { FileCertificate } from "./material.ts";
import { usabilityOf } from "./usability.ts";

export const DAY_MS = 24 * 60 * 60 * 1000;

/** How near the end of a certificate is. */
export type Expiry = "far" | "soon" | "urgent" | "expired";

/**
 * How near the expiry of a certificate is: `soon` in the last 30 days, `urgent` in the last 7. For
 * certificates valid for weeks or hours, the last quarter or tenth of the validity, if shorter.
 *
 * @example
 * ```ts
 * import { expiryOf } from "./expiry.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const year = { notBefore: new Date("2030-01-01"), notAfter: new Date("2031-01-01") };
 * assertEquals(expiryOf(year, new Date("2030-06-01")), "far");
 * assertEquals(expiryOf(year, new Date("2030-12-15")), "soon");
 * assertEquals(expiryOf(year, new Date("2030-12-30")), "urgent");
 * ```
 */
export function expiryOf(
  { notBefore, notAfter }: Pick<CertificateInfo, "notBefore" | "notAfter">,
  now: Date,
): Expiry {
  const leftMs = notAfter.getTime() - now.getTime();
  const validityMs = notAfter.getTime() - notBefore.getTime();
  if (leftMs < 0) return "expired";
  if (leftMs <= Math.min(7 * DAY_MS, validityMs / 10)) return "urgent";
  if (leftMs <= Math.min(30 * DAY_MS, validityMs / 4)) return "soon";
  return "far";
}

/** The last line about a certificate. */
interface LastLine {
  readonly expiry: Expiry;
  readonly at: Date;
}

/**
 * Logs each certificate that expires soon: at first, when it becomes more urgent, and once a day.
 * One that has expired, and that connections do not depend on, is logged once.
 */
export class ExpiryLog {
  readonly #log: Logger;
  /** By flag and fingerprint. */
  #lastLines = new Map<string, LastLine>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Logs what is due at this time. @param certificates all that are in use */
  report(certificates: readonly FileCertificate[], now: Date): void {
    const lines = new Map<string, LastLine>();
    const usability = new Map(usabilityOf(certificates, now).map((file) => [file.flag, file]));
    const unused = new Map<string, string[]>();
    for (const { flag, info } of certificates) {
      const expiry = expiryOf(info, now);
      if (expiry === "far") continue;
      const key = `${flag} ${info.fingerprint256}`;
      const last = lines.get(key) ?? this.#lastLines.get(key);
      const isUsable = usability.get(flag)!.problem === undefined;
      if (expiry === "expired" && isUsable) {
        if (last?.expiry !== expiry) unused.set(flag, [...unused.get(flag) ?? [], info.subject]);
        lines.set(key, { expiry, at: now });
        continue;
      }
      const isDue = last?.expiry !== expiry || now.getTime() - last.at.getTime() >= DAY_MS;
      if (isDue) this.#write(flag, info, expiry, now);
      lines.set(key, isDue ? { expiry, at: now } : last);
    }
    for (const [file, subjects] of unused) {
      this.#log.warn("expired certificates are not used", { file, subjects: listNames(subjects) });
    }
    this.#lastLines = lines;
  }

  #write(flag: string, info: CertificateInfo, expiry: Exclude<Expiry, "far">, now: Date): void {
    const fields = { file: flag, ...certificateFields(info) };
    if (expiry === "expired") return this.#log.error("certificate has expired", fields);
    const daysLeft = Math.floor((info.notAfter.getTime() - now.getTime()) / DAY_MS);
    const level = expiry === "urgent" ? "error" : "warn";
    this.#log[level]("certificate expires soon", { ...fields, daysLeft });
  }
}
