// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Programs and commands in a terminal, of which they show more, and which may go away. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { flagArguments } from "../../tools/project_program.ts";
import { makeCerts } from "../../certs/make.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { agentFlags, anyPort, ChildProgram, serverFlags } from "../support/processes.ts";

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

/** Runs a command in a terminal, or with pipes, to its end. Returns all that it has written. */
async function outputOf(command: string[], isTerminal: boolean): Promise<string> {
  const [program, ...args] = isTerminal
    ? ["script", "-qfec", command.join(" "), "/dev/null"]
    : command;
  await using child = new ChildProgram(program!, args, { env: { SHELL: "/bin/sh" } });
  await deadline(child.status, 120_000);
  return child.lines.join("\n");
}

Deno.test("--check shows the step that runs on a terminal, and only the report elsewhere", async () => {
  await using temporary = await temporaryFolder();
  await makeCerts(temporary.path);
  // Nobody answers there.
  const silent = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  using _silent = { [Symbol.dispose]: () => silent.close() };
  const { port } = silent.addr as Deno.NetAddr;
  const flags = { server: `127.0.0.1:${port}`, ...agentFlags(temporary.path) };
  const command = [Deno.execPath(), "run", "-A", "agent.ts", "--check", ...flagArguments(flags)];
  const [shown, plain] = await Promise.all([outputOf(command, true), outputOf(command, false)]);
  const lines = shown.replaceAll("\r\x1b[K", "\n").split(/[\r\n]+/);
  const spinning = /^[|/\\-] {8}(.*)$/;
  const steps = lines.map((line) => spinning.exec(line)?.[1]);
  assert(steps.includes(`udp to 127.0.0.1:${port}`), shown);
  assert(!plain.includes("\x1b"), plain);
  const report = (lines: string[]) =>
    lines.filter((line) => line !== "" && !spinning.test(line))
      .map((line) => line.replace(/ \(\d+ ms\)$/, ""));
  assertEquals(report(lines), report(plain.split("\n")));
});

Deno.test("a development command shows its progress on a terminal, and only its lines elsewhere", async () => {
  const command = [Deno.execPath(), "task", "--quiet", "soak", "--tunnels=3000", "--seed=1"];
  const shown = await outputOf(command, true);
  assertMatch(shown, /█+░* \d+ %, \d+ s left: \d+ of 3000 tunnels/);
  assertMatch(shown, /^PASS\r?$/m);
  const plain = await outputOf(command, false);
  assert(!plain.includes("\x1b") && !plain.includes("█"), plain);
  assertMatch(plain, /^PASS$/m);
});
