// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `passthrough.ts` does, on the binding's own `QUICClient`: the yardstick of the benchmark. */
import quic, { events, type QUICStream } from "@matrixai/quic";
import type { Authority } from "../lib/net/authority.ts";
import { agentTlsFiles } from "../lib/cli/program_tls.ts";
import { runProgram } from "../lib/cli/run_program.ts";
import { logger } from "../lib/log.ts";
import { passthroughFlags } from "../lib/cli/program_flags.ts";
import { readTlsFiles } from "../lib/tls/files.ts";
import { checkTlsFiles } from "../lib/tls/material.ts";
import { bindingConfig, carry, containErrors } from "./binding_common.ts";

const log = logger("binding");

async function serve(stream: QUICStream, { hostname, port }: Authority): Promise<void> {
  await carry(await Deno.connect({ hostname, port }), stream, log);
}

function randomBytes(data: ArrayBuffer): Promise<void> {
  crypto.getRandomValues(new Uint8Array(data));
  return Promise.resolve();
}

await runProgram({
  name: "proxy-passthrough",
  summary: "Connects to a binding-server and forwards each of its clients to one upstream.",
  flags: passthroughFlags,
  async run(values, { signal }) {
    containErrors(log);
    const server = values.servers[0]!;
    const client = await quic.QUICClient.createQUICClient({
      // The name that is verified and sent as SNI; where it is, the resolver says.
      host: values.serverName,
      port: server.port,
      resolveHostname: () => server.hostname,
      localHost: "127.0.0.1",
      crypto: { ops: { randomBytes } },
      config: bindingConfig(checkTlsFiles(await readTlsFiles(agentTlsFiles(values))), values.alpn),
    });
    client.connection.addEventListener(
      events.EventQUICConnectionStream.name,
      (event) => void serve((event as events.EventQUICConnectionStream).detail, values.upstream),
    );
    log.info("connected to quic server");
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  },
});
