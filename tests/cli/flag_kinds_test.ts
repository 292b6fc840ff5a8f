// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { durationFlag } from "../../lib/cli/duration.ts";
import { choiceListFlag, integerFlag, listFlag } from "../../lib/cli/flag_kinds.ts";
import { flags, messageFor, run, valuesOf } from "../support/flag_table.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("parseFlags() reads integers exactly, and keeps the host and the port of an address apart", () => {
  const cases: [arg: string, name: keyof ReturnType<typeof run>, value: unknown][] = [
    ["--size=+7", "size", 7],
    ["--size=-0", "size", 0],
    ["--size=007", "size", 7],
    ["--size=9007199254740991", "size", Number.MAX_SAFE_INTEGER],
    ["--listen-tcp=127.0.0.1:0", "listenTcp", { hostname: "127.0.0.1", port: 0 }],
    ["--listen-tcp=[::]:1", "listenTcp", { hostname: "::", port: 1 }],
    ["--listen-tcp=:1", "listenTcp", { hostname: "", port: 1 }],
    ["--upstream=example.com:443", "upstream", { hostname: "example.com", port: 443 }],
  ];
  for (const [arg, name, value] of cases) assertEquals(run([arg])[name], value, arg);
  for (const text of ["", "h", "h:", ":443", "h:0", "h:65536", "h:x", "::1:443"]) {
    assertStringIncludes(messageFor([`--upstream=${text}`]), `flag --upstream: `);
  }
});

test("parseFlags() names the flag and its bad value in one short line", () => {
  const cases: [string, string][] = [
    ["--retries=11", 'invalid value "11" for flag --retries: must be at most 10'],
    ["--retries=-2", 'invalid value "-2" for flag --retries: must be at least -1'],
    ["--size=1.5", 'invalid value "1.5" for flag --size: not an integer'],
    ["--size=0x10", 'invalid value "0x10" for flag --size: not an integer'],
    ["--wait=-2s", 'invalid value "-2s" for flag --wait: must be at least 0'],
    ["--offset=-2s", 'invalid value "-2s" for flag --offset: must be at least -1s'],
    ["--alpn=a,,b", 'invalid value "a,,b" for flag --alpn: has an empty item'],
    ["--log-format=xml", 'invalid value "xml" for flag --log-format: must be one of text, json'],
  ];
  for (const [arg, message] of cases) assertEquals(messageFor([arg]), message);
  assertStringIncludes(messageFor(["--size=99999999999999999"]), "must be at most");
  assertStringIncludes(messageFor(["--wait=600h"]), "must be at most 596h31m23s647ms");
  assertStringIncludes(messageFor(["--wait=5"]), "missing unit");
  assertMatch(messageFor(["--upstream=host"]), /^flag --upstream: .*"host"/);
  assertMatch(
    messageFor([], { QRHT_UPSTREAM: "host" }),
    /^environment variable QRHT_UPSTREAM: .*"host"/,
  );
  assertStringIncludes(messageFor(["--size=a\nb\u2028c"]), String.raw`"a\nb\u{2028}c"`);
  assert(messageFor([`--size=${"x".repeat(10_000)}`]).length < 200);
  assert(messageFor([`--upstream=${"x".repeat(10_000)}`]).length < 500);
  assert(messageFor([`--${"x".repeat(10_000)}`]).length < 200);
});

test("lists take space around their items", () => {
  const env = { QRHT_TAG: " x,  y " };
  assertEquals(run([], env).tags, ["x", "y"]);
  assertEquals(run(["--alpn=a, b\n"]).alpn, ["a", "b"]);
  assertStringIncludes(messageFor(["--alpn=a, ,b"]), "has an empty item");
  const values = valuesOf(flags, ["--fields=client, id", "--extras= none "]);
  assertEquals([values.fields, values.extras], [["client", "id"], []]);
});

test("flag makers refuse a default that the flag itself would refuse", () => {
  assertThrows(() => durationFlag("x", { default: "2", help: "x" }));
  assertThrows(() => integerFlag("x", { default: 5, max: 4, help: "x" }));
  assertThrows(() => listFlag("x", { default: [""], help: "x" }));
});

test("choiceListFlag() takes none alone, and any of the choices, once and in their order", () => {
  assertEquals(run(["--fields=none"]).fields, []);
  assertEquals(run(["--fields=id,client,id"]).fields, ["client", "id"]);
  assertEquals(run(["--fields=id", "--fields", "listener"]).fields, ["listener"]);
  assertEquals(run([], { QRHT_FIELDS: "none" }).fields, []);
  assertEquals(run([], { QRHT_FIELDS: "" }).fields, ["client"]);
});

test("choiceListFlag() names the word that is no choice, and the choices", () => {
  const cases: [text: string, problem: string][] = [
    ["client,ip", '"ip" is not one of client, listener, id'],
    ["Client", '"Client" is not one of client, listener, id'],
    ["client, i d", '"i d" is not one of client, listener, id'],
    ["client,none", '"none" cannot be combined with other values'],
    ["none,none", '"none" cannot be combined with other values'],
    ["", "has an empty item"],
    ["client,", "has an empty item"],
  ];
  for (const [text, problem] of cases) {
    assertEquals(
      messageFor([`--fields=${text}`]),
      `invalid value "${text}" for flag --fields: ${problem}`,
    );
  }
  // @ts-expect-error: not one of the choices
  assertThrows(() => choiceListFlag("x", { choices: ["a"], default: ["b"], help: "x" }));
  const message = messageFor([`--fields=${"x".repeat(10_000)}`]);
  assert(message.length < 400);
});
