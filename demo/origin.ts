// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- tells the demo its port in the way the programs do

/**
 * The demo's origin: a small HTTP server on loopback. Every answer names the SHA-256 of the bytes
 * that went either way in `Repr-Digest` (RFC 9530).
 *
 * - `GET /` a greeting
 * - `GET /large` random bytes
 * - `POST /upload` takes any body, and answers with the digest of what arrived
 */

import { createHash, randomBytes } from "node:crypto";
import { LARGE_BYTES, reprDigest } from "./digest.ts";

const greeting = new TextEncoder().encode("Hello from the origin, at the far end of the tunnel.\n");
const large = new Uint8Array(randomBytes(LARGE_BYTES));
const largeDigest = reprDigest(createHash("sha256").update(large));

async function answer(request: Request): Promise<Response> {
  switch (`${request.method} ${new URL(request.url).pathname}`) {
    case "GET /":
      return reply(greeting, reprDigest(createHash("sha256").update(greeting)));
    case "GET /large":
      return reply(large, largeDigest);
    case "POST /upload": {
      const hash = createHash("sha256");
      for await (const chunk of request.body ?? []) hash.update(chunk);
      return reply(null, reprDigest(hash));
    }
    default:
      return new Response("Try /, /large, or a POST to /upload.\n", { status: 404 });
  }
}

function reply(body: Uint8Array<ArrayBuffer> | null, digest: string): Response {
  return new Response(body, { headers: { "content-type": "text/plain", "repr-digest": digest } });
}

if (import.meta.main) {
  Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ hostname, port }) => console.error(`http listener on ${hostname}:${port}`),
  }, answer);
}
