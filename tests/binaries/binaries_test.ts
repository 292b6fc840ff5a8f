// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The compiled programs. Needs `deno task compile` before. */
import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { fileURLToPath } from "node:url";
import { makeCerts } from "../../certs/make.ts";
import project from "../../deno.json" with { type: "json" };
import { commandOutput } from "../../tools/command_output.ts";
import {
  flagArguments,
  type Flags,
  type ProgramTask,
  programTasks,
} from "../../tools/project_program.ts";
import {
  agentFlags,
  anyPort,
  ChildProgram,
  programArguments,
  serverFlags,
  startOrigin,
} from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const PROMPT_MS = 20_000;
/** Only the server has what makes certificates. */
const MAX_PROGRAM_BYTES = { server: 106_000_000, agent: 105_000_000, passthrough: 105_000_000 };

/** Those of HTTP proxies, which agents read, and of CAs, which they change on Deno's own QUIC. */
const AGENT_VARIABLES = [
  "HTTPS_PROXY",
  "https_proxy",
  "NO_PROXY",
  "no_proxy",
  "DENO_CERT",
  "DENO_TLS_CA_STORE",
  "NODE_EXTRA_CA_CERTS",
];

const certs = await Deno.makeTempDir();
await makeCerts(certs);
const serverFiles = serverFlags(certs);

function pathOf(program: ProgramTask): string {
  return fileURLToPath(new URL(`../../dist/proxy-${program}`, import.meta.url));
}

/**
 * Starts a program with an empty environment.
 *
 * @param before commands of the shell that starts it
 */
function start(program: ProgramTask, flags: Flags, before = ""): ChildProgram {
  const script = `${before}\nexec env -i "$0" "$@"`;
  return new ChildProgram("sh", ["-ec", script, pathOf(program), ...flagArguments(flags)]);
}

async function outputOf(child: ChildProgram): Promise<{ text: string; code: number }> {
  const { code } = await child.status;
  // Until all that it has written was read.
  await child[Symbol.asyncDispose]();
  return { text: child.lines.join("\n"), code };
}

/** What curl gets. */
async function curl(...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await commandOutput("curl", [
    "--silent",
    "--show-error",
    "--fail",
    "--max-time",
    "20",
    ...args,
  ]);
  assert(success, stderr);
  return stdout;
}

Deno.test("the programs end at the second signal, and wrong starts, as they do with Deno", async () => {
  await using origin = await startOrigin();
  await using server = start("server", { ...anyPort, ...serverFiles });
  const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/, PROMPT_MS);
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/, PROMPT_MS);
  await using agent = start("agent", { server: quic!, ...agentFlags(certs) });
  await agent.line(/"connected to quic server"/, PROMPT_MS);
  using client = await Deno.connect({ hostname: "127.0.0.1", port: Number(tcp) });
  const target = `127.0.0.1:${origin.port}`;
  await client.write(
    new TextEncoder().encode(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`),
  );
  assert(await client.read(new Uint8Array(100)));
  server.kill("SIGTERM");
  await server.line(/"draining"/);
  server.kill("SIGTERM");
  assertEquals((await server.status).code, 128 + 15);

  const typo = await outputOf(start("server", { "lissten-tcp": "x" }));
  assertEquals(typo.code, 2);
  assertEquals(typo.text, "proxy-server: unknown flag --lissten-tcp; did you mean --listen-tcp?");
});

Deno.test("the programs have their admin listener, and no debugger listens at SIGUSR1", async () => {
  const flags = { ...anyPort, ...serverFiles, "listen-admin": "127.0.0.1:0" };
  await using server = start("server", flags);
  const [, admin] = await server.line(/admin listener on (127\.0\.0\.1:\d+)/, PROMPT_MS);
  const get = (path: string) => curl(`http://${admin}${path}`);
  assertEquals(await get("/livez"), "ok\n");
  assertStringIncludes(await get("/metrics"), "quic_tunnel_server_ready 0\n");
  assertStringIncludes(await get("/"), "No agent is connected");
  assertStringIncludes(await get("/version"), "x86_64-unknown-linux-gnu");
  server.kill("SIGUSR1");
  server.kill("SIGUSR2");
  await server.line(/INF snapshot "snapshot" peers=0 tunnels=0/);
  assertEquals(server.lines.filter((line) => /debugger/i.test(line)), []);
});

