// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import { allowedName, checkAgentName, NameTable } from "../../lib/tls/agent_names.ts";
import { pureTest as test } from "../support/pure_test.ts";

const isFor = (pattern: string, name: string) => allowedName([name], [pattern]) === name;

/** Names for which a pattern is, and such for which it is not. */
const cases: Record<string, { yes: string[]; no: string[] }> = {
  "node-1": {
    yes: ["node-1", "NODE-1"],
    no: ["node-11", "xnode-1", "node-1.example", "node", "", "node-1 ", "*"],
  },
  "Agent One": { yes: ["agent one"], no: ["agent", "agent  one"] },
  // U+212A is the Kelvin sign, whose lower case is k.
  "k.example": { yes: ["K.example"], no: ["\u212a.example"] },
  "*.agents.example": {
    yes: ["a.agents.example", "A-1.Agents.Example", "_x.agents.example"],
    no: [
      "agents.example",
      ".agents.example",
      "a.b.agents.example",
      "a.agents.example.evil",
      "a.agents.example.",
      "aagents.example",
      "*.agents.example",
      "a\0.agents.example",
      "a b.agents.example",
      "spiffe://a.agents.example",
      "agent@a.agents.example",
    ],
  },
  "DB-*": {
    yes: ["db-1", "DB-a_b", "db--"],
    no: [
      "db-",
      "db",
      "xdb-1",
      "db-1.example",
      "db-1.",
      "db-*",
      "db-1 ",
      "db-a:b",
      "db-a/b",
      "db-\u212a",
    ],
  },
  "db-*.example": {
    yes: ["db-1.example", "DB-1.EXAMPLE"],
    no: [
      "db-.example",
      "db-1.b.example",
      "db-1.example.",
      "db-1.examplex",
      "db-1",
      "a.db-1.example",
    ],
  },
  "1*.0.0.1": { yes: ["1a.0.0.1"], no: ["10.0.0.1"] },
  "*.0.0.1": { yes: ["a.0.0.1"], no: ["10.0.0.1"] },
  "*.nodes": { yes: ["a.nodes"], no: ["nodes", "a.b.nodes"] },
  "spiffe://cluster/ns/a": {
    yes: ["spiffe://cluster/ns/a"],
    no: ["spiffe://cluster/ns/A", "spiffe://cluster/ns/ab", "spiffe://cluster/ns/", "cluster/ns/a"],
  },
  "spiffe://cluster/ns/*": {
    yes: ["spiffe://cluster/ns/a", "spiffe://cluster/ns/a/sa/b", "spiffe://cluster/ns/*"],
    no: [
      "spiffe://cluster/ns/",
      "spiffe://cluster/ns",
      "spiffe://cluster/nsx/a",
      "spiffe://cluster.evil/ns/a",
      "SPIFFE://cluster/ns/a",
      "xspiffe://cluster/ns/a",
    ],
  },
  "10.0.0.1": { yes: ["10.0.0.1"], no: ["10.0.0.10", "10.0.0", "::ffff:a00:2"] },
  "FD00:0::1": { yes: ["fd00::1"], no: ["fd00::10", "FD00:0::1", "fd00::"] },
  "fd00:*": { yes: ["fd00:a-name"], no: ["fd00::1", "FD00:0::1", "fd00:"] },
  "system:node:*": { yes: ["system:node:a"], no: ["system:node:", "system:nodes:a", "a"] },
};

for (const [pattern, { yes, no }] of Object.entries(cases)) {
  test(`allowedName() takes ${pattern} for what it stands for only`, () => {
    assertEquals(checkAgentName(pattern), undefined);
    assertEquals(yes.filter((name) => !isFor(pattern, name)), []);
    assertEquals(no.filter((name) => isFor(pattern, name)), []);
  });
}

