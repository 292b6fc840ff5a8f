// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import type { FlagValues } from "../../lib/cli/flag.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { passthroughFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { UsageError } from "../../lib/errors.ts";
import type { Authority } from "../../lib/net/authority.ts";
import { type Cidr, parseCidr } from "../../lib/net/cidr.ts";
import { flags, messageFor, noEnv, run } from "../support/flag_table.ts";
import { runs } from "../support/fuzz.ts";
import { pureTest as test } from "../support/pure_test.ts";

/** Both types are the same, not only assignable to one another. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
  : false;

test("parseFlags() infers the types of the values from the table", () => {
  const same: Same<FlagValues<typeof flags>, {
    readonly listenTcp: Authority;
    readonly upstream: Authority | undefined;
    readonly name: string;
    readonly title: string | undefined;
    readonly rules: readonly string[];
    readonly retries: number;
    readonly size: number | undefined;
    readonly dryRun: boolean;
    readonly color: boolean;
    readonly waitMs: number;
    readonly offsetMs: number | undefined;
    readonly alpn: readonly string[];
    readonly tags: readonly string[];
    readonly format: "text" | "json";
    readonly allowed: readonly Cidr[];
    readonly denied: readonly Cidr[];
    readonly fields: readonly ("client" | "listener" | "id")[];
    readonly extras: readonly ("a" | "b")[];
    readonly others: readonly ("a" | "b")[];
  }> = true;
  const required: Same<
    FlagValues<typeof passthroughFlags>["upstream" | "servers"],
    Authority | readonly Authority[]
  > = true;
  assert(same && required);
});

test("parseFlags() fills in the defaults", () => {
  assertEquals(run([]), {
    listenTcp: { hostname: "0.0.0.0", port: 8443 },
    upstream: undefined,
    name: "n",
    title: undefined,
    rules: [],
    retries: 3,
    size: undefined,
    dryRun: false,
    color: true,
    waitMs: 90_000,
    offsetMs: undefined,
    alpn: ["a", "b"],
    tags: [],
    format: "text",
    allowed: [parseCidr("10.0.0.0/8"), parseCidr("::1/128")],
    denied: [],
    fields: ["client"],
    extras: [],
    others: [],
  });
});

test("parseFlags() prefers the command line to the environment and that to the default", () => {
  const env = { QRHT_SIZE: "5", QRHT_RETRIES: "", QRHT_TAG: "x,y", QRHT_DRY_RUN: "t" };
  assertEquals(run(["--size=6"], env).size, 6);
  assertEquals(run([], env).size, 5);
  assertEquals(run([], env).retries, 3);
  assertEquals(run([], env).tags, ["x", "y"]);
  assertEquals(run(["--tag=z"], env).tags, ["z"]);
  assertEquals(run([], env).dryRun, true);
  assertEquals(run(["--dry-run=false"], env).dryRun, false);
});

test("parseFlags() names all required flags that are missing and their variables", () => {
  assertEquals(
    messageFor(["--cert-key=k"], { QRHT_CERT_FILE: "" }, serverFlags),
    "missing required flag --cert-file (or QRHT_CERT_FILE), " +
      "--client-ca-file (or QRHT_CLIENT_CA_FILE)",
  );
});

test("parseFlags() asks for nothing more when help or the version is wanted", () => {
  for (const arg of ["--help", "-help", "-h", "--h", "--help=true"]) {
    assertEquals(parseFlags(serverFlags, [arg, "--bogus"], noEnv), { kind: "help" });
  }
  const badEnv = { get: () => "bad" };
  assertEquals(parseFlags(serverFlags, ["--v=1", "--version"], badEnv), { kind: "version" });
  assertEquals(parseFlags(serverFlags, ["--version", "--help"], badEnv), { kind: "help" });
  const fish = { kind: "completion", shell: "fish" } as const;
  assertEquals(
    parseFlags(serverFlags, ["--completion=bash", "--completion", "fish"], noEnv),
    fish,
  );
  assertEquals(parseFlags(serverFlags, ["--completion=fish"], badEnv), fish);
  assertEquals(
    messageFor(["--completion=sh"]),
    'invalid value "sh" for flag --completion: must be one of bash, zsh, fish',
  );
  assertEquals(parseFlags(flags, ["--help=false", "--version=0"], noEnv).kind, "run");
  assertEquals(messageFor(["--bogus", "--help"]), "unknown flag --bogus; --help lists all flags");
});

test("parseFlags() never throws anything but a UsageError of one line", () => {
  const item = fc.constantFrom("::1", "10.0.0.0/8", "10.0.0.1/8", "none", "client", "a", "", "\n");
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.string({ unit: fc.constantFrom("\n", "\r", "\u0085", "\u2028", "-", "=", ":", "1", "s") }),
    fc.array(item).map((items) => items.join(",")),
  );
  const name = fc.constantFrom("h", ...Object.values(flags).map((flag) => flag.name));
  const dashes = fc.constantFrom("-", "--");
  const joined = (...parts: fc.Arbitrary<string>[]) =>
    fc.tuple(...parts).map((parts) => parts.join(""));
  const arg = fc.oneof(
    text,
    joined(dashes, name),
    joined(dashes, fc.oneof(name, text), fc.constant("="), text),
  );
  fc.assert(
    fc.property(fc.array(arg), fc.option(text, { nil: undefined }), (args, variable) => {
      try {
        parseFlags(flags, args, { get: () => variable });
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
        assertMatch(error.message, /^[^\p{Cc}\p{Zl}\p{Zp}]+$/u);
      }
    }),
    runs(2500),
  );
});
