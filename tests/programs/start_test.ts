// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What a service manager learns of a program that starts, and may send it. */
import { assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { makeCerts } from "../../certs/make.ts";
import {
  agentFlags,
  anyPort,
  type ChildProgram,
  serverFlags,
  startProgram,
} from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const NOBODY = "127.0.0.1:9";

type Start = (dir: string, env: Record<string, string>) => ChildProgram;

const starts: Readonly<Record<string, Start>> = {
  "proxy-server": (dir, env) => startProgram("server", { ...anyPort, ...serverFlags(dir) }, env),
  "proxy-agent": (dir, env) => startProgram("agent", { ...agentFlags(dir), server: NOBODY }, env),
  "proxy-passthrough": (dir, env) =>
    startProgram("passthrough", { ...agentFlags(dir), server: NOBODY, upstream: NOBODY }, env),
};

for (const [name, start] of Object.entries(starts)) {
  Deno.test({
    name: `${name} tells the service manager that it is ready, and takes SIGHUP and SIGTERM then`,
    ignore: Deno.build.os !== "linux",
    async fn() {
      await using folder = await temporaryFolder();
      await makeCerts(folder.path);
      const path = `${folder.path}/notify`;
      const manager = Deno.listenDatagram({ transport: "unixpacket", path });
      using _closed = { [Symbol.dispose]: () => manager.close() };
      await using program = start(folder.path, { NOTIFY_SOCKET: path });
      const [message] = await deadline(manager.receive(), 10_000);
      assertEquals(new TextDecoder().decode(message), "READY=1");
      program.kill("SIGHUP");
      await program.line(/"certificates unchanged"/);
      program.kill("SIGTERM");
      assertEquals((await program.status).code, 0);
    },
  });
}

Deno.test("a program starts where its service manager does not listen", async () => {
  await using folder = await temporaryFolder();
  await makeCerts(folder.path);
  await using program = starts["proxy-server"]!(folder.path, {
    NOTIFY_SOCKET: `${folder.path}/nobody`,
  });
  await program.line(/"waiting for new quic client session"/);
});
