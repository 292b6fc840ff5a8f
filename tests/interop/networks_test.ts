// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The steps of docs/networks.md from one network to three, with curl, OpenSSH and MariaDB. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { ProgramTask } from "../../tools/project_program.ts";
import { ChildProgram, programArguments, startOrigin } from "../support/processes.ts";
import { read } from "../support/repository.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { startMariaDbServer } from "./support/mariadb.ts";
import { startOpenSsh } from "./support/openssh.ts";
import { run } from "./support/programs.ts";
import { freePort } from "./support/service.ts";

/** The commands of the section, in order. */
function commands(): string[] {
  const [, section] = read("docs/networks.md").split("\n## From one network to three\n");
  assert(section !== undefined);
  return Array.from(
    section.split("\n## ")[0]!.matchAll(/^```text\n([^]*?)^```$/gm),
    ([, block]) => block!.trimEnd().split("\n"),
  ).flat();
}

Deno.test("docs/networks.md leads from one network to three, for curl, ssh and mariadb", async () => {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  const origin = stack.use(await startOrigin());
  const ssh = stack.use(await startOpenSsh());
  const database = stack.use(await startMariaDbServer());
  const sshArgs = await ssh.client("HostName 127.0.0.1");
  const env = { QRHT_LISTEN_QUIC: `127.0.0.1:${freeUdpPort()}` };
  const here: Readonly<Record<string, string>> = {
    "192.0.2.1": "127.0.0.1",
    "10.0.0.1/": `127.0.0.1:${origin.port}/bytes/1000`,
    "10.0.0.2:22": `127.0.0.1:${ssh.port}`,
    "10.0.0.3:3306": `127.0.0.1:${database.port}`,
    " certs": ` ${dir}/certs`,
    "=certs": `=${dir}/certs`,
    ...Object.fromEntries(
      ["office", "lab", "store"].map((name) => [`=${name}.join`, `=${dir}/${name}.join`]),
    ),
    ...Object.fromEntries(["8443", "2222", "3307", "8095"].map((port) => [port, `${freePort()}`])),
    " user@127.0.0.1": ` ${sshArgs.join(" ")} ${ssh.host} echo hello`,
    "mariadb ": "mariadb --no-defaults --protocol=tcp --skip-ssl --user=root --batch --raw -N ",
    "curl ": "curl -sSf --noproxy , ", // whatever the environment says of proxies
  };
  const texts = new RegExp(Object.keys(here).map((text) => RegExp.escape(text)).join("|"), "g");
  const lines = commands().map((line) => line.replaceAll(texts, (text) => here[text]!).split(" "));
  /** The next command, which must be of this program. */
  const next = (program: string): string[] => {
    const [name, ...args] = lines.shift() ?? [];
    assertEquals(name, program);
    return args;
  };
  const start = (task: ProgramTask) => {
    const args = next(`proxy-${task}`);
    return new ChildProgram(Deno.execPath(), [...programArguments(task), ...args], {
      name: task,
      ...(task === "server" && { env }),
    });
  };
  const makeCertificates = async () => {
    await using maker = start("server");
    assertEquals((await maker.status).code, 0, maker.lastLines);
  };

  await makeCertificates();
  let server = start("server");
  stack.defer(() => server[Symbol.asyncDispose]());
  const startAgain = async () => {
    await server[Symbol.asyncDispose]();
    server = start("server");
  };
  stack.use(start("agent"));
  await server.line(/"agent connected"/);
  const fetchOffice = next("curl");
  const isOfficeReached = async () =>
    assertEquals((await run("curl", fetchOffice)).bytes.length, 1000);
  await isOfficeReached();

  await makeCertificates();
  await startAgain();
  stack.use(start("passthrough"));
  for (const name of ["office", "lab"]) await isConnected(server, name);
  const logIn = next("ssh");
  const isLabReached = async () => assertEquals((await run("ssh", logIn)).text, "hello");
  await Promise.all([isOfficeReached(), isLabReached()]);

  await makeCertificates();
  await startAgain();
  stack.use(start("passthrough"));
  for (const name of ["office", "lab", "store"]) await isConnected(server, name);
  const askDatabase = next("mariadb");
  const isStoreReached = async () =>
    assertEquals((await run("mariadb", askDatabase, { stdin: "SELECT 6 * 7" })).text, "42");
  await Promise.all([isOfficeReached(), isLabReached(), isStoreReached()]);
  const { text } = await run("curl", next("curl"));
  for (const name of ["office", "lab", "store"]) {
    assertStringIncludes(text, `[+]group ${name} ok\n`);
  }
  assertEquals(lines, []);
});

async function isConnected(server: ChildProgram, agent: string): Promise<void> {
  await server.line(new RegExp(`"agent connected".* groups=${agent}`));
}

function freeUdpPort(): number {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  socket.close();
  return (socket.addr as Deno.NetAddr).port;
}
