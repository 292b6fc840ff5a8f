// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Three networks behind one server, with curl, OpenSSH and MariaDB: as docs/networks.md has them, and at once. */
import { fileURLToPath } from "node:url";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { pipeDuplex } from "../../lib/tunnel/pipe.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import type { ProgramTask } from "../../tools/project_program.ts";
import { CertificateFiles } from "../support/certificate_files.ts";
import { readExactly } from "../support/memory_duplex.ts";
import { patternStream, sha256 } from "../support/pattern.ts";
import { ChildProgram, programArguments, startOrigin, startProgram } from "../support/processes.ts";
import { read } from "../support/repository.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { Dialogue } from "./support/dialogue.ts";
import { startMariaDbServer } from "./support/mariadb.ts";
import { startOpenSsh } from "./support/openssh.ts";
import { pathOf, run } from "./support/programs.ts";
import { freePort } from "./support/service.ts";
import { startKnowing } from "./support/tunnel.ts";

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

const NETWORKS = ["cluster-a", "cluster-b", "bastion"] as const;
const OK = "HTTP/1.1 200 OK\r\n\r\n";
const NAME = "private.internal";
const BODY_BYTES = 20_000_000;

/** A port whose clients get to a target through a server that speaks CONNECT, for clients that do not. */
function startConnecting(serverPort: number, target: string) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serve = async (client: Deno.TcpConn) => {
    await using near = tcpDuplex(client);
    await using far = tcpDuplex(await Deno.connect({ hostname: "127.0.0.1", port: serverPort }));
    await writeAll(
      far,
      new TextEncoder().encode(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`),
    );
    assertEquals(new TextDecoder().decode(await readExactly(far, OK.length)), OK);
    await pipeDuplex(near, far);
  };
  const serving: Promise<void>[] = [];
  const accepting = (async () => {
    for await (const client of listener) serving.push(serve(client));
  })();
  return {
    port: listener.addr.port,
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
      await Promise.all(serving);
    },
  };
}

Deno.test("OpenSSH, MariaDB and curl are carried at once to three networks behind one server", async () => {
  await using stack = new AsyncDisposableStack();
  const files = stack.use(await CertificateFiles.create());
  for (const name of NETWORKS) await files.issue(name);
  const ssh = stack.use(await startOpenSsh());
  const db = stack.use(await startMariaDbServer());
  // The same name and port are something else in each of two networks.
  const authority = `${NAME}:${db.port}`;
  const web = { hostname: "127.0.0.2", port: db.port, onListen: () => {} };
  stack.use(Deno.serve(web, () => new Response(patternStream(BODY_BYTES))));

  const server = stack.use(
    new ChildProgram(Deno.execPath(), [
      ...programArguments("server", { "listen-quic": "127.0.0.1:0", v: 2, ...files.server() }),
      ...NETWORKS.map((name) => `--listen-tcp=127.0.0.1:0@${name}`),
    ]),
  );
  const portOf = async (name: string) => {
    const [, port] = await server.line(new RegExp(`tcp listener on .*:(\\d+)" .*group=${name}`));
    return Number(port);
  };
  const [a, b, bastion] = [
    await portOf("cluster-a"),
    await portOf("cluster-b"),
    await portOf("bastion"),
  ];
  const [, quic] = await server.line(/quic listener on .*:(\d+)"/);
  const flagsOf = (name: string) => ({ server: `127.0.0.1:${quic}`, ...files.agent(name) });
  for (const [name, ip] of [["cluster-a", "127.0.0.1"], ["cluster-b", "127.0.0.2"]] as const) {
    const { path: dir } = stack.use(await temporaryFolder());
    const flags = { ...flagsOf(name), allow: NAME };
    stack.use(await startKnowing({ names: [NAME], dir, ip }, "agent", flags));
  }
  const upstream = `127.0.0.1:${ssh.port}`;
  stack.use(startProgram("passthrough", { ...flagsOf("bastion"), upstream }));
  for (const name of NETWORKS) {
    await server.line(new RegExp(`"agent connected" .*groups=${name}`));
  }

  const connecting = stack.use(startConnecting(a, authority));
  await using query = new Dialogue("mariadb", [
    ..."--no-defaults --protocol=tcp --skip-ssl --host=127.0.0.1 --user=root".split(" "),
    ..."--batch --raw --skip-column-names --unbuffered".split(" "),
    `--port=${connecting.port}`,
  ]);
  const args = await ssh.client("HostName 127.0.0.1", `Port ${bastion}`);
  await using shell = new Dialogue("ssh", [...args, ssh.host, "tr a-z A-Z; echo ended"]);
  await query.say("SELECT 'sum', 40 + 2;");
  await query.hear(/^sum\t42$/m);
  await shell.say("hello");
  const proxied = ["-sSf", "--proxytunnel", "--proxy", `http://127.0.0.1:${b}`];
  const { bytes } = await run("curl", [...proxied, `http://${authority}/`]);
  assertEquals(await sha256(new Blob([bytes]).stream()), await sha256(patternStream(BODY_BYTES)));
  // Both have been open meanwhile, and go on.
  await query.say("SELECT 'again', REPEAT('x', 3);");
  await query.hear(/^again\txxx$/m);
  await shell.close();
  await shell.hear(/^HELLO\nended$/m);
  await query.close();
  assertEquals([(await shell.status).code, (await query.status).code], [0, 0]);
  for (const name of NETWORKS) {
    await server.line(new RegExp(`"tunnel ended" .*group=${name} .*agent=${name} `));
  }
});

/** The same private address in two networks, and a server that is in neither. */
Deno.test("curl reaches one address in two networks by two listeners, beside OpenSSH by a third", async () => {
  await using stack = new AsyncDisposableStack();
  const files = stack.use(await CertificateFiles.create());
  for (const name of NETWORKS) await files.issue(name);
  const ssh = stack.use(await startOpenSsh());
  const id = crypto.randomUUID().slice(0, 8);
  const namespace = async (name: string) => {
    await run("ip", ["netns", "add", `${name}-${id}`]);
    stack.defer(() => run("ip", ["netns", "delete", `${name}-${id}`]).then(() => {}));
    const ip = (...args: string[]) => run("ip", ["-n", `${name}-${id}`, ...args]);
    await ip("link", "set", "lo", "up");
    const within = ["netns", "exec", `${name}-${id}`];
    const start = (command: string, args: readonly string[], name: string) =>
      stack.use(new ChildProgram("ip", [...within, command, ...args], { name }));
    return { name: `${name}-${id}`, ip, within, start };
  };
  const hub = await namespace("hub");
  const server = hub.start(Deno.execPath(), [
    ...programArguments("server", { "listen-quic": "0.0.0.0:0", v: 2, ...files.server() }),
    ...NETWORKS.map((name) => `--listen-tcp=127.0.0.1:0@${name}`),
  ], "server");
  const [, quic] = await server.line(/quic listener on .*:(\d+)"/);
  const ports: string[] = [];
  for (const name of NETWORKS) {
    const [, port] = await server.line(new RegExp(`tcp listener on .*:(\\d+)" .*group=${name}`));
    ports.push(port!);
  }

  for (const [i, name] of (["cluster-a", "cluster-b"] as const).entries()) {
    const network = await namespace(name);
    const [near, far] = [`192.0.2.${4 * i + 1}`, `192.0.2.${4 * i + 2}`];
    const wire = `wire${i}`;
    await hub.ip("link", "add", wire, "type", "veth", "peer", "wire", "netns", network.name);
    await hub.ip("address", "add", `${near}/30`, "dev", wire);
    await hub.ip("link", "set", wire, "up");
    await network.ip("address", "add", `${far}/30`, "dev", "wire");
    await network.ip("address", "add", "10.0.0.1/32", "dev", "lo");
    await network.ip("link", "set", "wire", "up");
    const origin = fileURLToPath(new URL("../support/private_origin.ts", import.meta.url));
    const args = ["run", "--no-prompt", "--allow-net=10.0.0.1", origin, `of ${name}`];
    await network.start(Deno.execPath(), args, "origin").line(/listening/);
    const flags = { server: `${near}:${quic}`, ...files.agent(name), allow: "10.0.0.0/8" };
    network.start(Deno.execPath(), programArguments("agent", flags), name);
  }
  const flags = { server: `127.0.0.1:${quic}`, ...files.agent("bastion") };
  const upstream = `127.0.0.1:${ssh.port}`;
  hub.start(Deno.execPath(), programArguments("passthrough", { ...flags, upstream }), "bastion");
  await hub.start(pathOf("sshd"), ["-D", "-e", "-f", `${ssh.dir}/sshd_config`], "sshd")
    .line(/Server listening/);
  for (const name of NETWORKS) await isConnected(server, name);

  const login = await ssh.client("HostName 127.0.0.1", `Port ${ports[2]}`);
  await using shell = new Dialogue("ip", [
    ...hub.within,
    "ssh",
    ...login,
    ssh.host,
    "tr a-z A-Z; echo ended",
  ]);
  await shell.say("hello");
  const get = async (port: string) => {
    const curl = ["curl", "-sSf", "--noproxy", ",", "-p", "--proxy", `http://127.0.0.1:${port}`];
    return (await run("ip", [...hub.within, ...curl, "http://10.0.0.1/"])).text;
  };
  const [a, b] = ports as [string, string];
  assertEquals(await Promise.all([get(a), get(b), get(b), get(a)]), [
    "of cluster-a",
    "of cluster-b",
    "of cluster-b",
    "of cluster-a",
  ]);
  await shell.close();
  await shell.hear(/^HELLO\nended$/m);
  assertEquals((await shell.status).code, 0);
  for (const name of NETWORKS) {
    await server.line(new RegExp(`"tunnel ended" .*group=${name} .*agent=${name} `));
  }
});