test("allowedName() tells the first of the certificate's names that is allowed", () => {
  const names = ["a.example", "b.example", "spiffe://x/c"];
  assertEquals(allowedName(names, ["spiffe://x/*", "b.example"]), "b.example");
  assertEquals(allowedName(names, ["d.example"]), undefined);
  assertEquals(allowedName(names, []), undefined);
  assertEquals(allowedName([], ["a.example"]), undefined);
});

test("checkAgentName() wants * for the first label, for its end, or at the end of a URI", () => {
  for (
    const pattern of [
      "*",
      "*.",
      "a*.",
      "a.*",
      "a b*",
      "*a.example",
      "*.*.example",
      "**",
      "a**",
      "a*b",
    ]
  ) {
    assertMatch(checkAgentName(pattern) ?? "", /first label/, pattern);
  }
  for (const pattern of ["spiffe://a*", "spiffe://*/a", "a:**", "*:a", "spiffe://a/b*"]) {
    assertMatch(checkAgentName(pattern) ?? "", /end of a URI/, pattern);
  }
  for (const pattern of [" a", "a ", "\ta:b"]) {
    assertMatch(checkAgentName(pattern) ?? "", /space/, pattern);
  }
});

const label = fc.stringMatching(/^[a-z0-9_-]{1,8}$/);
const host = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join("."));

test("allowedName() has a name without wildcards stand for itself alone", () => {
  const name = fc.string({ minLength: 1 }).filter((text) => !text.includes("*"));
  fc.assert(fc.property(name, name, (pattern, other) => {
    assert(isFor(pattern, pattern));
    if (isFor(pattern, other)) assertEquals(other.toLowerCase(), pattern.toLowerCase());
  }));
});

test("allowedName() has a wildcard stand for exactly one label", () => {
  fc.assert(fc.property(label, host, host, (first, rest, other) => {
    assert(isFor(`*.${rest}`, `${first}.${rest}`));
    assert(!isFor(`*.${rest}`, rest));
    assert(!isFor(`*.${rest}`, `${other}.${first}.${rest}`));
    assertEquals(isFor(`*.${rest}`, `${first}.${other}`), other === rest);
  }));
});

test("allowedName() has the end of a URI stand for anything but nothing", () => {
  const path = fc.webPath({ size: "small" });
  fc.assert(fc.property(host, path, fc.string(), (host, path, rest) => {
    const prefix = `spiffe://${host}${path}/`;
    assertEquals(isFor(`${prefix}*`, prefix + rest), rest !== "");
    assert(!isFor(`${prefix}*`, `spiffe://${host}x${path}/${rest}`));
  }));
});

test("allowedName() lets nobody in by a pattern that is no fault, but for what begins or ends like it", () => {
  const text = fc.oneof(fc.string(), host, host.map((name) => `*.${name}`), fc.webUrl());
  fc.assert(fc.property(text, text, (pattern, name) => {
    if (checkAgentName(pattern) !== undefined || !isFor(pattern, name)) return;
    const [start, end = ""] = pattern.toLowerCase().split("*") as [string, string?];
    assert(name.toLowerCase().startsWith(start) && name.toLowerCase().endsWith(end));
  }));
});

test("NameTable finds the values of all patterns that are for a name, and no others", () => {
  const part = fc.constantFrom("a", "b", "a-b", "db-1", "10.0.0.1", "fd00::1", "spiffe://a", "s:");
  const name = fc.array(part, { minLength: 1, maxLength: 3 })
    .chain((parts) => fc.constantFrom(".", "/", "-").map((sign) => parts.join(sign)));
  const pattern = fc.oneof(
    name,
    name.map((name) => `*.${name}`),
    name.map((name) => `${name}*`),
    name.map((name) => name.replace(".", "*.")),
  ).filter((text) => checkAgentName(text) === undefined);
  fc.assert(fc.property(fc.array(pattern), name, (patterns, name) => {
    const table = new NameTable(patterns.map((pattern) => [pattern, pattern]));
    assertEquals(
      table.find(name).toSorted(),
      patterns.filter((pattern) => isFor(pattern, name)).toSorted(),
    );
  }));
});
