// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A program in a terminal that goes away. */
import { makeCerts } from "../../certs/make.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { anyPort, ChildProgram, serverFlags } from "../support/processes.ts";

/** For a program that should have ended by itself. */
function killed(pid: number): void {
  try {
    Deno.kill(pid, "SIGKILL");
  } catch {
    // It has.
  }
}

Deno.test("SIGHUP stops a program whose terminal is gone, and does not when there is one", async () => {
  await using temporary = await temporaryFolder();
  const dir = temporary.path;
  await makeCerts(dir);
  const log = `${dir}/log`;
  const flags = Object.entries({ ...anyPort, ...serverFlags(dir) })
    .map(([name, value]) => `--${name}=${value}`).join(" ");
  // Both the shell and the program get the terminal; the shell tells how the program has ended.
  const command = `trap '' HUP; ${Deno.execPath()} run -A server.ts ${flags} & ` +
    `echo pid $! > ${log}; wait $!; echo code $? >> ${log}`;
  await using terminal = new ChildProgram("script", ["-qfec", command, `${dir}/typescript`], {
    env: { SHELL: "/bin/sh" },
  });
  await terminal.line(/quic listener on/);
  const logged = (text: RegExp) =>
    eventually(`${text} in the log`, async () => text.exec(await Deno.readTextFile(log)));
  const pid = Number((await logged(/pid (\d+)/))[1]);
  using _program = { [Symbol.dispose]: () => killed(pid) };
  const hangUp = () => Deno.kill(pid, "SIGHUP");
  hangUp();
  await terminal.line(/certificates unchanged/);
  terminal.kill("SIGKILL");
  await terminal.status;
  hangUp();
  await logged(/code 0/);
});
