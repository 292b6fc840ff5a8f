// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** squid and tinyproxy between proxy-agent, which uses TCP, and the server. */
import { assertEquals } from "@std/assert";
import { makeCerts } from "../../certs/make.ts";
import { patternStream, sha256 } from "../support/pattern.ts";
import {
  agentFlags,
  anyPort,
  serverFlags,
  startOrigin,
  startProgram,
} from "../support/processes.ts";
import { TcpRelay } from "../support/tcp_relay.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { run } from "./support/programs.ts";
import { freePort, Service } from "./support/service.ts";

const BYTES = 20_000_000;

/** A proxy that admits one user, and CONNECT to some ports only. */
interface Proxy {
  readonly program: "squid" | "tinyproxy";
  readonly password: string;
  /** The configuration, and files in a folder that it needs. */
  configure(dir: string, port: number, allowed: number): Promise<string>;
  /** How it is told to stay in the foreground. */
  readonly args: readonly string[];
}

const proxies: readonly Proxy[] = [
  {
    program: "squid",
    password: "p@ss:w rd",
    args: ["-N", "-d", "1", "-f"],
    async configure(dir, port, allowed) {
      const { text } = await run("openssl", ["passwd", "-apr1", this.password]);
      await Deno.writeTextFile(`${dir}/passwords`, `agent:${text}\n`);
      // It gives up the rights of root.
      await Deno.chmod(dir, 0o755);
      return `
        http_port 127.0.0.1:${port}
        auth_param basic program /usr/lib/squid/basic_ncsa_auth ${dir}/passwords
        auth_param basic realm test
        acl users proxy_auth REQUIRED
        acl allowed port ${allowed}
        http_access deny !allowed
        http_access allow users
        http_access deny all
        pid_filename none
        access_log none
        cache_log /dev/null
        cache deny all
        coredump_dir ${dir}
        shutdown_lifetime 1 seconds
      `;
    },
  },
  {
    program: "tinyproxy",
    // It takes no others.
    password: "password1",
    args: ["-d", "-c"],
    configure: (_, port, allowed) =>
      Promise.resolve(`
        Port ${port}
        Listen 127.0.0.1
        Timeout 60
        MaxClients 20
        BasicAuth agent password1
        ConnectPort ${allowed}
      `),
  },
];

for (const proxy of proxies) {
  const { program, args, password } = proxy;
  Deno.test(`an agent connects through ${program}, and says why where it cannot`, async () => {
    await using stack = new AsyncDisposableStack();
    const { path: dir } = stack.use(await temporaryFolder());
    await makeCerts(dir);
    const server = stack.use(startProgram("server", {
      ...anyPort,
      "listen-fallback": "127.0.0.1:0",
      "agent-wait": "20s",
      ...serverFlags(dir),
    }));
    const [, clients] = await server.line(/tcp listener on ([\d.:]+)/);
    const [, fallback] = await server.line(/fallback listener on ([\d.:]+)/);
    const port = freePort();
    const path = `${dir}/${program}.conf`;
    const allowed = Number(fallback!.split(":")[1]);
    await Deno.writeTextFile(path, await proxy.configure(dir, port, allowed));
    stack.use(await Service.start(program, [...args, path], port));
    const relay = stack.use(new TcpRelay({ hostname: "127.0.0.1", port }));
    const start = (user: string, to = fallback!) =>
      stack.use(startProgram("agent", {
        server: to,
        transport: "tcp",
        proxy: `http://${user}127.0.0.1:${relay.addr.port}`,
        ...agentFlags(dir),
      }));
    const user = `agent:${encodeURIComponent(password)}@`;

    const refused: [user: string, to: string | undefined, problem: string][] = [
      ["", undefined, 'hint="the proxy wants a user name'],
      ["agent:x@", undefined, 'hint="the proxy does not accept the user name'],
      [user, "127.0.0.1:1", '403 .* hint="the proxy does not allow CONNECT'],
    ];
    for (const [user, to, problem] of refused) {
      await using agent = start(user, to);
      await agent.line(
        new RegExp(`"cannot connect to the server" .*error="proxy \\S+: answered .*${problem}`),
      );
    }

    // The proxy resolves the name.
    const agent = start(user, `localhost:${allowed}`);
    const { port: origin } = stack.use(await startOrigin());
    using client = Deno.createHttpClient({ proxy: { url: `http://${clients}` } });
    const download = async (size: number) => {
      const response = await fetch(`http://127.0.0.1:${origin}/bytes/${size}`, { client });
      assertEquals(await sha256(response.body!), await sha256(patternStream(size)));
    };
    await download(BYTES);

    // A proxy that hangs, and then does not.
    relay.stall();
    await agent.line(/"cannot connect to the server".*proxy \S+: no answer within/, 20_000);
    relay.resume();
    await download(1_000);
    const said = agent.lines.join("\n");
    assertEquals(
      [password, encodeURIComponent(password)].some((text) => said.includes(text)),
      false,
    );
  });
}
