// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which names in certificates make an agent one of a group: none does by accident. */
import { assertEquals } from "@std/assert";
import { X509Certificate } from "node:crypto";
import type { CertificateOptions } from "../../lib/certs/issue.ts";
import { nameOfAgents, parseAgents, unionOfAgents } from "../../lib/server/agent_set.ts";
import { GroupRules } from "../../lib/server/group_rules.ts";
import { peerNamesOf } from "../../lib/tls/peer_name.ts";
import { pureTest } from "../support/pure_test.ts";
import { TestCa } from "../support/tls.ts";

pureTest("parseAgents() has one name for the same agents", () => {
  const nameOf = (text: string) => nameOfAgents(parseAgents(text));
  assertEquals(nameOf("B, a.Example,b"), "a.example,b");
  assertEquals(nameOf("FD00:0::1"), "fd00::1");
  assertEquals(nameOf("spiffe://X/*"), "spiffe://X/*");
  assertEquals(nameOf("a,*"), "*");
  assertEquals(unionOfAgents(["b"], ["a", "b"]), ["a", "b"]);
  assertEquals(unionOfAgents(["b"], ["*"]), ["*"]);
});

const ca = await TestCa.create();

interface Case {
  readonly certificate: Partial<CertificateOptions>;
  readonly of: readonly string[];
  readonly notOf: readonly string[];
}

const cases: Record<string, Case> = {
  "a common name alone": {
    certificate: { commonName: "cluster-a" },
    of: ["cluster-a", "CLUSTER-A", "cluster-*", "*"],
    notOf: ["cluster-a.", "cluster", "*.cluster-a", "cluster-a-*"],
  },
  "a common name beside alternative names": {
    certificate: { commonName: "cluster-a", dnsNames: ["other"] },
    of: ["other", "*"],
    notOf: ["cluster-a", "cluster-*"],
  },
  "a common name in the form of an address": {
    certificate: { commonName: "10.0.0.1" },
    of: ["*"],
    notOf: ["10.0.0.1", "*.0.0.1"],
  },
  "no name at all": { certificate: {}, of: ["*"], notOf: ["a", "*.a"] },
  "letters of any case": {
    certificate: { dnsNames: ["Node-1.Cluster-A.Example"] },
    of: ["node-1.cluster-a.example", "*.CLUSTER-A.example", "node-*.cluster-a.example"],
    notOf: ["cluster-a.example", "*.example", "node-*.example"],
  },
  "a trailing dot": {
    certificate: { dnsNames: ["node-1.cluster-a."] },
    of: ["node-1.cluster-a."],
    notOf: ["node-1.cluster-a", "*.cluster-a", "node-*"],
  },
  "a wildcard in the certificate": {
    certificate: { dnsNames: ["*.cluster-a"] },
    of: ["*"],
    notOf: ["*.cluster-a", "node-1.cluster-a", "cluster-a"],
  },
  "a longer name": {
    certificate: { dnsNames: ["cluster-a.evil.example", "a.b.cluster-a"] },
    of: ["*"],
    notOf: ["cluster-a", "*.cluster-a", "cluster-*"],
  },
  "a URI": {
    certificate: { uris: ["spiffe://cluster-a/ns/x"] },
    of: ["spiffe://cluster-a/*", "spiffe://cluster-a/ns/x"],
    notOf: ["cluster-a", "cluster-*", "spiffe://cluster/*", "SPIFFE://cluster-a/*"],
  },
  "an IP address": {
    certificate: { ipAddresses: ["10.0.0.1", "fd00::1"] },
    of: ["10.0.0.1", "FD00:0::1"],
    notOf: ["10.0.0.10", "*.0.0.1", "10*.0.0.1", "fd00:*"],
  },
};

for (const [what, { certificate, of, notOf }] of Object.entries(cases)) {
  Deno.test(`GroupRules.ofAgent() with ${what}`, async () => {
    const { cert } = await ca.client({ commonName: "", dnsNames: [], ...certificate });
    const der = new Uint8Array(new X509Certificate(cert as Uint8Array).raw);
    const agent = peerNamesOf(der, []);
    const isIn = (agents: string) => {
      const rules = new GroupRules({ agentNames: [], routes: [], fronts: [parseAgents(agents)] });
      return rules.ofAgent(agent).length > 0;
    };
    assertEquals(of.filter((agents) => !isIn(agents)), []);
    assertEquals(notOf.filter(isIn), []);
  });
}
