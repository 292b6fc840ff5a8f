// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-passthrough: dials the server and connects every stream that the server opens to one fixed upstream. */
import { type AgentConfig, loadAgentTls, runAgentSession } from "./lib/agent_session.ts";
import { type Authority, formatAuthority } from "./lib/authority.ts";
import { dial } from "./lib/dial.ts";
import { tcpDuplex } from "./lib/duplex.ts";
import { messageOf } from "./lib/errors.ts";
import { runProgram } from "./lib/lifecycle.ts";
import { logger } from "./lib/log.ts";
import { pipeDuplex, summarize } from "./lib/pipe.ts";
import { passthroughFlags } from "./lib/program_flags.ts";
import type { QuicStream } from "./lib/quic/mod.ts";

export interface PassthroughConfig extends AgentConfig {
  /** Where every stream goes. */
  readonly upstream: Authority;
}

/** Application error code of a stream whose upstream could not be reached. */
const UPSTREAM_UNREACHABLE = 1;

const log = logger("passthrough");

/** Runs a passthrough agent until the signal aborts. Reconnects for ever. */
export async function runPassthrough(
  config: PassthroughConfig,
  options: { readonly signal: AbortSignal },
): Promise<void> {
  const { signal } = options;
  const fields = {
    server: formatAuthority(config.server),
    upstream: formatAuthority(config.upstream),
  };
  log.info("passthrough started", fields);
  await runAgentSession(config, {
    log,
    signal,
    serve: (stream, ended) => carry(stream, config, ended),
  });
  log.info("passthrough stopped");
}

/** Carries one stream to the upstream, to its end. */
async function carry(
  stream: QuicStream,
  config: PassthroughConfig,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  let connection: Deno.TcpConn;
  try {
    connection = await dial(config.upstream, config.dialTimeoutMs, signal);
  } catch (error) {
    stream.abort(UPSTREAM_UNREACHABLE);
    log.warn("cannot reach the upstream", { stream: stream.id, error: messageOf(error) });
    return;
  }
  const result = await pipeDuplex(stream, tcpDuplex(connection), { signal });
  log.debug("tunnel ended", {
    stream: stream.id,
    ...summarize(result, since, { a: "client", b: "upstream" }),
  });
}

if (import.meta.main) {
  await runProgram({
    name: "proxy-passthrough",
    summary: "Dials a proxy-server and connects every stream it opens to one upstream.",
    flags: passthroughFlags,
    run: async (values, signal) =>
      await runPassthrough({ ...values, tls: await loadAgentTls(values) }, { signal }),
  });
}
