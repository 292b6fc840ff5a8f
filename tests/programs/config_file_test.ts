// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** `--config`, with programs as processes. */
import { assertEquals } from "@std/assert";
import { stringify } from "yaml";
import { CertificateFiles } from "../support/certificate_files.ts";
import { startProgram } from "../support/processes.ts";

Deno.test("programs start with nothing but a file", async () => {
  await using files = await CertificateFiles.create();
  await files.issue("agent");
  const write = async (name: string, flags: Record<string, unknown>) => {
    const path = `${files.path}/${name}.yaml`;
    await Deno.writeTextFile(path, stringify(flags));
    return path;
  };
  const serverFile = await write("server", {
    ...files.server(),
    "listen-quic": "127.0.0.1:0",
    "listen-tcp": ["127.0.0.1:0@agent", "127.0.0.1:0@other"],
  });
  await using server = startProgram("server", { config: serverFile });
  for (const group of ["agent", "other"]) {
    await server.line(new RegExp(`tcp listener on .* group=${group}`));
  }
  const [, quic] = await server.line(/quic listener on (127\.0\.0\.1:\d+)/);
  const agentFile = await write("agent", { ...files.agent(), server: quic, name: "of-file" });
  await using agent = startProgram("agent", { config: agentFile, name: "of-flag" });
  await agent.line(/"connected to quic server"/);
  await server.line(/"hello from agent".*name=of-flag/);

  await Deno.writeTextFile(serverFile, "\nlisten-qiuc: :1\n");
  await using refused = startProgram("server", { config: serverFile });
  await refused.line(/server\.yaml:2: unknown key "listen-qiuc"; did you mean listen-quic\?$/);
  assertEquals((await refused.status).code, 2);
});
