// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its port goes to stdout

/**
 * An HTTP server to fetch from, as a process of its own. Its argument is the port, any free one by default.
 *
 * `GET /bytes/N` answers N bytes of a fixed pattern, `POST /` the SHA-256 of the body.
 */
import { patternStream, sha256 } from "./pattern.ts";

const server = Deno.serve({
  hostname: "127.0.0.1",
  port: Number(Deno.args[0] ?? 0),
  onListen: ({ port }) => console.log(`origin on port ${port}`),
}, async (request) => {
  const size = /\/bytes\/(\d+)$/.exec(request.url)?.[1];
  if (size !== undefined) {
    return new Response(patternStream(Number(size)), { headers: { "content-length": size } });
  }
  if (request.method !== "POST") return new Response("ok\n");
  return new Response(`${await sha256(request.body ?? new Blob().stream())}\n`);
});
await server.finished;
