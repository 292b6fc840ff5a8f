// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Names, summaries and examples for help, man pages and completion. */
import type { FlagTable } from "./flag.ts";
import { agentFlags, passthroughFlags, serverFlags } from "./program_flags.ts";
import type { ProgramName } from "../version.ts";

/** A program, as its command line is described. */
export interface ProgramInfo<T extends FlagTable = FlagTable> {
  readonly name: ProgramName;
  readonly summary: string;
  /** @default {[]} */
  readonly examples?: readonly Example[];
  readonly flags: T;
}

/** A command line, and what it does. */
export interface Example {
  readonly does: string;
  readonly command: string;
}

const CLIENT = "--ca-file=ca.pem --cert-file=client.pem --cert-key=client.key";

/** proxy-server */
export const serverInfo = {
  name: "proxy-server",
  summary: "Accepts TCP connections and forwards each to a connected agent, over a QUIC stream.",
  examples: [
    {
      does: "clients connect to port 8443 of this machine only, agents to UDP port 8888:",
      command:
        "proxy-server --listen-tcp=127.0.0.1:8443 --cert-file=server.pem --cert-key=server.key --client-ca-file=ca.pem",
    },
  ],
  flags: serverFlags,
} as const satisfies ProgramInfo;

/** proxy-agent */
export const agentInfo = {
  name: "proxy-agent",
  summary:
    "Connects to a proxy-server from inside a private network and is an HTTP and SOCKS5 proxy for its clients.",
  examples: [
    {
      does: "clients of the server reach port 443 of one network, and nothing else:",
      command: `proxy-agent --server=proxy.example:8888 --allow=10.0.0.0/8:443 ${CLIENT}`,
    },
  ],
  flags: agentFlags,
} as const satisfies ProgramInfo;

/** proxy-passthrough */
export const passthroughInfo = {
  name: "proxy-passthrough",
  summary: "Connects to a proxy-server and forwards each of its clients to one upstream.",
  examples: [
    {
      does: "clients of the server reach the SSH server of this machine:",
      command: `proxy-passthrough --server=proxy.example:8888 --upstream=127.0.0.1:22 ${CLIENT}`,
    },
  ],
  flags: passthroughFlags,
} as const satisfies ProgramInfo;

export const programInfos: readonly ProgramInfo[] = [serverInfo, agentInfo, passthroughInfo];
