// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** SMTP through passthrough: the server greets before the client has said anything. */
import { assertEquals, assertMatch } from "@std/assert";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";
import { readUntil } from "./support/read_until.ts";
import { freePort, Service } from "./support/service.ts";
import { startTunnel } from "./support/tunnel.ts";

const NAME = "mail.interop.example";

/** OpenSMTPD, which has to be started by root, and takes no mail. */
async function startSmtpd(option = "") {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  const port = freePort();
  await Deno.writeTextFile(
    `${dir}/smtpd.conf`,
    `
listen on 127.0.0.1 port ${port} ${option} hostname ${NAME}
match from any for any reject
`,
  );
  const service = stack.use(await Service.start("smtpd", ["-d", "-f", `${dir}/smtpd.conf`], port));
  const rest = stack.move();
  return { port, service, [Symbol.asyncDispose]: () => rest.disposeAsync() };
}

/** The next answer: its last line has a space after its code. */
const answer = (connection: Deno.TcpConn) => readUntil(connection, /^\d{3} .*\r\n$/m);

Deno.test("an SMTP server behind passthrough greets a client that has sent nothing", async () => {
  await using smtpd = await startSmtpd();
  await using tunnel = await startTunnel({ upstream: smtpd.port });
  using connection = await Deno.connect({ hostname: tunnel.host, port: tunnel.port });
  assertMatch(await answer(connection), new RegExp(`^220 ${NAME} ESMTP`));
  await writeAll(connection, new TextEncoder().encode("EHLO client.interop.example\r\n"));
  assertMatch(await answer(connection), new RegExp(`^250-${NAME} Hello client.interop.example `));
  await writeAll(connection, new TextEncoder().encode("QUIT\r\n"));
  assertMatch(await answer(connection), /^221 /);
  assertEquals(await connection.read(new Uint8Array(1)), null);
});

Deno.test("an SMTP server behind passthrough --proxy-protocol v2 knows the client before it speaks", async () => {
  await using smtpd = await startSmtpd("proxy-v2");
  await using tunnel = await startTunnel({
    host: "[::1]",
    upstream: smtpd.port,
    agent: { "proxy-protocol": "v2" },
  });
  using connection = await Deno.connect({ hostname: "::1", port: tunnel.port });
  assertMatch(await answer(connection), /^220 /);
  await smtpd.service.line(/smtp connected address=.*::1/);
});
