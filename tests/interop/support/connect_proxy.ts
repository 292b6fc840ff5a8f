// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What `ssh` runs as its ProxyCommand: connects stdin and stdout to a target through an HTTP proxy.
 * The arguments are the proxy's port on 127.0.0.1, and the target as `host:port`.
 */
import { writeAll } from "../../../lib/tunnel/duplex.ts";

const [port, target] = Deno.args;
const proxy = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
const request = `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;
await writeAll(proxy, new TextEncoder().encode(request));

let head = "";
const byte = new Uint8Array(1);
while (!head.endsWith("\r\n\r\n")) {
  if (await proxy.read(byte) === null) throw new Error(`the proxy closed after: ${head}`);
  head += String.fromCharCode(byte[0]!);
}
if (!head.startsWith("HTTP/1.1 200 ")) throw new Error(`the proxy answered: ${head}`);

await Promise.all([
  copy(Deno.stdin, proxy).then(() => proxy.closeWrite()),
  copy(proxy, Deno.stdout),
]);

async function copy(
  from: Pick<Deno.TcpConn, "read">,
  to: Pick<Deno.TcpConn, "write">,
): Promise<void> {
  const buffer = new Uint8Array(65_536);
  for (let n; (n = await from.read(buffer)) !== null;) await writeAll(to, buffer.subarray(0, n));
}
