// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What docs/kubernetes.md puts between kube-apiserver and the server: HAProxy, which takes CONNECT over TLS and over a
 * Unix socket. The client sends the bytes that kube-apiserver sends.
 */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { startOrigin } from "../support/processes.ts";
import { TestCa } from "../support/tls.ts";
import { readUntil } from "./support/read_until.ts";
import { freePort, Service } from "./support/service.ts";
import { lineAbout, startTunnel } from "./support/tunnel.ts";

const document = await Deno.readTextFile(new URL("../../docs/kubernetes.md", import.meta.url));
/** The configuration in it. */
const [, configuration] = /```\n(global\n[^`]*)```/.exec(document)!;
const HOST = "127.0.0.1";

type Conn = Deno.TlsConn | Deno.UnixConn;

const send = (conn: Conn, text: string) => writeAll(conn, new TextEncoder().encode(text));

/** Asks for a target as kube-apiserver does, gives the answer, and fetches from it if it was 200. */
async function ask(conn: Conn, target: string): Promise<string[]> {
  try {
    await send(conn, `CONNECT ${target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`);
    const answer = await readUntil(conn, /\r\n\r\n$/);
    if (!answer.startsWith("HTTP/1.1 200 ")) return [answer];
    await send(conn, `GET / HTTP/1.1\r\nHost: ${target}\r\nConnection: close\r\n\r\n`);
    return [answer, await readUntil(conn, /ok\n/)];
  } finally {
    conn.close();
  }
}

Deno.test("HAProxy as in docs/kubernetes.md leads kube-apiserver's requests over TLS and a Unix socket to the server", async (t) => {
  await using directory = await temporaryFolder();
  const { path: dir } = directory;
  const ca = await TestCa.create();
  const server = await ca.server({ ipAddresses: [HOST] });
  const client = await ca.client();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  await Deno.writeTextFile(`${dir}/tls.pem`, text(server.cert) + text(server.key), { mode: 0o600 });
  await Deno.writeFile(`${dir}/client-ca.crt`, ca.pem);
  await using origin = await startOrigin();
  await using tunnel = await startTunnel({
    server: { "accept-proxy-protocol": "127.0.0.1/32", mode: "http-connect" },
  });
  const port = freePort();
  const file = `${dir}/haproxy.cfg`;
  await Deno.writeTextFile(
    file,
    configuration!
      .replaceAll("/etc/egress/", `${dir}/`)
      .replaceAll(":8131", `${HOST}:${port}`)
      .replaceAll("127.0.0.1:8443", `${HOST}:${tunnel.port}`),
  );
  await using _haproxy = await Service.start("haproxy", ["-db", "-f", file], port);
  const caCerts = [text(ca.pem)];
  const target = `${HOST}:${origin.port}`;

  await t.step("over TLS, with a client certificate", async () => {
    const conn = await Deno.connectTls({
      hostname: HOST,
      port,
      caCerts,
      cert: text(client.cert),
      key: text(client.key),
    });
    const { hostname, port: own } = conn.localAddr as Deno.NetAddr;
    const [answer, page] = await ask(conn, target);
    assertEquals(answer, "HTTP/1.1 200 OK\r\n\r\n");
    assertStringIncludes(page!, "ok\n");
    assertStringIncludes(await lineAbout(tunnel.server, `${hostname}:${own}`), "client=");
  });

  await t.step("over a Unix socket", async () => {
    const conn = await Deno.connect({ transport: "unix", path: `${dir}/egress.socket` });
    const [answer, page] = await ask(conn, target);
    assertEquals(answer, "HTTP/1.1 200 OK\r\n\r\n");
    assertStringIncludes(page!, "ok\n");
  });

  await t.step("the cause of a failed dial is in the status line", async () => {
    const conn = await Deno.connect({ transport: "unix", path: `${dir}/egress.socket` });
    const [answer] = await ask(conn, `${HOST}:1`);
    assertStringIncludes(answer!, "HTTP/1.1 502 127.0.0.1:1: connection refused\r\n");
  });

  await t.step("nobody gets in without a client certificate", async () => {
    await assertRejects(async () => {
      const conn = await Deno.connectTls({ hostname: HOST, port, caCerts });
      await ask(conn, target);
    });
  });
});
