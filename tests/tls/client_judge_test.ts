// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { createCa, issueCertificate, type Issued } from "../../lib/certs/issue.ts";
import { ClientJudge, ClientRefusedError } from "../../lib/tls/client_judge.ts";
import type { Presented } from "../../lib/tls/tls_carrier.ts";
import { derOf, issueIntermediate } from "../support/any_certificate.ts";
import { inDays } from "../support/certificate_files.ts";

const ca = await createCa({ commonName: "CA" });
const other = await createCa({ commonName: "other CA" });
const client = await issueCertificate(ca, {
  commonName: "kube-apiserver",
  usage: "client",
  notAfter: inDays(10),
});

const trust = (...cas: Issued[]) => ({
  ca: new TextEncoder().encode(cas.map(({ certPem }) => certPem).join("")),
  leftOutCa: new Uint8Array(),
});

/** What a client presents; verified and in a new session unless told otherwise. */
function presented(chain: readonly Issued[], more: Partial<Presented> = {}): Presented {
  const ders = chain.map(derOf);
  return { leaf: ders[0], chain: () => ders, isVerified: true, isResumed: false, ...more };
}

const resumed = { isResumed: true } as const;

/** The reasons of the refusal. */
function refusalOf(judge: () => unknown): string[] {
  const error = assertThrows(judge, ClientRefusedError);
  return error.faults.map(({ reason }) => reason);
}

Deno.test("ClientJudge admits a resumed session if its certificate was verified before, and is acceptable now", () => {
  let now = new Date();
  const judge = new ClientJudge([], () => now);
  const unknown = "the certificate of the resumed session has never been verified";
  // As `node:tls` has it after a handshake in which the certificate was refused.
  assertEquals(refusalOf(() => judge.judge(presented([client], resumed), trust(ca))), [unknown]);
  assertEquals(judge.judge(presented([client]), trust(ca)), "kube-apiserver");
  assertEquals(judge.judge(presented([client], resumed), trust(other, ca)), "kube-apiserver");
  assertEquals(
    refusalOf(() => judge.judge(presented([client], resumed), trust(other))),
    ['certificate is not signed by the CA, but issued by "CN=CA"'],
  );
  now = inDays(11);
  const late = refusalOf(() => judge.judge(presented([client], resumed), trust(ca)));
  assertEquals(late.map((reason) => reason.slice(0, 22)), ["certificate expired on"]);
});

Deno.test("ClientJudge judges resumed sessions by the whole chain, whose intermediates must be CAs", async () => {
  const intermediate = await issueIntermediate(ca);
  const below = await issueCertificate(intermediate, { commonName: "below", usage: "client" });
  const judge = new ClientJudge([]);
  judge.judge(presented([below, intermediate]), trust(ca));
  assertEquals(judge.judge(presented([below, intermediate], resumed), trust(ca)), "below");
  assertEquals(
    refusalOf(() => judge.judge(presented([below], resumed), trust(ca))),
    ['certificate is not signed by the CA, but issued by "CN=intermediate"'],
  );
  const byClient = await issueCertificate(client, { commonName: "forged", usage: "client" });
  judge.judge(presented([byClient]), trust(ca));
  assertEquals(
    refusalOf(() => judge.judge(presented([byClient, client], resumed), trust(ca))),
    ['certificate is not signed by the CA, but issued by "CN=kube-apiserver"'],
  );
});

Deno.test("ClientJudge refuses a client without a certificate, one that is not verified, and other names", () => {
  const judge = new ClientJudge(["*.example", "kube-apiserver"]);
  const none = { leaf: undefined, isVerified: false } as const;
  assertEquals(
    refusalOf(() => judge.judge(presented([], none), trust(ca))),
    ["the client sent no certificate"],
  );
  const unverified = presented([client], { isVerified: false });
  assertEquals(
    refusalOf(() => judge.judge(unverified, trust(other))),
    ['certificate is not signed by the CA, but issued by "CN=CA"'],
  );
  // No reason is found here, but `node:tls` has one.
  assertEquals(refusalOf(() => judge.judge(unverified, trust(ca))), []);
  const error = assertThrows(
    () => new ClientJudge(["agent-1"]).judge(presented([client]), trust(ca)),
    ClientRefusedError,
  );
  assertEquals(error.names, "kube-apiserver");
});

Deno.test("ClientJudge says that a CA is no client", async () => {
  const intermediate = presented([await issueIntermediate(ca)], { isVerified: false });
  assertEquals(refusalOf(() => new ClientJudge([]).judge(intermediate, trust(ca))), [
    "certificate is that of a CA, not of a client",
  ]);
});
