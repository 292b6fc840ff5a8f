// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What systemd says of the units in deploy/systemd/. */
import { assertEquals, assertMatch } from "@std/assert";
import { programInfos } from "../../lib/cli/programs.ts";
import { runCommand } from "../support/system_command.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const folder = new URL("../../deploy/systemd/", import.meta.url);
const read = (name: string) => Deno.readTextFileSync(new URL(name, folder));

/** What `systemd-analyze security` may give a unit at most, in tenths: as measured. */
const MAX_EXPOSURE = 12;

/** Runs systemd-analyze on a unit as if its program were there. */
async function analyze(unit: string, text: string, ...args: string[]): Promise<string> {
  await using temporary = await temporaryFolder();
  const folder = temporary.path;
  const path = `${folder}/${unit}`;
  await Deno.writeTextFile(path, text.replace(/^(ExecStart=)\S+/m, "$1/bin/true"));
  const words = [...args, "--no-pager", path];
  const options = { env: { NO_COLOR: "1" } };
  const { success, stdout, stderr } = await runCommand("systemd-analyze", words, options);
  const output = stdout + stderr;
  return success ? output : `failed\n${output}`;
}

const verify = (unit: string, text: string) =>
  analyze(unit, text, "verify", "--man=no", "--recursive-errors=no");
const judge = (unit: string, text: string) =>
  analyze(unit, text, "security", "--offline=yes", `--threshold=${MAX_EXPOSURE}`);

for (const name of [...programInfos.map(({ name }) => name), "proxy-server@"]) {
  const unit = `${name}.service`;

  Deno.test(`deploy/systemd/${unit} is a unit without mistakes, and a hardened one`, async () => {
    const text = read(unit);
    assertEquals(await verify(unit, text), "");
    assertMatch(await judge(unit, text), /^(?!failed)/);
  });
}

Deno.test("deploy/systemd has its checks reject other units", async () => {
  const unit = "proxy-agent.service";
  const text = read(unit);
  assertMatch(
    await verify(unit, text.replace("ProtectHome", "ProtectHouse")),
    /ProtectHouse/,
  );
  assertMatch(await verify(unit, text.replace("RestartSec=5", "RestartSec=soon")), /soon/);
  assertMatch(await judge(unit, text.replace(/^PrivateUsers=.*\n/m, "")), /^failed/);
});
