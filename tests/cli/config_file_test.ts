// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import fc from "fast-check";
import { stringify } from "yaml";
import { configValues, parseWithConfig, yamlParser } from "../../lib/cli/config_file.ts";
import { durationFlag } from "../../lib/cli/duration.ts";
import { ruleListFlag } from "../../lib/cli/address_flags.ts";
import type { Flag, FlagTable } from "../../lib/cli/flag.ts";
import {
  booleanFlag,
  choiceFlag,
  choiceListFlag,
  integerFlag,
  listFlag,
  stringFlag,
} from "../../lib/cli/flag_kinds.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { agentFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { UsageError } from "../../lib/errors.ts";
import { runs } from "../support/fuzz.ts";
import { pureTest as test } from "../support/pure_test.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const parse = await yamlParser();
const of = (text: string, flags: FlagTable = serverFlags) =>
  configValues(text, "server.yaml", flags, parse);
const faultOf = async (text: string, flags?: FlagTable) =>
  (await assertRejects(() => of(text, flags), UsageError)).message;

test("configValues() takes every scalar as the text that a flag would take", async () => {
  const values = await of(
    "uds-mode: 0640\nmtu: 1400\nname: 1:20\nidle-timeout: 0",
  );
  assertEquals(Object.fromEntries(values), {
    "uds-mode": 0o640,
    mtu: 1400,
    name: "1:20",
    "idle-timeout": 0,
  });
  assertEquals((await of("")).size, 0);
  assertEquals((await of("# nothing\n")).size, 0);
});

test("configValues() takes lists, and texts with commas", async () => {
  const block = await of("agent-name:\n  - a\n  - b\nretry-on: [gone, draining]");
  assertEquals(block, await of("agent-name: a,b\nretry-on: gone,draining"));
  const [first] = (await of("listen-tcp: [':1@a', ':2@b']")).get("listen-tcp") as unknown[];
  assertEquals(first, { hostname: "", port: 1, agents: ["a"] });
});

test("configValues() names the line that is wrong, and the nearest key", async () => {
  assertEquals(
    await faultOf("v: 0\nlisten-qiuc: :1"),
    'server.yaml:2: unknown key "listen-qiuc"; did you mean listen-quic?',
  );
  assertEquals(
    await faultOf("xyzzy: 1"),
    'server.yaml:1: unknown key "xyzzy"; --help lists all flags',
  );
  assertEquals(
    await faultOf("\n'mtu' : 7"),
    'invalid value "7" for mtu in server.yaml:2: must be 0 or at least 1280',
  );
  assertEquals(
    await faultOf("route:\n  - '*=*'\n  - a=10.0.0.0/99"),
    await faultOf("route: ['*=*', a=10.0.0.0/99]"),
  );
  assertStringIncludes(await faultOf("route: a=10.0.0.0/99"), "route in server.yaml:1: ");
  assertEquals(
    await faultOf("v: 1\nv: 2"),
    "server.yaml:2: Cannot store mapping pair: duplicated key",
  );
});

test("configValues() refuses what is no value of a flag", async () => {
  assertEquals(await faultOf("name:"), "server.yaml:1: name has no value");
  assertEquals(await faultOf("name: [a]"), "server.yaml:1: name takes a single value");
  assertEquals(await faultOf("agent-name: []"), "server.yaml:1: agent-name is an empty list");
  const list = "server.yaml:1: agent-name takes a value, or a list of values";
  assertEquals(await faultOf("agent-name: [[a]]"), list);
  assertEquals(await faultOf("agent-name: {a: b}"), list);
  assertEquals(await faultOf("- name"), "server.yaml:1: not a mapping of flags to values");
  assertEquals(await faultOf("name"), "server.yaml:1: not a mapping of flags to values");
  for (const name of ["check", "make-certs", "config"]) {
    assertEquals(await faultOf(`${name}: a`), `server.yaml:1: ${name} cannot be set in a file`);
  }
});

test("configValues() shows nothing of a line that is no YAML", async () => {
  const fault = await faultOf("join: 'secret\nv: [1", agentFlags);
  assertEquals(fault.includes("secret"), false);
  assertEquals(fault.includes("\n"), false);
});

test("configValues() throws a UsageError for any text, or none", async () => {
  const words = fc.constantFrom("v", "route", ":", " ", "\n", "- ", "[", "]", "{", "&a", "*a", "!");
  const text = fc.oneof(fc.string({ unit: "binary" }), fc.array(words).map((all) => all.join("")));
  await fc.assert(
    fc.asyncProperty(text, async (text) => {
      try {
        await of(text);
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
        assertEquals(/[\n\r]/.test(error.message), false);
      }
    }),
    runs(500),
  );
});

