// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The images, run. Needs root, and `REGISTRY=registry.example/team IMAGE_TAG=v1 deno task docker-images` before. */
import { assert, assertEquals, assertMatch, assertObjectMatch } from "@std/assert";
import project from "../../deno.json" with { type: "json" };
import { commandOutput } from "../../tools/command_output.ts";
import { anyPort, ChildProgram, serverFlags, startOrigin } from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import {
  type ContainerOptions,
  type Image,
  podman,
  referenceOf,
  startContainer,
} from "./container.ts";

const PROMPT_MS = 30_000;
const BYTES = 5_000_000;
/** The user `nonroot` of distroless. */
const NONROOT = 65_532;

const programs = [
  ["quic-server", "/server", "proxy-server", ["8443/tcp", "8888/udp"]],
  ["quic-client", "/client", "proxy-agent", []],
  ["quic-client-tcp", "/client-tcp", "proxy-passthrough", []],
] as const;

/** A folder of this machine that belongs to the user of the images. */
async function volume() {
  const folder = await temporaryFolder();
  await Deno.chown(folder.path, NONROOT, NONROOT);
  return folder;
}

/** Waits for the end of a container. Returns all that it has written. */
async function succeeds(container: ChildProgram): Promise<string> {
  const { code } = await container.status;
  await container[Symbol.asyncDispose]();
  assertEquals(code, 0, container.lines.join("\n"));
  return container.lines.join("\n");
}

/** What curl gets. */
async function curl(...args: string[]): Promise<string> {
  const options = ["--silent", "--show-error", "--fail", "--max-time", "20"];
  const { success, stdout, stderr } = await commandOutput("curl", [...options, ...args]);
  assert(success, stderr);
  return stdout;
}

/** Starts a server, and an agent of an image, with certificates that the server's image makes. */
async function startPair(
  image: "quic-client" | "quic-client-tcp",
  { server: serverOptions = {}, agent: agentOptions = {}, volumes = {}, writable = false }: {
    readonly server?: Record<string, string>;
    readonly agent?: Record<string, string>;
  } & ContainerOptions,
) {
  await using stack = new AsyncDisposableStack();
  const certs = stack.use(await volume());
  const options = { volumes: { "/certs": certs.path, ...volumes }, writable };
  const start = (image: Image, flags: Record<string, string>) =>
    stack.use(startContainer(image, { ...flags, v: "2" }, options));
  const joining = { "agent-name": "node-1", bundle: "/certs/node-1.join" };
  const making = { "make-certs": "/certs", "cert-name": "127.0.0.1", ...joining };
  await succeeds(startContainer("quic-server", making, options));
  const server = start("quic-server", { ...anyPort, ...serverFlags("/certs"), ...serverOptions });
  const [, tcp] = await server.line(/tcp listener on 127\.0\.0\.1:(\d+)/, PROMPT_MS);
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/, PROMPT_MS);
  const agent = start(image, { server: quic!, join: joining.bundle, ...agentOptions });
  await agent.line(/"connected to quic server"/, PROMPT_MS);
  const all = stack.move();
  return { server, agent, tcp: Number(tcp), [Symbol.asyncDispose]: () => all.disposeAsync() };
}

for (const [image, entrypoint, program, ports] of programs) {
  Deno.test(`${image} says what it is, and runs ${program} as an unprivileged user`, async () => {
    const { stdout } = await podman("image", "inspect", referenceOf(image));
    const [{ Config: config }] = JSON.parse(stdout);
    assertEquals(config.Entrypoint, [entrypoint]);
    assertEquals(config.Cmd ?? [], []);
    assertEquals(config.User, `${NONROOT}`);
    assertEquals(Object.keys(config.ExposedPorts ?? {}), [...ports]);
    const label = "org.opencontainers.image";
    assertObjectMatch(config.Labels, {
      [`${label}.version`]: project.version,
      [`${label}.licenses`]: project.license,
    });
    const revision = config.Labels[`${label}.revision`];
    const version = await succeeds(startContainer(image, { version: "true" }));
    assert(
      version.startsWith(`${program} ${project.version} (commit ${revision}, Deno `),
      `${version}; revision ${revision}`,
    );
  });
}

Deno.test("the images carry CONNECT in read-only roots, and drain at SIGTERM as process 1", async () => {
  await using origin = await startOrigin();
  const direct = `http://127.0.0.1:${origin.port}/bytes/${BYTES}`;
  await using pair = await startPair("quic-client", {});
  const { server, agent, tcp } = pair;
  const proxy = ["--proxytunnel", "--proxy", `127.0.0.1:${tcp}`];
  assert(await curl(...proxy, direct) === await curl(direct), "the same bytes");
  await server.line(/"tunnel ended" .* reason=end/);
  for (const container of [server, agent]) {
    container.kill("SIGHUP");
    await container.line(/"certificates unchanged"/);
    const { stdout: pid } = await podman("inspect", "--format={{.State.Pid}}", container.name);
    const status = await Deno.readTextFile(`/proc/${pid.trim()}/status`);
    assertMatch(status, /^NSpid:\t\d+\t1$/m);
    assertMatch(status, /^Uid:\t65532\t65532\t65532\t65532$/m);
    assertMatch(status, /^CapEff:\t0+$/m);
  }

  // A tunnel that stays open is what draining waits for.
  using client = await Deno.connect({ hostname: "127.0.0.1", port: tcp });
  const target = `127.0.0.1:${origin.port}`;
  const send = (text: string) => client.write(new TextEncoder().encode(text));
  const receive = async () => {
    const buffer = new Uint8Array(1000);
    return new TextDecoder().decode(buffer.subarray(0, await client.read(buffer) ?? 0));
  };
  await send(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`);
  assertMatch(await receive(), /^HTTP\/1\.1 200 /);
  server.kill("SIGTERM");
  await server.line(/"draining"/);
  await send(`GET / HTTP/1.1\r\nHost: ${target}\r\nConnection: close\r\n\r\n`);
  assertMatch(await receive(), /^HTTP\/1\.1 200 /);
  client.close();
  assertEquals((await server.status).code, 0);
  agent.kill("SIGTERM");
  assertEquals((await agent.status).code, 0);
});

Deno.test("the images carry a fixed upstream from a Unix socket on a shared volume, and write nothing else", async () => {
  await using origin = await startOrigin();
  await using shared = await volume();
  await using pair = await startPair("quic-client-tcp", {
    server: { "uds-name": "/shared/front" },
    agent: { upstream: `127.0.0.1:${origin.port}` },
    volumes: { "/shared": shared.path },
    writable: true,
  });
  const front = ["--unix-socket", `${shared.path}/front`];
  assertEquals((await curl(...front, `http://origin/bytes/${BYTES}`)).length, BYTES);
  assertEquals((await curl(`http://127.0.0.1:${pair.tcp}/bytes/${BYTES}`)).length, BYTES);
  for (const container of [pair.server, pair.agent]) {
    const { stdout } = await podman("diff", "--format=json", container.name);
    const { changed = [], added = [], deleted = [] } = JSON.parse(stdout);
    // Mount points: of the engine's files, and of the volumes.
    assertEquals([changed, added.sort(), deleted], [["/etc"], ["/certs", "/shared"], []]);
  }
});
