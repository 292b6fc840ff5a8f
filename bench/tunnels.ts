// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The tunnels that the benchmark compares: a server and a passthrough agent, in a process each. */
import { join } from "node:path";
import { createCa, issueCertificate, type Issued } from "../certs/issue.ts";
import { Program } from "./program.ts";

const SERVER_NAME = "quic-tunnel-server";

/** A way to the origin that is up. */
export interface Tunnel extends AsyncDisposable {
  /** TCP port on 127.0.0.1 that gets to the origin. */
  readonly port: number;
  /** The server and the agent, or nothing when it is the origin's own port. */
  readonly programs: readonly Program[];
}

/** Makes a CA and the certificates of both ends in a directory. */
export async function makeCertificates(directory: string): Promise<void> {
  const ca = await createCa({ commonName: "benchmark CA" });
  await Deno.writeTextFile(join(directory, "ca.pem"), ca.certPem);
  const save = async (name: string, { certPem, keyPem }: Issued) => {
    await Deno.writeTextFile(join(directory, `${name}.pem`), certPem);
    await Deno.writeTextFile(join(directory, `${name}.key`), keyPem, { mode: 0o600 });
  };
  const dnsNames = [SERVER_NAME];
  await save(
    "server",
    await issueCertificate(ca, { commonName: SERVER_NAME, usage: "server", dnsNames }),
  );
  await save("client", await issueCertificate(ca, { commonName: "benchmark", usage: "client" }));
}

/**
 * Starts a tunnel and waits until it is up.
 *
 * @param scripts of both ends, which take the same flags
 * @param originPort where the agent connects its streams to
 * @param options.alpn what the agent offers, where it is a program of this project
 * @param options.via maps the server's UDP port to that which the agent connects to
 */
export async function startTunnel(
  scripts: { readonly server: string; readonly agent: string },
  originPort: number,
  certificates: string,
  signal: AbortSignal,
  options: { readonly alpn?: string; readonly via?: (quicPort: number) => number } = {},
): Promise<Tunnel> {
  const { alpn, via = (quicPort) => quicPort } = options;
  await using started = new AsyncDisposableStack();
  const server = started.use(
    new Program(scripts.server, {
      "listen-tcp": "127.0.0.1:0",
      "listen-quic": "127.0.0.1:0",
      "cert-file": join(certificates, "server.pem"),
      "cert-key": join(certificates, "server.key"),
      "client-ca-file": join(certificates, "ca.pem"),
    }),
  );
  const [, quicPort] = await server.said(/quic listener on 127\.0\.0\.1:(\d+)/, signal);
  const [, port] = await server.said(/tcp listener on 127\.0\.0\.1:(\d+)/, signal);
  const agent = started.use(
    new Program(scripts.agent, {
      "server": `127.0.0.1:${via(Number(quicPort))}`,
      "upstream": `127.0.0.1:${originPort}`,
      "ca-file": join(certificates, "ca.pem"),
      "cert-file": join(certificates, "client.pem"),
      "cert-key": join(certificates, "client.key"),
      ...(alpn && { alpn }),
    }),
  );
  await server.said(/agent connected/, signal);
  await agent.said(/connected to quic server/, signal);
  const keep = started.move();
  return {
    port: Number(port),
    programs: [server, agent],
    [Symbol.asyncDispose]: () => keep.disposeAsync(),
  };
}
