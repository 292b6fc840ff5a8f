// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { NotParsedError } from "../../lib/errors.ts";
import { type Authority, parseAuthority } from "../../lib/net/authority.ts";
import { ipBytes } from "../../lib/net/ip_address.ts";
import { formatRule, type Rule, ruleMatches } from "../../lib/net/target_rule.ts";
import { nameOfAgents } from "../../lib/server/agent_set.ts";
import { parseRoute, RouteTable, type TargetRoute } from "../../lib/server/routes.ts";
import { pureTest as test } from "../support/pure_test.ts";
import { address, name, rule as anyRule } from "../support/target_rules.ts";

const tableOf = (...routes: string[]) => new RouteTable(routes.map(parseRoute), nameOfAgents);

test("parseRoute() reads agents and their targets", () => {
  const { agents, targets } = parseRoute("DB-*, a.example=10.9.0.0/24:5432, *.a.internal");
  assertEquals(agents, ["a.example", "db-*"]);
  assertEquals(targets.map(formatRule), ["10.9.0.0/24:5432", "*.a.internal"]);
  assertEquals(parseRoute("spiffe://x?a=b=*").agents, ["spiffe://x?a=b"]);
  assertEquals(parseRoute("*=*").agents, ["*"]);
  assertEquals(parseRoute("a,*=*").agents, ["*"]);
});

test("parseRoute() names what is no route", () => {
  const wrong: Record<string, RegExp> = {
    "": /no = between/,
    "a": /no = between/,
    "a=": /invalid rule ""/,
    "=*": /invalid agent name "": it is empty/,
    "a,,b=*": /it is empty/,
    "a=10.0.0.1/8": /host bits are set/,
    "a=*,": /invalid rule ""/,
    "a*b=*": /invalid agent name "a\*b"/,
    "Default=*": /"Default": it stands for the agents of no other group/,
  };
  for (const [text, message] of Object.entries(wrong)) {
    const error = assertThrows(() => parseRoute(text), NotParsedError);
    assert(message.test(error.message), error.message);
  }
});

const table = tableOf(
  "wide=10.0.0.0/8,::/0",
  "narrow=10.1.0.0/16:1-1000,10.1.2.3",
  "port=10.1.0.0/16:443,*:7",
  "names=*.internal,*.db.internal:5432",
  "one=a.db.internal",
  "rest=*",
);

const leads: Record<string, string | undefined> = {
  "10.2.0.1:443": "wide",
  "10.1.0.1:443": "port",
  "10.1.0.1:442": "narrow",
  "10.1.0.1:1001": "wide",
  "10.1.2.3:443": "narrow",
  "[::ffff:10.1.2.3]:443": "narrow",
  "[64:ff9b::a01:203]:443": "wide",
  "11.0.0.1:443": "rest",
  "11.0.0.1:7": "port",
  "x.internal:80": "names",
  "x.y.internal:80": "names",
  "internal:80": "rest",
  "A.DB.Internal.:80": "one",
  "b.db.internal:5432": "names",
  "a.db.internal.:5432": "one",
  "a.db.internal.evil:80": "rest",
  "xa.db.internal:80": "names",
};

test("RouteTable finds the most specific route of a target", () => {
  for (const [target, agents] of Object.entries(leads)) {
    assertEquals(table.find(parseAuthority(target))?.value, agents, target);
  }
  assertEquals(tableOf("a=10.0.0.0/8,x").find(parseAuthority("y:1")), undefined);
});

test("RouteTable has one route for a target that several have", () => {
  const routes = ["b=10.0.0.0/8:1-65535", "a=10.0.0.0/8", "c,a=X.", "b=x"];
  for (const table of [tableOf(...routes), tableOf(...routes.toReversed())]) {
    assertEquals(table.find(parseAuthority("10.0.0.1:1"))?.value, "a,b");
    assertEquals(table.find(parseAuthority("x:1"))?.value, "a,b,c");
    assertEquals(table.entries.length, 2);
  }
});

const port = fc.constantFrom(1, 79, 80, 81, 90, 65_535);
const ports = fc.option(
  fc.tuple(port, port).map(([a, b]) => ({ first: Math.min(a, b), last: Math.max(a, b) })),
);
const rule: fc.Arbitrary<Rule> = fc.tuple(anyRule, ports)
  .map(([{ host }, ports]) => ports ? { host, ports } : { host });
const route: fc.Arbitrary<TargetRoute> = fc.record({
  agents: fc.constantFrom(["a"], ["b"], ["c", "d"]),
  targets: fc.array(rule, { minLength: 1, maxLength: 3 }),
});
const target: fc.Arbitrary<Authority> = fc.record({ hostname: fc.oneof(address, name), port });

