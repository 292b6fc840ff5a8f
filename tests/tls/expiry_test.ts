// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import type { CertificateInfo } from "../../lib/tls/certificate.ts";
import { configureLog, logger, resetLog } from "../../lib/log.ts";
import { DAY_MS, ExpiryLog, expiryOf } from "../../lib/tls/expiry.ts";
import { pureTest as test } from "../support/pure_test.ts";

const START = Date.parse("2030-01-01T00:00:00Z");

/** A certificate that lives for some days from the first of January 2030 on. */
function living(days: number, subject = "CN=a"): CertificateInfo {
  return {
    subject,
    names: ["a"],
    issuer: "CN=ca",
    notBefore: new Date(START),
    notAfter: new Date(START + days * DAY_MS),
    fingerprint256: `of ${subject}`,
  };
}

const onDay = (day: number) => new Date(START + day * DAY_MS);

test("expiryOf() counts 30 and 7 days for certificates that live long", () => {
  const at = (day: number) => expiryOf(living(365), onDay(day));
  assertEquals([0, 334.9].map(at), ["far", "far"]);
  assertEquals([335, 357.9].map(at), ["soon", "soon"]);
  assertEquals([358, 365].map(at), ["urgent", "urgent"]);
  assertEquals(at(365.001), "expired");
});

test("expiryOf() counts the last quarter and tenth of a short life", () => {
  const at = (day: number) => expiryOf(living(1), onDay(day));
  assertEquals(
    [0, 0.74, 0.76, 0.89, 0.91, 1, 1.01].map(at).join(" "),
    "far far soon soon urgent urgent expired",
  );
  assertEquals(expiryOf(living(90), onDay(60)), "far");
});

test("expiryOf() never goes back as time goes on", () => {
  const order = ["far", "soon", "urgent", "expired"];
  const days = fc.double({ min: 0, max: 5000, noNaN: true });
  fc.assert(fc.property(days, days, days, (life, one, other) => {
    const [earlier, later] = [Math.min(one, other), Math.max(one, other)]
      .map((day) => order.indexOf(expiryOf(living(life), onDay(day))));
    assertEquals(earlier! <= later!, true);
  }));
});

/** What is logged. */
function reporter() {
  const lines: string[] = [];
  configureLog(0, (line) => lines.push(line.replace(/^\S+ /, "")));
  const expiry = new ExpiryLog(logger("tls"));
  const report = (day: number, ...infos: CertificateInfo[]) => {
    expiry.report(infos.map((info) => ({ flag: "--cert-file", info })), onDay(day));
    return lines.splice(0);
  };
  return { report, [Symbol.dispose]: resetLog };
}

test("ExpiryLog says what comes near, once a day", () => {
  using log = reporter();
  const info = living(365);
  assertEquals(log.report(0, info), []);
  assertEquals(log.report(334, info), []);
  assertEquals(log.report(335.5, info), [
    'WRN tls "certificate expires soon" file=--cert-file subject="CN=a" names=a fingerprint="of CN=a" ' +
    "notAfter=2031-01-01T00:00:00Z daysLeft=29",
  ]);
  assertEquals(log.report(335.6, info), []);
  assertEquals(log.report(336.4, info), []);
  assertEquals(log.report(336.5, info).length, 1);
  assertEquals(log.report(337.4, info), []);
});

test("ExpiryLog says at once what has become worse, and goes on about what has expired", () => {
  using log = reporter();
  const info = living(365);
  assertMatch(log.report(357.9, info).join("\n"), /^WRN.*daysLeft=7$/);
  assertMatch(log.report(358.1, info).join("\n"), /^ERR.*expires soon.*daysLeft=6$/);
  assertEquals(log.report(358.2, info), []);
  assertMatch(
    log.report(365.1, info).join("\n"),
    /^ERR tls "certificate has expired" (?!.*daysLeft)/,
  );
  assertEquals(log.report(365.2, info), []);
  assertEquals(log.report(366.2, info).length, 1);
});

test("ExpiryLog goes by the clock, also where that jumps", () => {
  using log = reporter();
  const info = living(365);
  assertEquals(log.report(340, info).length, 1);
  assertEquals(log.report(100, info), []);
  assertEquals(log.report(400, info).length, 1);
  assertEquals(log.report(340, info).length, 1);
});

test("ExpiryLog tells certificates apart, and the same one twice in a file as one", () => {
  using log = reporter();
  const [one, other] = [living(365, "CN=one"), living(365, "CN=other")];
  assertEquals(log.report(340, one, one).length, 1);
  assertMatch(log.report(340, one, other).join("\n"), /^.*CN=other.*$/);
  assertEquals(log.report(340, other), []);
  // Gone in between: it is news again.
  assertMatch(log.report(340, one, other).join("\n"), /^.*CN=one.*$/);
});
