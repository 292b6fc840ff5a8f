// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The compiled programs, in roots that hold what their images hold. Needs root, and `deno task compile` before. */
import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import project from "../../deno.json" with { type: "json" };
import {
  agentFlags,
  anyPort,
  ChildProgram,
  programArguments,
  serverFlags,
  startOrigin,
} from "../support/processes.ts";
import { ImageRoots, images } from "./support/image_root.ts";

const PROMPT_MS = 20_000;
const BYTES = 5_000_000;
/** Only the server has what makes certificates. */
const MAX_PROGRAM_BYTES = { server: 105_000_000, agent: 104_000_000, passthrough: 104_000_000 };

const serverFiles = serverFlags("/certs");
const agentFiles = agentFlags("/certs");

const roots = await ImageRoots.make();

async function outputOf(child: ChildProgram): Promise<{ text: string; code: number }> {
  const { code } = await child.status;
  // Until all that it has written was read.
  await child[Symbol.asyncDispose]();
  return { text: child.lines.join("\n"), code };
}

/** Starts a server, and an agent of an image, and tells the port for clients. */
async function startPair(
  image: "quic-client" | "quic-client-tcp",
  flags: Record<string, string>,
  options: { readonly tmp: boolean },
) {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(
    roots.start("quic-server", { ...anyPort, ...serverFiles, v: 2 }, options),
  );
  const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/, PROMPT_MS);
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/, PROMPT_MS);
  const agent = stack.use(
    roots.start(image, { server: quic!, ...agentFiles, ...flags, v: 2 }, options),
  );
  await agent.line(/"connected to quic server"/, PROMPT_MS);
  const all = stack.move();
  return { server, agent, tcp: Number(tcp), [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** What curl gets. */
async function curl(...args: string[]): Promise<Uint8Array> {
  const { success, stdout, stderr } = await new Deno.Command("curl", {
    args: ["--silent", "--show-error", "--fail", "--max-time", "20", ...args],
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return stdout;
}

async function sha256(bytes: BufferSource): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

for (const tmp of [true, false]) {
  const where = tmp ? "with a writable /tmp" : "in a read-only root without /tmp";
  const expected = { tmp };

  Deno.test(`proxy-server and proxy-agent carry CONNECT, ${where}`, async () => {
    await using origin = await startOrigin();
    const direct = `http://127.0.0.1:${origin.port}/bytes/${BYTES}`;
    const before = await Promise.all(
      ["quic-server", "quic-client"].map((name) => roots.filesOf(name)),
    );
    {
      await using pair = await startPair("quic-client", {}, expected);
      const proxy = ["--proxytunnel", "--proxy", `127.0.0.1:${pair.tcp}`];
      const body = await curl(...proxy, direct) as Uint8Array<ArrayBuffer>;
      assertEquals(body.length, BYTES);
      assertEquals(await sha256(body), await sha256(await curl(direct) as Uint8Array<ArrayBuffer>));
      await pair.server.line(/"tunnel ended" .* reason=end/);

      for (const program of [pair.server, pair.agent]) {
        const status = await Deno.readTextFile(`/proc/${program.pid}/status`);
        assertMatch(status, /^Uid:\t65532\t65532\t65532\t65532$/m);
        program.kill("SIGHUP");
        await program.line(/"certificates (?:reloaded|unchanged)"/);
        program.kill("SIGTERM");
        assertEquals((await program.status).code, 0);
      }
    }
    if (tmp) {
      const after = await Promise.all(
        ["quic-server", "quic-client"].map((name) => roots.filesOf(name)),
      );
      const withoutTmp = (text: string) =>
        text.split("\n").filter((line) => !/^(?:tmp)? /.test(line));
      assertEquals(after.map(withoutTmp), before.map(withoutTmp), "what the programs have written");
    }
  });

  Deno.test(`proxy-server and proxy-passthrough carry a fixed upstream, ${where}`, async () => {
    await using origin = await startOrigin();
    const upstream = `127.0.0.1:${origin.port}`;
    await using pair = await startPair("quic-client-tcp", { upstream }, expected);
    const body = await curl(`http://127.0.0.1:${pair.tcp}/bytes/${BYTES}`);
    assertEquals(body.length, BYTES);
    await pair.agent.line(/"tunnel ended" .* reason=end/);
  });
}

Deno.test("the programs end at the second signal, and wrong starts, as they do with Deno", async () => {
  await using origin = await startOrigin();
  await using pair = await startPair("quic-client", {}, { tmp: false });
  using client = await Deno.connect({ hostname: "127.0.0.1", port: pair.tcp });
  const target = `127.0.0.1:${origin.port}`;
  await client.write(
    new TextEncoder().encode(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`),
  );
  assert(await client.read(new Uint8Array(100)));
  pair.server.kill("SIGTERM");
  await pair.server.line(/"draining"/);
  pair.server.kill("SIGTERM");
  assertEquals((await pair.server.status).code, 128 + 15);

  const typo = await outputOf(roots.start("quic-server", { "lissten-tcp": "x" }));
  assertEquals(typo.code, 2);
  assertEquals(typo.text, "proxy-server: unknown flag --lissten-tcp; did you mean --listen-tcp?");
});

Deno.test("the programs have their admin listener, and no debugger listens at SIGUSR1", async () => {
  const flags = { ...anyPort, ...serverFiles, "listen-admin": "127.0.0.1:0" };
  await using server = roots.start("quic-server", flags);
  const [, admin] = await server.line(/admin listener on (127\.0\.0\.1:\d+)/, PROMPT_MS);
  const get = async (path: string) =>
    new TextDecoder().decode(await curl(`http://${admin}${path}`));
  assertEquals(await get("/livez"), "ok\n");
  assertStringIncludes(await get("/metrics"), "quic_tunnel_server_ready 0\n");
  assertStringIncludes(await get("/"), "No agent is connected");
  assertStringIncludes(await get("/version"), "x86_64-unknown-linux-gnu");
  server.kill("SIGUSR1");
  server.kill("SIGUSR2");
  await server.line(/INF snapshot "snapshot" peers=0 tunnels=0/);
  assertEquals(server.lines.filter((line) => /debugger/i.test(line)), []);
});

for (
  const [image, program] of [
    ["quic-server", "server"],
    ["quic-client", "agent"],
    ["quic-client-tcp", "passthrough"],
  ] as const
) {
  Deno.test(`proxy-${program} has the flags that deno task ${program} has, and its version and commit`, async () => {
    const compiled = await outputOf(roots.start(image, { help: "true" }));
    const args = programArguments(program, { help: "true" });
    const interpreted = await outputOf(new ChildProgram(Deno.execPath(), args));
    assertEquals(compiled, interpreted);
    const { text } = await outputOf(roots.start(image, { version: "true" }));
    assertMatch(
      text,
      new RegExp(
        `^proxy-${program} ${project.version.replaceAll(".", "\\.")} ` +
          `\\(commit (?:[0-9a-f]{40}(?:-dirty)?|unknown), Deno [\\d.]+, x86_64-unknown-linux-gnu\\)$`,
      ),
    );
  });

  Deno.test(`proxy-${program} has at most ${MAX_PROGRAM_BYTES[program] / 1e6} MB`, async () => {
    const { entrypoint } = images.find(({ name }) => name === image)!;
    const { size } = await Deno.stat(roots.of(image) + entrypoint[0]);
    assertLessOrEqual(size, MAX_PROGRAM_BYTES[program]);
  });

  Deno.test(`proxy-${program} has the permissions of its task compiled in, and no others`, async () => {
    const { entrypoint } = images.find(({ name }) => name === image)!;
    const bytes = await Deno.readFile(roots.of(image) + entrypoint[0]);
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
      allow_env: ["QRHT_*"],
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
    roots.start("quic-server", { ...anyPort, ...serverFiles }, { before }),
  );
  assertEquals(code, 1);
  assertStringIncludes(text, "proxy-server: cannot load the QUIC library: ");
  assertEquals(text.split("\n").length, 1, text);
});

globalThis.addEventListener("unload", () => Deno.removeSync(roots.dir, { recursive: true }));
