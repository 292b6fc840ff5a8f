// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { parseRule } from "../../lib/net/target_rule.ts";
import { type Authority, formatAuthority } from "../../lib/net/authority.ts";
import { type Cidr, parseCidr } from "../../lib/net/cidr.ts";
import { UsageError } from "../../lib/errors.ts";
import { durationFlag, formatDuration, parseDuration } from "../../lib/cli/duration.ts";
import {
  addressFlag,
  cidrListFlag,
  optionalAddressFlag,
  ruleListFlag,
} from "../../lib/cli/flag_kinds.ts";
import {
  booleanFlag,
  choiceFlag,
  choiceListFlag,
  envNameOf,
  type FlagTable,
  type FlagValues,
  integerFlag,
  listFlag,
  parseFlags,
  stringFlag,
} from "../../lib/cli/flags.ts";
import { formatHelp } from "../../lib/cli/help.ts";
import { serversOf as serversOfValues } from "../../lib/cli/program_tls.ts";
import { agentFlags, passthroughFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { runs } from "../support/fuzz.ts";
import { pureTest as test } from "../support/pure_test.ts";

const flags = {
  listenTcp: addressFlag("listen-tcp", {
    default: "0.0.0.0:8443",
    allowPortZero: true,
    allowEmptyHost: true,
    help: "where to listen",
  }),
  upstream: addressFlag("upstream", { help: "where to connect to" }),
  name: stringFlag("name", { default: "n", help: "a name" }),
  title: stringFlag("title", { allowEmpty: true, help: "may be empty" }),
  rules: stringFlag("rule", { multiple: true, help: "a rule" }),
  retries: integerFlag("retries", { default: 3, min: -1, max: 10, help: "how often" }),
  size: integerFlag("size", { help: "how large" }),
  dryRun: booleanFlag("dry-run", { help: "do nothing" }),
  color: booleanFlag("color", { default: true, help: "use colors" }),
  waitMs: durationFlag("wait", { default: "1m30s", help: "how long" }),
  offsetMs: durationFlag("offset", { minMs: -1000, help: "how much earlier or later" }),
  alpn: listFlag("alpn", { default: ["a", "b"], help: "names" }),
  tags: listFlag("tag", { multiple: true, help: "tags" }),
  format: choiceFlag("log-format", ["text", "json"], { default: "text", help: "log format" }),
  allowed: cidrListFlag("allow", { default: ["10.0.0.0/8", "::1"], help: "networks" }),
  denied: cidrListFlag("deny", { multiple: true, help: "networks" }),
  fields: choiceListFlag("fields", {
    choices: ["client", "listener", "id"],
    default: ["client"],
    help: "what to tell",
  }),
  extras: choiceListFlag("extras", { choices: ["a", "b"], default: [], help: "more" }),
  others: choiceListFlag("others", { choices: ["a", "b"], help: "others" }),
} as const satisfies FlagTable;

const noEnv = { get: () => undefined };

type Variables = Readonly<Record<string, string>>;

function valuesOf<T extends FlagTable>(
  table: T,
  args: readonly string[],
  env: Variables = {},
): FlagValues<T> {
  const parsed = parseFlags(table, args, { get: (name) => env[name], names: Object.keys(env) });
  if (parsed.kind !== "run") throw new Error(`Expected values, got ${parsed.kind}`);
  return parsed.values;
}

const run = (args: readonly string[], env?: Variables) => valuesOf(flags, args, env);

function messageFor(
  args: readonly string[],
  env: Variables = {},
  table: FlagTable = flags,
): string {
  return assertThrows(() => valuesOf(table, args, env), UsageError).message;
}

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

test("parseFlags() names the environment variable that holds a bad value", () => {
  const env = { QRHT_SIZE: "big" };
  const message = 'invalid value "big" for environment variable QRHT_SIZE: not an integer';
  assertEquals(messageFor([], env), message);
  assertEquals(run(["--size=1"], env).size, 1);
  assertEquals(envNameOf("listen-tcp"), "QRHT_LISTEN_TCP");
});

test("parseFlags() refuses an unknown variable of the project, with the nearest name", () => {
  const cases: [variable: string, hint: string][] = [
    ["QRHT_SIZ", "did you mean QRHT_SIZE?"],
    ["QRHT_LISTENTCP", "did you mean QRHT_LISTEN_TCP?"],
    ["QRHT_size", "did you mean QRHT_SIZE?"],
    ["QRHT_QQQQQQQQ", "--help lists all variables"],
    ["QRHT_", "--help lists all variables"],
  ];
  for (const [name, hint] of cases) {
    const message = `unknown environment variable ${name}; ${hint}`;
    for (const text of ["x", ""]) assertEquals(messageFor(["--size=1"], { [name]: text }), message);
  }
  const oneLine = messageFor([], { "QRHT_\n": "x" });
  assertEquals(oneLine, "unknown environment variable QRHT_\\n; --help lists all variables");
});

test("parseFlags() takes variables of the other programs, and those that Kubernetes sets", () => {
  const get = () => undefined;
  const names = ["QRHT_ALLOW", "QRHT_UPSTREAM", "QRHT_CHECK", "QRHT_RETRY_ON"];
  const environment = { get, names, othersFlags: [serverFlags, passthroughFlags, agentFlags] };
  assertEquals(parseFlags(flags, [], environment).kind, "run");
  assertThrows(
    () => parseFlags(flags, [], { get, names }),
    UsageError,
    "unknown environment variable",
  );
  // One environment for all: a misspelt variable may be another program's.
  assertThrows(
    () => parseFlags(flags, [], { ...environment, names: ["QRHT_AGENT_NAMES"] }),
    UsageError,
    "did you mean QRHT_AGENT_NAME?",
  );
  // The Services "qrht" and "qrht-server" of a namespace.
  const ofService = (name: string) => [
    `${name}_SERVICE_HOST`,
    `${name}_SERVICE_PORT`,
    `${name}_SERVICE_PORT_HTTP`,
    `${name}_PORT`,
    `${name}_PORT_8443_TCP`,
    `${name}_PORT_8443_TCP_ADDR`,
  ];
  const services = [...ofService("QRHT"), ...ofService("QRHT_SERVER")];
  assertEquals(parseFlags(flags, [], { get, names: services }).kind, "run");
  const alone = () => parseFlags(flags, [], { get, names: ["QRHT_SERVER_PORT"] });
  assertThrows(alone, UsageError, "unknown environment variable QRHT_SERVER_PORT");
});

test("parseFlags() refuses an empty variable of a flag that restricts something", () => {
  const message = (name: string) =>
    `environment variable ${name} is empty: give it a value, or unset it`;
  const files = { QRHT_CERT_FILE: "a", QRHT_CERT_KEY: "a", QRHT_CA_FILE: "a" };
  for (const name of ["QRHT_ALLOW", "QRHT_DENY"]) {
    const env = { ...files, [name]: "" };
    assertEquals(messageFor([], env, agentFlags), message(name));
    assertEquals(
      messageFor(["--allow=", "--deny=*"], env, agentFlags).includes("flag --allow"),
      true,
    );
    valuesOf(agentFlags, ["--allow=*", "--deny=10.0.0.0/8"], env);
    assertStringIncludes(messageFor([], { ...env, [name]: " " }, agentFlags), name);
  }
  const server = { QRHT_CERT_FILE: "a", QRHT_CERT_KEY: "a", QRHT_CLIENT_CA_FILE: "a" };
  for (const name of ["QRHT_AGENT_NAME", "QRHT_LISTEN_TCP", "QRHT_UDS_NAME", "QRHT_UDS_MODE"]) {
    assertEquals(messageFor([], { ...server, [name]: "" }, serverFlags), message(name));
  }
});

test("lists take space around their items", () => {
  const env = { QRHT_TAG: " x,  y " };
  assertEquals(run([], env).tags, ["x", "y"]);
  assertEquals(run(["--alpn=a, b\n"]).alpn, ["a", "b"]);
  assertStringIncludes(messageFor(["--alpn=a, ,b"]), "has an empty item");
  const values = valuesOf(flags, ["--fields=client, id", "--extras= none "]);
  assertEquals([values.fields, values.extras], [["client", "id"], []]);
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

test("parseFlags() reads no variable for --check, which must not keep a program from its work", () => {
  const files = ["--cert-file=c", "--cert-key=k"];
  const env = { QRHT_CHECK: "true" };
  assertEquals(valuesOf(serverFlags, [...files, "--client-ca-file=a"], env).check, false);
  assertEquals(valuesOf(agentFlags, [...files, "--ca-file=a"], env).check, undefined);
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

test("flag makers refuse a default that the flag itself would refuse", () => {
  assertThrows(() => durationFlag("x", { default: "2", help: "x" }));
  assertThrows(() => integerFlag("x", { default: 5, max: 4, help: "x" }));
  assertThrows(() => listFlag("x", { default: [""], help: "x" }));
});

test("parseDuration() reads what Go reads", () => {
  const cases: [string, number][] = [
    ["0", 0],
    ["-0", 0],
    ["0s", 0],
    ["2s", 2000],
    ["+2s", 2000],
    ["-2s", -2000],
    ["300ms", 300],
    ["1m30s", 90_000],
    ["1.5h", 5_400_000],
    [".5s", 500],
    ["1.s", 1000],
    ["2.3s", 2300],
    ["30s1m", 90_000],
    ["250us", 0.25],
    ["250\u00b5s", 0.25],
    ["250\u03bcs", 0.25],
    ["5ns", 0.000005],
    ["0.33333333333333333333h", 1_199_999.999999],
  ];
  for (const [text, ms] of cases) assertEquals(parseDuration(text), ms, text);
  for (
    const text of ["", "3", "-", "+", "s", ".", "-.", ".s", "+.s", "1d", "1s ", " 1s", "1 s"]
      .concat(["2s-3s", "--2s", "1e3s", "1.2.3s", "1S", "\u0661s", "1s2", "00"])
  ) {
    assertThrows(() => parseDuration(text), UsageError);
  }
});

test("formatDuration() writes what parseDuration() reads back", () => {
  assertEquals(formatDuration(0), "0");
  assertEquals(formatDuration(90_000), "1m30s");
  assertEquals(formatDuration(-1500), "-1s500ms");
  assertEquals(formatDuration(0.25), "250us");
  fc.assert(fc.property(fc.integer(), (ms) => {
    assertEquals(parseDuration(formatDuration(ms)), ms);
  }));
  fc.assert(fc.property(fc.integer({ min: 0, max: (2 ** 31 - 1) * 1e6 }), (ns) => {
    assertEquals(parseDuration(formatDuration(ns / 1e6)), ns / 1e6);
  }));
});

test("formatHelp() shows every flag with its default, bounds and variable in 100 columns", () => {
  const summary = "Accepts TCP connections and carries each of them over QUIC. ".repeat(4).trim();
  for (const table of [flags, serverFlags, agentFlags, passthroughFlags] as FlagTable[]) {
    const help = formatHelp({ name: "program", summary }, table);
    assertStringIncludes(help, "\nUsage: program [flags]\n");
    for (const line of help.split("\n")) {
      assert(line.length <= 100, line);
      assertEquals(line, line.trimEnd());
    }
    for (const flag of Object.values(table)) {
      assertStringIncludes(help, `\n  --${flag.name}`);
      const env = `[env: ${envNameOf(flag.name)}]`;
      assertEquals(help.includes(env), !flag.commandLineOnly, env);
      if (flag.required && !flag.requiredUnless) assertStringIncludes(help, "[required]");
      if (flag.defaultText !== undefined) {
        assertStringIncludes(help, `[default: ${flag.defaultText}]`);
      }
    }
  }
});

test("formatHelp() aligns the texts and puts that of a long label below it", () => {
  const help = formatHelp({ name: "p", summary: "Does it.", usage: "p [flags] now" }, {
    waitMs: durationFlag("wait", {
      default: "2s",
      minMs: 1,
      maxMs: 60_000,
      help: `how long ${"to wait ".repeat(8).trim()}`,
    }),
    rules: stringFlag("a-rule-with-quite-a-long-name", { multiple: true, help: "a rule" }),
  });
  assertEquals(
    help,
    `\
Does it.

Usage: p [flags] now

Flags:
  --wait duration     how long to wait to wait to wait to wait to wait to wait to wait to wait
                      [1ms to 1m] [default: 2s] [env: QRHT_WAIT]
  --a-rule-with-quite-a-long-name string
                      a rule [may be repeated] [env: QRHT_A_RULE_WITH_QUITE_A_LONG_NAME]
  --help, -h          print this help
  --version           print the version
  --completion shell  print a completion script for bash, zsh or fish

Flags are written --x=y, --x y, -x=y or -x y, and take precedence over environment variables.
A duration is a number with a unit (ns, us, ms, s, m, h): 300ms, 2s, 1m30s.`,
  );
});

test("serverFlags, agentFlags and passthroughFlags have the defaults of the programs", () => {
  const common = {
    certFile: "c",
    certKey: "k",
    config: undefined,
    halfOpenTimeoutMs: 300_000,
    idleTimeoutMs: 0,
    writeTimeoutMs: 0,
    tcpKeepaliveMs: 15_000,
    drainTimeoutMs: 30_000,
    alpn: ["qrht/1", "quic-echo-example"],
    mtu: 0,
    congestionControl: "bbr",
    listenAdmin: undefined,
    adminNames: [],
    name: undefined,
    v: 0,
    logFormat: "text",
  } as const;
  const files = ["--cert-file=c", "--cert-key", "k"];
  assertEquals(valuesOf(serverFlags, [...files, "-client-ca-file=a"]), {
    ...common,
    listenTcp: [],
    reusePort: false,
    routes: [],
    listenFallback: undefined,
    listenTls: undefined,
    tlsCertFile: undefined,
    tlsCertKey: undefined,
    tlsClientCaFile: undefined,
    clientNames: [],
    udsName: undefined,
    udsMode: 0o660,
    udsGroup: undefined,
    listenQuic: { hostname: "", port: 8888 },
    makeCerts: undefined,
    certNames: [],
    certDays: 365,
    bundle: undefined,
    clientCaFile: "a",
    mode: undefined,
    agentWaitMs: undefined,
    connectTimeoutMs: 30_000,
    maxAttempts: 3,
    retryOn: ["draining", "overloaded", "gone"],
    balance: "least-streams",
    maxConnections: 20_000,
    maxAgents: 1000,
    maxPending: 1000,
    agentNames: [],
    acceptProxyProtocol: [],
    check: false,
  });
  const session = {
    ...common,
    // As a default, 127.0.0.1:9999, unless a bundle has another one.
    servers: [],
    transport: "auto" as const,
    fallback: undefined,
    httpProxy: undefined,
    join: undefined,
    serverName: "quic-tunnel-server",
    caFile: "a",
    dialTimeoutMs: 10_000,
    quicLibrary: "auto" as const,
  };
  const agentArgs = [...files, "-ca-file", "a"];
  assertEquals(valuesOf(agentFlags, agentArgs), {
    ...session,
    allow: [],
    deny: [],
    protocols: ["connect", "http", "socks5"],
    check: undefined,
  });
  assertEquals(valuesOf(passthroughFlags, [...agentArgs, "--upstream=h:1"]), {
    ...session,
    upstream: { hostname: "h", port: 1 },
    proxyProtocol: "off",
    check: false,
  });
  assertEquals(
    messageFor(agentArgs, {}, passthroughFlags),
    "missing required flag --upstream (or QRHT_UPSTREAM)",
  );
});

test("program flags keep to their bounds", () => {
  const long = "é".repeat(128);
  const cases: [table: FlagTable, arg: string, problem: string][] = [
    [agentFlags, "--v=11", "must be at most 10"],
    [agentFlags, "--v=-1", "must be at least 0"],
    [agentFlags, "--dial-timeout=0", "must be at least 1ms"],
    [agentFlags, "--server=:1", "--server"],
    [agentFlags, "--server=h:0", "--server"],
    [agentFlags, "--server=h:1,", "has an empty item"],
    [agentFlags, "--server=a:1,b", 'flag --server: invalid address "b": no port'],
    [agentFlags, `--alpn=h3,${long}`, "1 to 255 bytes"],
    [agentFlags, `--name=${long}`, "at most 255 bytes"],
    [agentFlags, "--allow=10.0.0.0/8,a:0", 'invalid rule "a:0": the ports must be in 1 to 65535'],
    [agentFlags, "--deny=", "has an empty item"],
    [serverFlags, "--connect-timeout=0", "must be at least 1ms"],
    [serverFlags, "--max-attempts=0", "must be at least 1"],
    [serverFlags, "--max-connections=0", "must be at least 1"],
    [serverFlags, "--max-agents=0", "must be at least 1"],
    [serverFlags, "--max-pending=0", "must be at least 1"],
    [serverFlags, "--mtu=1279", "must be 0 or at least 1280"],
    [serverFlags, "--agent-name=", "has an empty item"],
    [serverFlags, "--retry-on=always", "not one of draining"],
    [serverFlags, "--accept-proxy-protocol=10.0.0.1/8", "--accept-proxy-protocol"],
    [passthroughFlags, "--deny=*", "unknown flag --deny"],
    [passthroughFlags, "--proxy-protocol=v3", "off, v1, v2"],
  ];
  for (const [table, arg, problem] of cases) {
    assertStringIncludes(messageFor([arg], {}, table), problem);
  }
  assertEquals(
    messageFor([], { QRHT_DENY: "a\nb" }, agentFlags),
    'environment variable QRHT_DENY: invalid rule "a\\nb": a character that is not allowed in host names',
  );
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

test("--server takes several addresses, from one occurrence, several, or the variable", () => {
  const files = ["--cert-file=c", "--cert-key=k", "--ca-file=a"];
  const serversOf = (args: readonly string[], variable = "") =>
    serversOfValues(valuesOf(agentFlags, [...files, ...args], { QRHT_SERVER: variable }), undefined)
      .map(formatAuthority);
  assertEquals(serversOf([]), ["127.0.0.1:9999"]);
  assertEquals(serversOf(["--server=a:1"]), ["a:1"]);
  assertEquals(serversOf(["--server=a:1,[::1]:2", "-server", "b:3", "--server=a:1"]), [
    "a:1",
    "[::1]:2",
    "b:3",
    "a:1",
  ]);
  assertEquals(serversOf([], "a:1,b:2"), ["a:1", "b:2"]);
  assertEquals(serversOf(["--server=c:3"], "a:1,b:2"), ["c:3"]);
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

test("formatHelp() shows lists as they are written", () => {
  const help = formatHelp({ name: "p", summary: "Does it." }, flags);
  assertStringIncludes(help, "--allow cidrs");
  assertStringIncludes(help, "[comma-separated] [default: 10.0.0.0/8,::1]");
  assertStringIncludes(help, "[comma-separated, may be repeated]");
  assertStringIncludes(help, "[none or some of client, listener, id, comma-separated]");
  assertStringIncludes(help, "[default: none]");
});
