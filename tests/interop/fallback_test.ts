// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The load balancers of docs/fallback.md between proxy-agent, which uses TCP, and the server, with the configurations
 * in it.
 */
import { assert, assertEquals } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { assertSameBytes, pattern } from "../support/bytes.ts";
import { agentFlags, serverFlags, startProgram } from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { freePort, Service } from "./support/service.ts";

const document = await Deno.readTextFile(new URL("../../docs/fallback.md", import.meta.url));

/** The configurations below a title, in their order. */
function configurationsOf(title: string): string[] {
  const [, section = ""] = document.split(`### ${title}\n`);
  const [own = ""] = section.split("\n### ");
  return Array.from(own.matchAll(/```\n([^`]*)```/g), ([, text]) => text!);
}

const [haproxyTcp, haproxyHttp] = configurationsOf("HAProxy");
const [nginxTcp, nginxHttp] = configurationsOf("nginx");

const NGINX = `
  daemon off;
  error_log stderr;
  pid DIR/nginx.pid;
  load_module /usr/lib/nginx/modules/ngx_stream_module.so;
  events {}
`;
const TEMPORARY = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
  .map((name) => `${name}_temp_path DIR/${name};\n`).join("");

interface Balancer {
  readonly program: "haproxy" | "nginx";
  readonly configuration: string;
  /** Whether the server learns of it. */
  readonly sendsHeaders: boolean;
  /** Whether it asks for the server's health. */
  readonly checks: boolean;
}

const balancers: Readonly<Record<string, Balancer>> = {
  "HAProxy at the level of TCP": {
    program: "haproxy",
    configuration: haproxyTcp!,
    sendsHeaders: true,
    checks: true,
  },
  "HAProxy as an HTTP proxy": {
    program: "haproxy",
    configuration: haproxyHttp!,
    sendsHeaders: true,
    checks: true,
  },
  "nginx at the level of TCP": {
    program: "nginx",
    configuration: NGINX + nginxTcp!,
    sendsHeaders: true,
    checks: false,
  },
  "nginx as an HTTP proxy": {
    program: "nginx",
    configuration: NGINX + nginxHttp!.replace("http {", `http {\naccess_log off;\n${TEMPORARY}`),
    sendsHeaders: false,
    checks: false,
  },
};

const BYTES = pattern(20 << 20);

/** A target that gives what it has, and says how much it gets. */
function startTarget() {
  const { promise, resolve } = Promise.withResolvers<number>();
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => resolve(port),
  }, async (request) => {
    if (request.method === "GET") return new Response(BYTES);
    return new Response(await request.bytes());
  });
  return { port: promise, [Symbol.asyncDispose]: () => server.shutdown() };
}

for (const [name, balancer] of Object.entries(balancers)) {
  Deno.test(`${name}, as in docs/fallback.md, carries an agent whose network blocks UDP`, async () => {
    await using stack = new AsyncDisposableStack();
    const { path: dir } = stack.use(await temporaryFolder());
    await makeCerts(dir);
    const parts = ["server.pem", "server.key"].map((name) => Deno.readTextFile(`${dir}/${name}`));
    await Deno.writeTextFile(`${dir}/tls.pem`, (await Promise.all(parts)).join(""));
    const [port, upstream] = [freePort(), freePort()];
    const file = `${dir}/balancer.conf`;
    await Deno.writeTextFile(
      file,
      balancer.configuration
        .replaceAll("/etc/agents/", `${dir}/`)
        .replaceAll("DIR/", `${dir}/`)
        .replaceAll(
          /bind :443|listen 443/g,
          (text) => text.startsWith("bind") ? `bind 127.0.0.1:${port}` : `listen 127.0.0.1:${port}`,
        )
        .replaceAll("127.0.0.1:8888", `127.0.0.1:${upstream}`),
    );
    const args = balancer.program === "haproxy"
      ? ["-db", "-f", file]
      : ["-e", "stderr", "-p", dir, "-c", file];
    const server = stack.use(startProgram("server", {
      // Clients, unlike load balancers, send no header.
      "listen-tcp": "[::1]:0",
      "listen-quic": "127.0.0.1:0",
      "listen-fallback": `127.0.0.1:${upstream}`,
      ...(balancer.sendsHeaders && { "accept-proxy-protocol": "127.0.0.1/32" }),
      v: 2,
      ...serverFlags(dir),
    }));
    const [, clients] = await server.line(/tcp listener on \S*:(\d+)/);
    const [, quic] = await server.line(/quic listener on (\S+:\d+)/);
    const service = stack.use(await Service.start(balancer.program, args, port));
    if (balancer.checks) await server.line(/"health check".* front=fallback/);
    stack.use(startProgram("agent", {
      server: quic!,
      transport: "tcp",
      fallback: `127.0.0.1:${port}`,
      v: 2,
      ...agentFlags(dir),
    }));
    const [, address] = await server.line(/"agent connected".* remote=(\S+) .*transport=tcp/);
    const [line] = await server.line(/"agent carrier connected".*/);
    assertEquals(line.includes(` client=${address} via=127.0.0.1:`), balancer.sendsHeaders, line);

    const target = stack.use(startTarget());
    const url = `http://127.0.0.1:${await target.port}/`;
    using client = Deno.createHttpClient({ proxy: { url: `http://[::1]:${clients}` } });
    assertSameBytes(await (await fetch(url, { client })).bytes(), BYTES);
    const upload = await fetch(url, { client, method: "POST", body: BYTES });
    assertSameBytes(await upload.bytes(), BYTES);

    // All of its connections break, and it is back soon: the tunnel goes on.
    const response = await fetch(url, { client });
    const reader = response.body!.getReader();
    let got = (await reader.read()).value!.length;
    await service[Symbol.asyncDispose]();
    stack.use(await Service.start(balancer.program, args, port));
    for (let part; (part = (await reader.read()).value) !== undefined;) got += part.length;
    assertEquals(got, BYTES.length);
    assertEquals(server.lines.filter((text) => text.includes('"agent connected"')).length, 1);
    assert(!server.lines.some((text) => text.includes("refused")), server.lines.join("\n"));
  });
}
