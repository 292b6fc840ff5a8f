// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { optionalAddressFlag } from "../../lib/cli/address_flags.ts";
import { formatDuration } from "../../lib/cli/duration.ts";
import { integerFlag, stringFlag } from "../../lib/cli/flag_kinds.ts";
import { formatHelp } from "../../lib/cli/help.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { serverFlags } from "../../lib/cli/program_flags.ts";
import { UsageError } from "../../lib/errors.ts";
import { flags, messageFor, noEnv, run, valuesOf } from "../support/flag_table.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("parseFlags() takes any value in any of the four forms with equal results", () => {
  const named = fc.constantFrom(
    ...Object.values(flags).filter((flag) => flag.kind !== "boolean").map((flag) => flag.name),
  );
  const value = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.integer().map(String),
    fc.integer({ min: 0, max: 1e9 }).map(formatDuration),
    fc.constantFrom("text", "json", "h:1", "[::1]:443", "a,b", "--", "-", "--help", "-1", "a=b"),
  );
  fc.assert(fc.property(named, value, (name, text) => {
    const [first, ...others] = [
      [`--${name}=${text}`],
      [`--${name}`, text],
      [`-${name}=${text}`],
      [`-${name}`, text],
    ].map((args) => {
      try {
        return run(args);
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
        return error.message;
      }
    });
    for (const other of others) assertEquals(other, first);
  }));
});

test("parseFlags() takes the next argument as the value, dashes or not", () => {
  assertEquals(run(["--retries", "-1"]).retries, -1);
  assertEquals(run(["--name", "--size", "--size", "2"]).name, "--size");
  assertEquals(run(["--name", "--", "--size", "2"]).size, 2);
  assertEquals(run(["--name=a=b"]).name, "a=b");
});

test("parseFlags() reads booleans as Go does and never from the next argument", () => {
  assertEquals(run(["--dry-run"]).dryRun, true);
  assertEquals(run(["-dry-run", "--size", "1"]).dryRun, true);
  for (const text of ["1", "t", "T", "true", "TRUE", "True"]) {
    assertEquals(run([`--dry-run=${text}`]).dryRun, true);
  }
  for (const text of ["0", "f", "F", "false", "FALSE", "False"]) {
    assertEquals(run([`--color=${text}`]).color, false);
  }
  assertEquals(messageFor(["--dry-run", "true"]), 'unexpected argument "true"');
  for (const text of ["", "yes", "tRUE", "true\n"]) {
    assertStringIncludes(messageFor([`--dry-run=${text}`]), "for flag --dry-run: not a boolean");
  }
});

test("parseFlags() lets the last occurrence win unless the flag is multiple", () => {
  assertEquals(run(["--size=1", "--alpn=x,y", "--size=2", "--alpn=z"]).size, 2);
  assertEquals(run(["--alpn=x,y", "--alpn=z"]).alpn, ["z"]);
  assertEquals(run(["--rule=x,y", "--rule=z"]).rules, ["x,y", "z"]);
  assertEquals(run(["--tag=x,y", "--tag=z"]).tags, ["x", "y", "z"]);
  assertStringIncludes(messageFor(["--size=one", "--size=1"]), '"one"');
});

test("parseFlags() refuses positional arguments", () => {
  assertEquals(messageFor(["foo"]), 'unexpected argument "foo"');
  assertEquals(messageFor(["--size=1", "foo", "--bar"]), 'unexpected argument "foo"');
  assertEquals(messageFor(["-"]), 'unexpected argument "-"');
  assertEquals(messageFor([""]), 'unexpected argument ""');
  assertEquals(messageFor(["--", "--size=1"]), 'unexpected argument "--size=1"');
  assertEquals(run(["--size=1", "--"]).size, 1);
});

test("parseFlags() names an unknown flag and the known one that is nearest", () => {
  const hint = "did you mean --listen-tcp?";
  assertEquals(messageFor(["--lsten-tcp=x"]), `unknown flag --lsten-tcp; ${hint}`);
  assertEquals(messageFor(["-listen_tcp", "x"]), `unknown flag --listen_tcp; ${hint}`);
  assertEquals(messageFor(["--LISTEN-TCP"]), `unknown flag --LISTEN-TCP; ${hint}`);
  assertEquals(messageFor(["--hlep"]), "unknown flag --hlep; --help lists all flags");
  assertEquals(messageFor(["--versoin"]), "unknown flag --versoin; did you mean --version?");
  assertEquals(messageFor(["--constructor"]), "unknown flag --constructor; --help lists all flags");
  for (const name of ["logtostderr", "alsologtostderr", "vmodule", "stderrthreshold"]) {
    const message = `unknown flag --${name}; --help lists all flags`;
    assertEquals(messageFor([`--${name}=1`], {}, serverFlags), message);
  }
});

test("parseFlags() refuses flags without a name or a value", () => {
  assertEquals(messageFor(["--=x"]), 'missing flag name in "--=x"');
  assertEquals(messageFor(["-="]), 'missing flag name in "-="');
  assertEquals(messageFor(["---size=1"]), 'too many dashes in "---size=1"');
  assertEquals(messageFor(["-size"]), "flag --size needs a value");
  assertEquals(messageFor(["--name="]), 'invalid value "" for flag --name: must not be empty');
  assertEquals(run(["--title="]).title, "");
  assertEquals(run(["--title", ""]).title, "");
});

test("parseFlags() takes the next argument for an optional value unless it begins with a dash", () => {
  const table = {
    check: optionalAddressFlag("check", { help: "check" }),
    v: integerFlag("v", { default: 0, help: "v" }),
  };
  const read = (...args: string[]) => Object.values(valuesOf(table, args, { QRHT_CHECK: "env:1" }));
  const target = { hostname: "h", port: 1 };
  assertEquals(read("--check"), [true, 0]);
  assertEquals(read("-check", "--v=2"), [true, 2]);
  assertEquals(read("--check", "-v", "2"), [true, 2]);
  assertEquals(read("--check", "h:1", "--v=2"), [target, 2]);
  assertEquals(read("--check=h:1"), [target, 0]);
  assertEquals(read("--check", "h:1", "--check"), [true, 0]);
  assertEquals(read(), [{ hostname: "env", port: 1 }, 0]);
  assertEquals(
    messageFor(["--check="], {}, table),
    'flag --check: invalid address "": it is empty',
  );
  assertMatch(
    messageFor(["--check", "h"], {}, table),
    /^flag --check: invalid address "h": no port/,
  );
  assertMatch(messageFor(["--check", "h:1", "h:2"], {}, table), /unexpected argument "h:2"/);
  assertStringIncludes(formatHelp({ name: "p", summary: "s" }, table), "--check [host:port] ");
});

test("parseFlags() refuses a table with a name twice, or one that is read as something else", () => {
  const name = stringFlag("name", { help: "a name" });
  assertThrows(() => parseFlags({ a: name, b: name }, [], noEnv), TypeError, "--name");
  const taken = stringFlag("version", { help: "a version" });
  assertThrows(() => parseFlags({ taken }, [], noEnv), TypeError, "--version");
  for (const name of ["no-color", "log.format"]) {
    const table = { flag: stringFlag(name, { help: "a flag" }) };
    assertThrows(
      () => parseFlags(table, [], noEnv),
      TypeError,
      `--${name} has a name that parseArgs() cannot read`,
    );
  }
});
