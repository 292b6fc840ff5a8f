// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import fc from "fast-check";
import { createCa } from "../../lib/certs/issue.ts";
import { describeCertificate } from "../../lib/tls/certificate.ts";
import { derOf, generateKeys, issueFor, subjectAltName } from "../support/any_certificate.ts";
import { runs } from "../support/fuzz.ts";

const ca = await createCa({ commonName: "test CA" });
const { publicKey } = generateKeys("P-256");

Deno.test("describeCertificate() lists DNS names and URIs, the common name, then IP addresses, each once", async () => {
  const names = subjectAltName(
    { type: "url", value: "spiffe://example/agent" },
    { type: "dns", value: "any kind" },
    { type: "ip", value: "10.0.0.1" },
    { type: "email", value: "a@b.example" },
    { type: "dns", value: "a.example" },
  );
  const info = describeCertificate(derOf(await issueFor(ca, publicKey, [names])));
  assertEquals(info.names, ["any kind", "a.example", "spiffe://example/agent", "10.0.0.1"]);
  const address = subjectAltName({ type: "dns", value: "10.0.0.1" });
  const misnamed = describeCertificate(derOf(await issueFor(ca, publicKey, [address])));
  assertEquals(misnamed.names, ["any kind"]);
  assertEquals(info.subject, "CN=any kind");
});

Deno.test("describeCertificate() does not take a part of one name for another", async () => {
  const uri = { type: "url", value: "spiffe://x/a, DNS:admin" } as const;
  const info = describeCertificate(derOf(await issueFor(ca, publicKey, [subjectAltName(uri)])));
  assertEquals(info.names, [uri.value, "any kind"]);
  const forged = await createCa({ commonName: "a\nCN=admin" });
  assertEquals(describeCertificate(derOf(forged)).names, ["a\nCN=admin"]);
});

Deno.test("describeCertificate() throws TypeError over anything that is not a certificate", () => {
  for (const der of [[], [0x30, 0], [0x30, 0x84, 255, 255, 255, 255], [1, 2, 3]]) {
    assertThrows(() => describeCertificate(new Uint8Array(der)), TypeError, "not a certificate");
  }
});

Deno.test("describeCertificate() throws nothing but TypeError over damaged certificates", async () => {
  const names = subjectAltName({ type: "dns", value: "a.example" });
  const der = derOf(await issueFor(ca, publicKey, [names]));
  fc.assert(
    fc.property(fc.nat(der.length - 1), fc.nat(255), fc.nat(der.length), (at, value, length) => {
      const damaged = der.slice(0, length % 2 === 0 ? length : undefined);
      if (at < damaged.length) damaged[at] = value;
      try {
        describeCertificate(damaged);
      } catch (error) {
        assertInstanceOf(error, TypeError);
      }
    }),
    runs(500),
  );
});
