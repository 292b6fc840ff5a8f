// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Many agents of one server in one process, which would need a process each: as far as the server knows, they are. */
import { join } from "node:path";
import { runAgent } from "../agent.ts";
import { agentFlags } from "../lib/cli/program_flags.ts";
import { defaultsOf } from "../tests/support/flag_defaults.ts";

/** What the one argument says, as JSON. */
export interface ManyAgents {
  /** Folder of the certificates. */
  readonly certificates: string;
  /** Port of the server on loopback. */
  readonly quic: number;
  readonly count: number;
}

const { certificates, quic, count } = JSON.parse(Deno.args[0]!) as ManyAgents;
const read = (name: string) => Deno.readFile(join(certificates, name));
const tls = {
  ca: await read("ca.pem"),
  cert: await read("client.pem"),
  key: await read("client.key"),
};
const config = {
  ...defaultsOf(agentFlags),
  servers: [{ hostname: "127.0.0.1", port: quic }],
  tls,
  mtu: 1500,
};
const { signal } = new AbortController();
await Promise.all(Array.from({ length: count }, () => runAgent(config, { signal })));
