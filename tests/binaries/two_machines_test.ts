// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The README's tunnel between two machines, word for word: two network namespaces, each with an
 * empty folder that has only the programs, and an unprivileged user. Needs root, and
 * `deno task compile` before.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { fileURLToPath } from "node:url";
import { commandOutput } from "../../tools/command_output.ts";
import { ChildProgram } from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const dist = fileURLToPath(new URL("../../dist/", import.meta.url));
const readme = await Deno.readTextFile(new URL("../../README.md", import.meta.url));

const NOBODY = 65534;
/** The address of the README's server. */
const SERVER = "192.0.2.1";
/** An address that only the agent's machine has. */
const PRIVATE = "10.0.0.1";

/** The commands in the README's section. */
function commandsOf(section: string): string[] {
  const [, text] = readme.split(`\n## ${section}\n`);
  assert(text, `README.md has no section ${section}`);
  return [...text.split("\n## ")[0]!.matchAll(/^```\w*\n(.+?)\n```$/gm)].map(([, line]) => line!);
}

async function run(command: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await commandOutput(command, args);
  assert(success, `${command} ${args.join(" ")}: ${stderr}`);
  return stdout;
}

/** A network namespace with a folder of an unprivileged user. */
class Machine {
  constructor(readonly name: string, readonly folder: string) {}

  /** Writes a file of the user's. */
  async #own(path: string, bytes: Uint8Array, mode: number): Promise<void> {
    await Deno.writeFile(path, bytes, { mode });
    await Deno.chmod(path, mode);
    await Deno.chown(path, NOBODY, NOBODY);
  }

  static async make(folder: string, name: string, program: string): Promise<Machine> {
    await Deno.mkdir(folder);
    await Deno.chown(folder, NOBODY, NOBODY);
    const machine = new Machine(name, folder);
    await machine.#own(`${folder}/${program}`, await Deno.readFile(`${dist}${program}`), 0o755);
    await run("ip", "netns", "add", name);
    await machine.ip("link", "set", "lo", "up");
    return machine;
  }

  ip(...args: string[]): Promise<string> {
    return run("ip", "-n", this.name, ...args);
  }

  /** Starts a command of the README as the unprivileged user. */
  start(command: string): ChildProgram {
    const line = ["cd", this.folder, "&&", `PATH=${this.folder}:$PATH`, "exec", command].join(" ");
    return new ChildProgram("ip", [
      "netns",
      "exec",
      this.name,
      "setpriv",
      `--reuid=${NOBODY}`,
      `--regid=${NOBODY}`,
      "--clear-groups",
      "env",
      "-i",
      "PATH=/usr/bin:/bin",
      "sh",
      "-c",
      line,
    ], { name: command.split(" ")[0]! });
  }

  async copyTo(other: Machine, file: string): Promise<void> {
    await other.#own(
      `${other.folder}/${file}`,
      await Deno.readFile(`${this.folder}/${file}`),
      0o600,
    );
  }
}

async function succeeds(program: ChildProgram): Promise<string[]> {
  const { code } = await program.status;
  await program[Symbol.asyncDispose]();
  assertEquals(code, 0, program.lines.join("\n"));
  return program.lines;
}

Deno.test("the README's three commands make a tunnel between two machines", async () => {
  const [makeCerts, startServer, startAgent, get, ...more] = commandsOf(
    "A tunnel between two machines",
  );
  assertEquals(more, []);
  await using folder = await temporaryFolder();
  await Deno.chmod(folder.path, 0o755);
  await using stack = new AsyncDisposableStack();
  const id = crypto.randomUUID().slice(0, 8);
  const namespaceOf = (machine: string) => {
    const name = `${machine}-${id}`;
    stack.defer(() => run("ip", "netns", "delete", name).then(() => {}));
    return name;
  };
  const server = await Machine.make(
    `${folder.path}/server`,
    namespaceOf("server"),
    "proxy-server",
  );
  const agent = await Machine.make(`${folder.path}/agent`, namespaceOf("agent"), "proxy-agent");
  await server.ip("link", "add", "wire", "type", "veth", "peer", "wire", "netns", agent.name);
  for (const [machine, address] of [[server, SERVER], [agent, "192.0.2.2"]] as const) {
    await machine.ip("address", "add", `${address}/24`, "dev", "wire");
    await machine.ip("link", "set", "wire", "up");
  }
  await agent.ip("address", "add", `${PRIVATE}/32`, "dev", "lo");

  await succeeds(server.start(makeCerts!));
  const proxyServer = stack.use(server.start(startServer!));
  await proxyServer.line(/"waiting for new quic client session"/, 20_000);
  await server.copyTo(agent, "node-1.join");
  const proxyAgent = stack.use(agent.start(startAgent!));
  await proxyAgent.line(/"connected to quic server"/, 20_000);

  const origin = fileURLToPath(new URL("../support/private_origin.ts", import.meta.url));
  const web = stack.use(
    new ChildProgram("ip", ["netns", "exec", agent.name, Deno.execPath(), "run", "-A", origin]),
  );
  await web.line(/listening/);
  assertMatch((await succeeds(server.start(`${get} -sS --fail --max-time 20`))).join(""), /^ok$/);
  assertEquals(proxyServer.lines.concat(proxyAgent.lines).filter((line) => / ERR /.test(line)), []);
});
