// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The PROXY protocol as nginx and HAProxy read and write it. */
import { assertEquals, assertMatch } from "@std/assert";
import { lineAbout, startTunnel, type Tunnel } from "./support/tunnel.ts";
import {
  fetchWithCurl,
  startHaproxyFront,
  startHaproxyOrigin,
  startNginx,
  type WebServer,
} from "./support/web.ts";

const HOSTS = ["127.0.0.1", "[::1]"] as const;
const VERSIONS = ["v1", "v2"] as const;
/** How HAProxy is told to send them. */
const SEND = { v1: "send-proxy", v2: "send-proxy-v2" } as const;
/** Of this loopback address nobody but `curl --interface` makes use. */
const OTHER_HOST = "127.0.0.2";

/** The line that a web server has written for a path. */
async function lineFor(server: WebServer, path: string): Promise<string> {
  return (await server.service.line(new RegExp(`^.*${path}\\b.*$`)))[0];
}

/** Where clients connect to a tunnel, as nginx and HAProxy write it. */
const serverOf = ({ host, port }: Tunnel) => `${host.replace(/[[\]]/g, "")}:${port}`;

Deno.test("nginx behind passthrough without the PROXY protocol sees passthrough itself", async () => {
  await using nginx = await startNginx({ proxyProtocol: false });
  await using tunnel = await startTunnel({ upstream: nginx.port });
  const { status } = await fetchWithCurl(tunnel, "/plain");
  assertEquals(status, 200);
  assertMatch(await lineFor(nginx, "/plain"), new RegExp(` to 127.0.0.1:${nginx.port} .* 200$`));
});

/** Asserts that a server behind passthrough logs a client of each host with the line that is expected. */
async function assertLogged(
  t: Deno.TestContext,
  server: WebServer,
  version: typeof VERSIONS[number],
  expected: (tunnel: Tunnel, client: string, path: string) => string | Promise<string>,
): Promise<void> {
  for (const host of HOSTS) {
    await t.step(host, async () => {
      const agent = { "proxy-protocol": version };
      await using tunnel = await startTunnel({ host, upstream: server.port, agent });
      const path = `/${version}-${HOSTS.indexOf(host)}`;
      const { status, client } = await fetchWithCurl(tunnel, path);
      assertEquals(await lineFor(server, path), await expected(tunnel, client, path));
      assertEquals(status, 200);
    });
  }
}

for (const version of VERSIONS) {
  Deno.test(`nginx behind passthrough --proxy-protocol ${version} logs the client's address and the server's`, async (t) => {
    await using nginx = await startNginx({ proxyProtocol: true });
    await assertLogged(t, nginx, version, (tunnel, client, path) => {
      return `${client} to ${serverOf(tunnel)} "GET ${path} HTTP/1.1" 200`;
    });
  });

  Deno.test(`HAProxy behind passthrough --proxy-protocol ${version} logs the client's address and the server's`, async (t) => {
    await using haproxy = await startHaproxyOrigin();
    await assertLogged(t, haproxy, version, async (tunnel, client, path) => {
      // Version 1 has no room for an identifier.
      const id = version === "v2" ? (await tunnelIdOf(tunnel, client)).toUpperCase() : "-";
      return `${client} to ${serverOf(tunnel)} id=${id} ${path}`;
    });
  });
}

/** The identifier that both ends give to the tunnel of a client in their logs. */
async function tunnelIdOf({ server, agent }: Tunnel, client: string): Promise<string> {
  const [atServer, atAgent] = await Promise.all(
    [server, agent].map(async (program) =>
      /\btunnel=([0-9a-f]{32})\b/.exec(await lineAbout(program, client))?.[1]
    ),
  );
  assertEquals(atServer, atAgent);
  return atServer!;
}

