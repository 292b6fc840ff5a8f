// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `server.ts` does for one agent, on the binding's own `QUICServer`: the yardstick of the benchmark. */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import quic, { events, type QUICConnection } from "@matrixai/quic";
import { formatAuthority } from "../lib/net/authority.ts";
import { serverTlsFiles } from "../lib/cli/program_tls.ts";
import { runProgram } from "../lib/cli/run_program.ts";
import { logger } from "../lib/log.ts";
import { serverFlags } from "../lib/cli/program_flags.ts";
import { DEFAULT_LISTEN_TCP } from "../lib/server/front.ts";
import { readTlsFiles } from "../lib/tls/files.ts";
import { checkTlsFiles } from "../lib/tls/material.ts";
import { bindingConfig, carry, containErrors } from "./binding_common.ts";

const log = logger("binding");

/** Signs the tokens of address validation, as the binding wants it. */
const crypto = {
  key: new Uint8Array(randomBytes(32)).buffer,
  ops: { sign, verify },
};

function sign(key: ArrayBuffer, data: ArrayBuffer): Promise<ArrayBuffer> {
  const digest = createHmac("sha256", new Uint8Array(key)).update(new Uint8Array(data)).digest();
  return Promise.resolve(new Uint8Array(digest).buffer);
}

async function verify(key: ArrayBuffer, data: ArrayBuffer, mac: ArrayBuffer): Promise<boolean> {
  const expected = await sign(key, data);
  return mac.byteLength === expected.byteLength &&
    timingSafeEqual(new Uint8Array(mac), new Uint8Array(expected));
}

await runProgram({
  name: "proxy-server",
  summary:
    "Accepts TCP connections and forwards each to the last binding-agent, over a QUIC stream.",
  flags: serverFlags,
  async run(values, { signal }) {
    containErrors(log);
    const tls = checkTlsFiles(await readTlsFiles(serverTlsFiles(values)));
    const server = new quic.QUICServer({ crypto, config: bindingConfig(tls, values.alpn) });
    let agent: QUICConnection | undefined;
    server.addEventListener(events.EventQUICServerConnection.name, (event) => {
      agent = (event as events.EventQUICServerConnection).detail;
      log.info("agent connected");
    });
    await server.start({ host: values.listenQuic.hostname, port: values.listenQuic.port });
    const { hostname, port } = values.listenTcp[0] ?? DEFAULT_LISTEN_TCP;
    using listener = Deno.listen({ hostname, port });
    const addressOf = (hostname: string, port: number) => formatAuthority({ hostname, port });
    log.info("tcp listener on {address}", { address: addressOf(hostname, listener.addr.port) });
    log.info("quic listener on {address}", { address: addressOf(server.host, server.port) });
    signal.addEventListener("abort", () => listener.close());
    for await (const client of listener) {
      if (agent) void carry(client, agent.newStream(), log);
      else client.close();
    }
  },
});