/** Tries every rule, and every other against it. */
function byTheBook(routes: readonly TargetRoute[], target: Authority): string | undefined {
  const address = ipBytes(target.hostname);
  const matching = routes.flatMap(({ agents, targets }) =>
    targets.filter((rule) => ruleMatches(rule, target, address ? [address] : []))
      .map((rule) => ({ rule, agents }))
  ).filter(({ rule }) => !(address && rule.host.kind === "name"));
  const width = ({ ports }: Rule) => ports ? ports.last - ports.first : 65_534;
  const hostRank = ({ host }: Rule) =>
    host.kind === "any"
      ? -1
      : host.kind === "network"
      ? host.cidr.prefixLength
      : host.below
      ? host.name.length
      : 1_000;
  const beats = (a: Rule, b: Rule) => {
    if (hostRank(a) !== hostRank(b)) return hostRank(a) > hostRank(b);
    if (width(a) !== width(b)) return width(a) < width(b);
    return (a.ports?.first ?? 1) < (b.ports?.first ?? 1);
  };
  const best = matching.filter(({ rule }) => !matching.some((other) => beats(other.rule, rule)));
  const agents = [...new Set(best.flatMap(({ agents }) => agents))].sort();
  return agents.length === 0 ? undefined : agents.join(",");
}

const routes = fc.array(route, { minLength: 1, maxLength: 8 });

test("RouteTable agrees with the book, in any order of the routes", () => {
  const shuffled = routes.chain((routes) =>
    fc.tuple(
      fc.constant(routes),
      fc.shuffledSubarray(routes, { minLength: routes.length, maxLength: routes.length }),
    )
  );
  fc.assert(
    fc.property(shuffled, fc.array(target, { minLength: 5 }), ([routes, others], targets) => {
      const [one, other] = [routes, others].map((routes) => new RouteTable(routes, nameOfAgents));
      for (const target of targets) {
        const expected = byTheBook(routes, target);
        assertEquals(one!.find(target)?.value, expected);
        assertEquals(other!.find(target)?.value, expected);
      }
      assertEquals(
        one!.entries.map(({ rule }) => formatRule(rule)),
        other!.entries.map(({ rule }) => formatRule(rule)),
      );
    }),
    { numRuns: 500 },
  );
});

test("RouteTable.neverMatching() names routes that others leave nothing", () => {
  const table = tableOf(
    "a=10.0.0.0/24,11.0.0.0/24,12.0.0.1:80-81,0.0.0.0/0,13.0.0.0/24:80",
    "b=10.0.0.0/25,10.0.0.128/25:1-65535,10.0.0.192/26,11.0.0.0/25,11.0.0.128/25:80",
    "c=12.0.0.1:80,12.0.0.1:81,13.0.0.0/25:80-90,13.0.0.128/25",
  );
  const names = table.neverMatching().map(({ rule }) => formatRule(rule));
  assertEquals(names.sort(), ["10.0.0.0/24", "12.0.0.1:80-81", "13.0.0.0/24:80"]);
});

test("RouteTable.neverMatching() names no route that a target has", () => {
  fc.assert(
    fc.property(routes, fc.array(target), (routes, targets) => {
      const table = new RouteTable(routes, nameOfAgents);
      const never = table.neverMatching();
      for (const target of targets) {
        const found = table.find(target);
        if (found) assert(!never.includes(found), formatRule(found.rule));
      }
    }),
    { numRuns: 300 },
  );
});

test("RouteTable.within() tells the next wider route of the same targets", () => {
  const table = tableOf("a=10.0.0.0/8,*", "b=10.1.0.0/16:80-90", "c=10.1.0.0/24:443,*.x,a.x:1");
  const wider = (text: string) => {
    const entry = table.entries.find(({ rule }) => formatRule(rule) === text)!;
    const found = table.within(entry);
    return found && formatRule(found.rule);
  };
  assertEquals(wider("10.1.0.0/24:443"), "10.0.0.0/8");
  assertEquals(wider("10.1.0.0/16:80-90"), "10.0.0.0/8");
  assertEquals(wider("a.x:1"), "*.x");
  assertEquals(wider("*.x"), "*");
  assertEquals(wider("*"), undefined);
});

/** Look-ups of `Map` that a call makes. */
function stepsOf(call: () => unknown): number {
  const { get } = Map.prototype;
  let steps = 0;
  Map.prototype.get = function (key) {
    steps++;
    return get.call(this, key);
  };
  try {
    call();
  } finally {
    Map.prototype.get = get;
  }
  return steps;
}

test("RouteTable takes as many steps with a thousand routes as with ten", () => {
  const some = (count: number) =>
    tableOf(
      "rest=*",
      ...Array.from({ length: count / 2 }, (_, i) =>
        `group-${i % 200}=10.${i >> 8}.${i & 255}.0/24,n${i}.a.internal:${i + 1}`),
    );
  const [ten, thousand] = [some(10), some(1_000)];
  for (const text of ["10.0.3.7:1", "10.99.0.1:1", "n3.a.internal:4", "x.n3.a.internal:4", "y:1"]) {
    const target = parseAuthority(text);
    const steps = stepsOf(() => thousand.find(target));
    assertEquals(steps, stepsOf(() => ten.find(target)), text);
    assert(steps <= 6, `${text} takes ${steps} steps`);
  }
});