/** Flags of every kind, and texts that each takes. */
const kinds: readonly ((name: string) => readonly [Flag<unknown>, fc.Arbitrary<string>])[] = [
  (name) => [stringFlag(name, { help: "" }), fc.string({ minLength: 1 })],
  (name) => [stringFlag(name, { multiple: true, help: "" }), fc.string({ minLength: 1 })],
  (name) => [integerFlag(name, { default: 3, help: "" }), fc.integer().map(String)],
  (name) => [booleanFlag(name, { help: "" }), fc.constantFrom("true", "false", "1", "T")],
  (name) => [durationFlag(name, { help: "" }), fc.constantFrom("0", "1m30s", "300ms")],
  (name) => [listFlag(name, { multiple: true, help: "" }), fc.constantFrom("a", "b,c", "no")],
  (name) => [listFlag(name, { default: ["z"], help: "" }), fc.constantFrom("a", "b, c", "1e3")],
  (name) => [choiceFlag(name, ["yes", "no"], { help: "" }), fc.constantFrom("yes", "no")],
  (name) => [choiceListFlag(name, { choices: ["a", "b"], help: "" }), fc.constantFrom("a", "b,a")],
  (name) => [ruleListFlag(name, { help: "" }), fc.constantFrom("*", "10.0.0.0/8:22", "*.a, ::1")],
];

test("a file that says what flags say yields the same values, for any table", async () => {
  const setting = fc.constantFrom(...kinds).chain((make) => {
    const [{ isRepeatable }, text] = make("x");
    const texts = fc.array(text, { minLength: 1, maxLength: isRepeatable ? 3 : 1 });
    return fc.record({ make: fc.constant(make), texts });
  });
  const names = fc.stringMatching(/^[a-z][a-z-]{0,8}$/)
    .filter((name) => !/^(?:no-|(?:h|help|version|completion|config)$)/.test(name));
  const settings = fc.dictionary(names, setting);
  await fc.assert(
    fc.asyncProperty(settings, fc.boolean(), async (settings, isAlone) => {
      const entries = Object.entries(settings);
      const table = Object.fromEntries(entries.map(([name, { make }]) => [name, make(name)[0]]));
      const args = entries.flatMap(([name, { texts }]) => texts.map((text) => `--${name}=${text}`));
      const file = Object.fromEntries(entries.map(([name, { texts }]) => [
        name,
        isAlone && texts.length === 1 ? texts[0] : table[name]!.isRepeatable ? texts : texts[0],
      ]));
      const get = () => undefined;
      const ofFlags = parseFlags(table, args, { get });
      const ofFile = await of(stringify(file), table);
      assertEquals(parseFlags(table, [], { get, file: ofFile }), ofFlags);
      // Flags take precedence, so that nothing is added to what they say.
      assertEquals(parseFlags(table, args, { get, file: ofFile }), ofFlags);
    }),
    runs(300),
  );
});

Deno.test("parseWithConfig() takes the command line before the environment before the file", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/a.yaml`;
  const files = "cert-file: c\ncert-key: k\nclient-ca-file: a\n";
  const valuesOf = async (text: string, args: string[], env: Record<string, string> = {}) => {
    await Deno.writeTextFile(path, text);
    const get = (name: string) => env[name];
    const parsed = await parseWithConfig(serverFlags, args, { get, names: Object.keys(env) });
    if (parsed.kind !== "run") throw new Error(`Expected values, got ${parsed.kind}`);
    return parsed.values;
  };
  const text = `${files}v: 1\nmtu: 1300\nname: file\nroute: '*=*'`;
  const env = { QRHT_CONFIG: path, QRHT_V: "2", QRHT_MTU: "1400" };
  const values = await valuesOf(text, ["--v=3"], env);
  assertEquals([values.v, values.mtu, values.name, values.certFile], [3, 1400, "file", "c"]);
  const overridden = await valuesOf(text, ["--route=a=10.0.0.0/8", `--config=${path}`]);
  assertEquals(overridden.routes.map(({ agents }) => agents), [["a"]]);

  const faultOf = async (text: string, args = [`--config=${path}`]) =>
    (await assertRejects(() => valuesOf(text, args), UsageError)).message;
  assertStringIncludes(await faultOf(""), "missing required flag --cert-file (or QRHT_CERT_FILE)");
  assertStringIncludes(await faultOf("v: x", [`--config=${path}`, "--v=1"]), `v in ${path}:1`);
  assertStringIncludes(await faultOf("", ["--config=/none"]), 'cannot read --config "/none": ');
  const large = "#".repeat(1 << 20) + "\n";
  assertStringIncludes(await faultOf(large), "larger than 1 MiB");
  await Deno.writeFile(path, new Uint8Array([0xff]));
  const invalid = () =>
    parseWithConfig(serverFlags, [`--config=${path}`], { get: () => undefined });
  assertStringIncludes((await assertRejects(invalid, UsageError)).message, "cannot read --config");
});