for (const program of programTasks) {
  Deno.test(`proxy-${program} has the flags that deno task ${program} has, and its version and commit`, async () => {
    const compiled = await outputOf(start(program, { help: "true" }));
    const args = programArguments(program, { help: "true" });
    const interpreted = await outputOf(new ChildProgram(Deno.execPath(), args));
    assertEquals(compiled, interpreted);
    const { text } = await outputOf(start(program, { version: "true" }));
    assertMatch(
      text,
      new RegExp(
        `^proxy-${program} ${project.version.replaceAll(".", "\\.")} ` +
          `\\(commit (?:[0-9a-f]{40}(?:-dirty)?|unknown), Deno [\\d.]+, x86_64-unknown-linux-gnu\\)$`,
      ),
    );
  });

  Deno.test(`proxy-${program} has at most ${MAX_PROGRAM_BYTES[program] / 1e6} MB`, async () => {
    const { size } = await Deno.stat(pathOf(program));
    assertLessOrEqual(size, MAX_PROGRAM_BYTES[program]);
  });

  Deno.test(`proxy-${program} has the permissions of its task compiled in, and no others`, async () => {
    const bytes = await Deno.readFile(pathOf(program));
    // Metadata follows Deno's runtime, whose texts have the word as well.
    const metadata = new TextDecoder("latin1").decode(bytes.subarray(-20_000_000));
    const found = /"permissions":(\{"allow[^{}]*\})/.exec(metadata);
    assert(found, "permissions in the metadata of the program");
    const permissions: Record<string, unknown> = JSON.parse(found[1]!);
    delete permissions.allow_import; // overruled
    const granted = Object.entries(permissions).filter(([, value]) =>
      value !== null && value !== false
    );
    assertEquals(Object.fromEntries(granted), {
      allow_env: ["QRHT_*", ...(program === "server" ? [] : AGENT_VARIABLES)],
      allow_ffi: [],
      allow_net: [],
      allow_read: [],
      // Given up before the server listens to anybody.
      ...(program === "server" && { allow_write: [] }),
      deny_import: [],
    });
  });
}

Deno.test("a program that can run its library nowhere says so in one line", async () => {
  // No file may have more than 512 bytes, those in memory included.
  const before = "trap '' XFSZ; ulimit -f 1";
  const { text, code } = await outputOf(
    start("server", { ...anyPort, ...serverFiles }, before),
  );
  assertEquals(code, 1);
  assertStringIncludes(text, "proxy-server: cannot load the QUIC library: ");
  assertEquals(text.split("\n").length, 1, text);
});

globalThis.addEventListener("unload", () => Deno.removeSync(certs, { recursive: true }));

Deno.test("the agents run on Deno's own QUIC, and let in no server of another CA there", async () => {
  await using others = await temporaryFolder();
  await makeCerts(others.path);
  await using origin = await startOrigin();
  await using server = start("server", { ...anyPort, ...serverFiles });
  const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/, PROMPT_MS);
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/, PROMPT_MS);
  const onDeno = { server: quic!, ...agentFlags(certs), "quic-library": "deno" };

  await using agent = start("agent", onDeno);
  await agent.line(/"connected to quic server" .* library=deno/, PROMPT_MS);
  const { port } = origin;
  const url = `http://127.0.0.1:${port}/bytes/1000000`;
  const direct = await curl(url);
  assert(await curl("--proxytunnel", "--proxy", `127.0.0.1:${tcp}`, url) === direct);
  agent.kill("SIGTERM");
  assertEquals((await agent.status).code, 0);

  await using passthrough = start("passthrough", { ...onDeno, upstream: `127.0.0.1:${port}` });
  await passthrough.line(/"connected to quic server" .* library=deno/, PROMPT_MS);
  assert(await curl(`http://127.0.0.1:${tcp}/bytes/1000000`) === direct);

  const ca = `${certs}/ca.pem`;
  const elsewhere: readonly Readonly<Record<string, string>>[] = [
    { DENO_CERT: ca },
    { NODE_EXTRA_CA_CERTS: ca },
    { DENO_TLS_CA_STORE: "system", SSL_CERT_FILE: ca },
  ];
  const wrong = { ...onDeno, "ca-file": `${others.path}/ca.pem` };
  for (const env of elsewhere) {
    await using agent = new ChildProgram(pathOf("agent"), flagArguments(wrong), { env });
    const [line] = await agent.line(/.*"(?:cannot connect to the|connected to quic) server".*/);
    assertStringIncludes(line, "certificate is not of a CA in --ca-file", JSON.stringify(env));
  }
});
