// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { serverFaultsInWords } from "../../lib/tls/rustls_faults.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("serverFaultsInWords() reads what rustls says of a certificate", () => {
  const said: Readonly<Record<string, readonly [kind: string, reason: string]>> = {
    UnknownIssuer: ["untrusted", "certificate is not of a CA in --ca-file"],
    BadSignature: ["untrusted", "certificate is not of a CA in --ca-file"],
    'certificate not valid for name "a"; certificate is only valid for DnsName("b")': [
      "name",
      'certificate is not for "a"',
    ],
    "NotValidForName": ["name", 'certificate is not for "a"'],
    "certificate expired: verification time 5 (UNIX), but certificate is not valid after 4": [
      "expired",
      "certificate has expired",
    ],
    "certificate not valid yet: verification time 5 (UNIX), but certificate is not valid before 6":
      [
        "early",
        "certificate is not valid yet",
      ],
    "InvalidPurpose": [
      "purpose",
      "certificate is not meant for servers (extendedKeyUsage)",
    ],
  };
  for (const [words, [kind, reason]] of Object.entries(said)) {
    const faults = serverFaultsInWords(`invalid peer certificate: ${words}`, "a");
    assertEquals(faults as unknown, [{ kind, reason }], words);
  }
  assertEquals(serverFaultsInWords("something else", "a"), []);
});