for (const version of VERSIONS) {
  Deno.test(`nginx behind it all logs the client of an HAProxy in front of the server that sends ${version}`, async (t) => {
    await using nginx = await startNginx({ proxyProtocol: true });
    await using tunnel = await startTunnel({
      upstream: nginx.port,
      server: { "accept-proxy-protocol": "127.0.0.1/32" },
      agent: { "proxy-protocol": "v2" },
    });
    await using haproxy = await startHaproxyFront(tunnel.port, SEND[version]);
    for (const host of HOSTS) {
      await t.step(host, async () => {
        const path = `/front-${HOSTS.indexOf(host)}`;
        const front = { host, port: haproxy.port };
        const { status, client } = await fetchWithCurl(front, path);
        assertEquals(
          await lineFor(nginx, path),
          `${client} to ${serverOf({ ...tunnel, ...front })} "GET ${path} HTTP/1.1" 200`,
        );
        assertEquals(status, 200);
      });
    }
  });
}

Deno.test("the health checks of an HAProxy in front of the server are no errors to it", async () => {
  await using nginx = await startNginx({ proxyProtocol: true });
  await using tunnel = await startTunnel({
    upstream: nginx.port,
    // Fewer than any limit of open files: a lower limit is a warning.
    server: { "accept-proxy-protocol": "127.0.0.1/32", "max-connections": 100 },
    agent: { "proxy-protocol": "v2" },
  });
  // A check connects, sends a header, and resets the connection. Each that succeeds raises the
  // health of the server, which is logged.
  const options = `${SEND.v2} check inter 20ms fall 10`;
  await using haproxy = await startHaproxyFront(tunnel.port, options);
  await haproxy.service.line(/check for server front\/s1 succeeded.* status: 10\/10 UP/);
  const { status } = await fetchWithCurl({ host: "127.0.0.1", port: haproxy.port }, "/checked");
  assertEquals(status, 200);
  assertEquals(tunnel.server.lines.filter((line) => / (?:ERR|WRN) /.test(line)), []);
});

Deno.test("the server takes a PROXY header from a source that it does not trust for what it carries", async (t) => {
  await using nginx = await startNginx({ proxyProtocol: true });
  await using tunnel = await startTunnel({
    upstream: nginx.port,
    server: { "accept-proxy-protocol": `${OTHER_HOST}/32,::1/128` },
    agent: { "proxy-protocol": "v2" },
  });

  await t.step("no header from an untrusted source: a plain connection", async () => {
    const { status, client } = await fetchWithCurl(tunnel, "/untrusted");
    assertEquals(
      await lineFor(nginx, "/untrusted"),
      `${client} to ${serverOf(tunnel)} "GET /untrusted HTTP/1.1" 200`,
    );
    assertEquals(status, 200);
  });

  await t.step(
    "an untrusted HAProxy's header gets to nginx, which cannot make sense of it",
    async () => {
      await using haproxy = await startHaproxyFront(tunnel.port, SEND.v1);
      const front = { host: "127.0.0.1", port: haproxy.port };
      const { status, client } = await fetchWithCurl(front, "/forged");
      assertEquals(status, 400);
      const [, own] = await haproxy.service.line(new RegExp(`^${client} from (\\S+)$`));
      const header = `PROXY TCP4 ${client.split(":")[0]} 127.0.0.1 ${
        client.split(":")[1]
      } ${haproxy.port}`;
      assertEquals(
        await lineFor(nginx, header),
        `${own} to ${serverOf(tunnel)} "${header}" 400`,
      );
    },
  );

  await t.step("a header from the trusted source is read", async () => {
    const { status, client } = await fetchWithCurl(
      tunnel,
      "/trusted",
      "--interface",
      OTHER_HOST,
      "--haproxy-protocol",
    );
    assertEquals(
      await lineFor(nginx, "/trusted"),
      `${client} to ${serverOf(tunnel)} "GET /trusted HTTP/1.1" 200`,
    );
    assertEquals([status, client.split(":")[0]], [200, OTHER_HOST]);
  });
});
