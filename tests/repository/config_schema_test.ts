// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The schemas of `--config` are those of the flags, and take the examples of docs/flags.md. */
import { assertEquals } from "@std/assert";
import { Ajv } from "ajv";
import { parse } from "yaml";
import { configValues, isConfigurable, yamlParser } from "../../lib/cli/config_file.ts";
import type { Flag } from "../../lib/cli/flag.ts";
import { programInfos } from "../../lib/cli/programs.ts";
import { configSchema, formatSchema } from "../../release/config_schema.ts";
import { read } from "../support/repository.ts";

/** Texts of the flags whose form is their own. */
const samples: Readonly<Record<string, string>> = {
  address: "127.0.0.1:1",
  boolean: "true",
  duration: "1m30s",
  integer: "1300",
  string: "text",
};

const schemaOf = (name: string) => {
  const program = programInfos.find((program) => program.name === name)!;
  const validate = new Ajv({ allowUnionTypes: true }).compile(configSchema(program));
  return { program, errorsOf: (file: unknown) => validate(file) ? [] : validate.errors };
};

Deno.test("the schemas of --config in deploy/ are what `deno task schemas` makes", () => {
  for (const program of programInfos) {
    assertEquals(read(`deploy/schemas/${program.name}.json`), formatSchema(program));
  }
});

Deno.test("the schemas of --config take the examples, as the programs do", async () => {
  const examples = [...read("docs/flags.md").matchAll(/```yaml\n(# (proxy-\w+).*?)```/gs)];
  assertEquals(examples.map(([, , name]) => name), ["proxy-server", "proxy-agent"]);
  const yaml = await yamlParser();
  for (const [, text, name] of examples) {
    const { program, errorsOf } = schemaOf(name!);
    await configValues(text!, "example", program.flags, yaml);
    assertEquals(errorsOf(parse(text!)), []);
  }
});

Deno.test("the schemas of --config take each flag that can be set there, and nothing else", () => {
  for (const { name, flags } of programInfos) {
    const { errorsOf } = schemaOf(name);
    for (const flag of Object.values<Flag<unknown>>(flags)) {
      const text = flag.choices?.at(-1) ?? flag.defaultText ?? samples[flag.kind] ?? "a";
      assertEquals(errorsOf({ [flag.name]: text })?.length === 0, isConfigurable(flag), flag.name);
      assertEquals(errorsOf({ [flag.name]: { a: 1 } })?.length === 0, false, flag.name);
    }
    assertEquals(errorsOf({ "listen-qiuc": ":1" })?.[0]?.params, {
      additionalProperty: "listen-qiuc",
    });
    assertEquals(errorsOf({ alpn: ["a", "b"], mtu: 1400, "tcp-keepalive": 0 }), []);
    assertEquals(errorsOf(null), []);
  }
});
