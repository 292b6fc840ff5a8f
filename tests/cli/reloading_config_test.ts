// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { configValues, yamlParser } from "../../lib/cli/config_file.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { agentFlags } from "../../lib/cli/program_flags.ts";
import { ReloadingConfig } from "../../lib/cli/reloading_config.ts";
import { configureLog } from "../../lib/log.ts";
import { UsageError } from "../../lib/errors.ts";
import { eventually } from "../support/eventually.ts";
import { pureTest as test, settled } from "../support/pure_test.ts";

const parse = await yamlParser();
const FILES = "ca-file: a\ncert-file: c\ncert-key: k\n";

/** A config whose file is a text. */
async function setUp() {
  const lines: string[] = [];
  configureLog(2, (line) => lines.push(line), { format: "json", color: false });
  const file = { text: "allow: '*'" };
  // Values are what the program has, beside the command line.
  const read = async () => {
    const given = await configValues(`${FILES}${file.text}`, "a.yaml", agentFlags, parse);
    const parsed = parseFlags(agentFlags, ["--idle-timeout=1s"], {
      get: () => undefined,
      file: given,
    });
    if (parsed.kind !== "run") throw new Error(`Expected values, got ${parsed.kind}`);
    return parsed.values;
  };
  const config = new ReloadingConfig({
    flags: agentFlags,
    values: await read(),
    read,
  });
  const applied: unknown[] = [];
  const followed = {
    live: {
      allow: true,
      idleTimeoutMs: true,
      servers: (from: unknown, to: unknown) =>
        (from as unknown[]).length === (to as unknown[]).length,
    },
    apply(values: Awaited<ReturnType<typeof read>>) {
      if (values.allow.length > 2) throw new UsageError("too many");
      applied.push([values.allow.length, values.mtu]);
    },
  } as const;
  const change = async (text: string, isAsked?: boolean) => {
    file.text = text;
    lines.length = 0;
    await config.reload(followed, isAsked);
    return lines.map((line) => {
      const { message, flags, error } = JSON.parse(line);
      return [message, flags ?? error].filter((part) => part !== undefined).join(": ");
    });
  };
  return { change, applied, config, followed, file };
}

test("ReloadingConfig takes over what may change, and names what needs a restart", async () => {
  const { change, applied } = await setUp();
  assertEquals(await change("allow: [a, b]\nmtu: 1400\nserver: h:1"), [
    "config reloaded: allow",
    "changed flags need a restart: server,mtu",
  ]);
  assertEquals(applied, [[2, 0]]);
  // Said once.
  assertEquals(await change("allow: [a, b]\nmtu: 1400\nserver: h:1"), []);
  assertEquals(await change("allow: [a, b]\nmtu: 1400\nserver: h:1", true), [
    "config unchanged",
    "changed flags need a restart: server,mtu",
  ]);
  // Of the command line, and so the same.
  assertEquals(await change("allow: [a, b]\nidle-timeout: 5s"), []);
  assertEquals(applied.length, 1);
});

test("ReloadingConfig keeps what it has when the file is wrong, and says so once", async () => {
  const { change, applied } = await setUp();
  const fault = 'config not reloaded: a.yaml:5: unknown key "alow"; did you mean allow?';
  assertEquals(await change("allow: b\nalow: c"), [fault]);
  assertEquals(await change("allow: b\nalow: c"), []);
  assertEquals(await change("allow: b\nalow: c", true), [fault]);
  assertEquals(await change("allow: [a, b, c]"), ["config not reloaded: too many"]);
  assertEquals(applied, []);
  assertEquals(await change("allow: '*'"), ["config unchanged"]);
  assertEquals(await change("allow: b"), ["config reloaded: allow"]);
  assertEquals(applied, [[1, 0]]);
});

test("ReloadingConfig takes over one file after the other, however long that takes", async () => {
  const { config, followed, file } = await setUp();
  const applied: number[] = [];
  const first = Promise.withResolvers<void>();
  const slow = {
    ...followed,
    async apply({ allow }: { readonly allow: readonly unknown[] }) {
      applied.push(allow.length);
      if (applied.length === 1) await first.promise;
    },
  };
  file.text = "allow: [a, b]";
  const reloads = [config.reload(slow)];
  await eventually("the first is under way", () => applied.length === 1);
  file.text = "allow: [a, b, c]";
  // Asked twice, and the second time nothing has changed.
  reloads.push(config.reload(slow), config.reload(slow));
  await settled();
  assertEquals(applied, [2]);
  first.resolve();
  await Promise.all(reloads);
  assertEquals(applied, [2, 3]);
});
