// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { cidrListFlag, ruleListFlag } from "../../lib/cli/address_flags.ts";
import { formatHelp } from "../../lib/cli/help.ts";
import { serverFlags } from "../../lib/cli/program_flags.ts";
import { parseRule } from "../../lib/net/target_rule.ts";
import { messageFor, valuesOf, type Variables } from "../support/flag_table.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("parseFlags() reads each listener with its agents, and each route", () => {
  const files = ["--cert-file=c", "--cert-key=k", "--client-ca-file=a"];
  const { listenTcp, routes } = valuesOf(serverFlags, [
    ...files,
    "--listen-tcp=:1",
    "--listen-tcp",
    "[::1]:2@db-*,B",
    "--route=a=10.0.0.0/8,*.a:1-2",
    "-route",
    "*=*",
  ]);
  assertEquals(listenTcp, [
    { hostname: "", port: 1 },
    { hostname: "::1", port: 2, agents: ["b", "db-*"] },
  ]);
  const [any, ofA] = [parseRule("*"), [parseRule("10.0.0.0/8"), parseRule("*.a:1-2")]];
  assertEquals(routes, [{ agents: ["a"], targets: ofA }, { agents: ["*"], targets: [any] }]);
  const env = { QRHT_LISTEN_TCP: ":3@a", QRHT_ROUTE: "a=*" };
  assertEquals(valuesOf(serverFlags, files, env).listenTcp[0]!.agents, ["a"]);
  assertEquals(valuesOf(serverFlags, [...files, "--listen-tcp=:4"], env).listenTcp.length, 1);
  for (
    const wrong of ["--listen-tcp=:1@", "--listen-tcp=x@a", "--listen-tcp=:1@a*b", "--route=a"]
  ) {
    assertStringIncludes(
      messageFor([...files, wrong], {}, serverFlags),
      `flag ${wrong.split("=")[0]}: `,
    );
  }
});

test("ruleListFlag() gives the rules of all occurrences, in their order", () => {
  const flags = { rules: ruleListFlag("rules", { help: "rules" }) };
  const run = (args: readonly string[], env?: Variables) => valuesOf(flags, args, env).rules;
  const [a, b, c] = ["10.0.0.0/8:22", "[fd00::/8]:80-90", "*.example"] as const;
  const rules = [a, b, c].map(parseRule);
  assertEquals(run([]), []);
  assertEquals(run([`--rules=${a},${b}`, "-rules", c]), rules);
  assertEquals(run([], { QRHT_RULES: [a, b, c].join(",") }), rules);
  assertEquals(run([`--rules=${c}`], { QRHT_RULES: a }), [parseRule(c)]);
  const help = formatHelp({ name: "p", summary: "Does it." }, flags);
  assertStringIncludes(help, "--rules rules       rules [comma-separated, may be repeated]");
});

test("cidrListFlag() names the flag or variable, the network and what is wrong with it", () => {
  assertEquals(
    messageFor(["--allow=::1,10.1.0.0/8"]),
    'flag --allow: invalid network "10.1.0.0/8": ' +
      "host bits are set, the network is 10.0.0.0/8",
  );
  assertMatch(
    messageFor([], { QRHT_DENY: "localhost" }),
    /^environment variable QRHT_DENY: invalid network "localhost": /,
  );
  for (const text of ["", ",", "::1,", ",::1", "::1,,::2"]) {
    assertStringIncludes(messageFor([`--allow=${text}`]), "has an empty item");
  }
  assertStringIncludes(messageFor(["--allow=::1, : :2"]), 'invalid network ": :2"');
  assert(messageFor([`--allow=${"x".repeat(10_000)}`]).length < 300);
  assertThrows(() => cidrListFlag("x", { default: ["10.0.0.1/8"], help: "x" }));
});
