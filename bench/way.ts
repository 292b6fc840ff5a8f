// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** How clients get to the origin. */
import { writeAll } from "../lib/tunnel/duplex.ts";

export interface Way {
  readonly hostname: string;
  readonly port: number;
  /** Host and port that a proxy at this address is asked for; none when nothing is between. */
  readonly target?: string;
  /** For a proxy that is spoken to with TLS: its CA, and the client's certificate, in PEM. */
  readonly tls?: Pick<Deno.ConnectTlsOptions, "caCerts"> & Deno.TlsCertifiedKeyPem;
}

/** A connection to a proxy or to the origin. */
export type WayConn = Deno.TcpConn | Deno.TlsConn;

/** What nobody listens with longer than. */
const MAX_HEAD_BYTES = 4096;
/** A proxy answers within this time. */
const TIMEOUT_MS = 15_000;

/** The way to a port on loopback. */
export function straight(port: number): Way {
  return { hostname: "127.0.0.1", port };
}

/**
 * Connects, and has the proxy connect if there is one.
 *
 * @throws {Error} when either does not
 */
export async function openWay({ hostname, port, target, tls }: Way): Promise<WayConn> {
  const connection = tls
    ? await Deno.connectTls({ hostname, port, ...tls })
    : await Deno.connect({ hostname, port });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    connection.close();
  }, TIMEOUT_MS);
  try {
    if ("setNoDelay" in connection) connection.setNoDelay(true);
    if (target !== undefined) await askProxy(connection, target);
    return connection;
  } catch (error) {
    if (isLate) throw new Error(`no response to CONNECT within ${TIMEOUT_MS / 1_000} s`);
    connection.close();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function askProxy(connection: WayConn, target: string): Promise<void> {
  const request = `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;
  await writeAll(connection, new TextEncoder().encode(request));
  // Nothing follows the head until the origin is asked for something.
  const buffer = new Uint8Array(MAX_HEAD_BYTES);
  let head = "";
  while (!head.endsWith("\r\n\r\n")) {
    const n = await connection.read(buffer);
    if (n === null || head.length > MAX_HEAD_BYTES) throw new Error("no response to CONNECT");
    head += new TextDecoder().decode(buffer.subarray(0, n));
  }
  const status = head.slice(0, head.indexOf("\r\n"));
  if (!/^HTTP\/1\.\d 200 /.test(status)) {
    throw new Error(`the response to CONNECT has status ${status}`);
  }
}
