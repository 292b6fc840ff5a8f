// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its only line says that it is there

/** A web server on port 80 of a private address, which says what it is told. */
Deno.serve({ hostname: "10.0.0.1", port: 80, onListen: () => console.log("listening") }, () => {
  return new Response(Deno.args[0] ?? "ok");
});
