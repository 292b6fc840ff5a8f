// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** PostgreSQL through passthrough. */
import { assertEquals } from "@std/assert";
import { clientLine } from "../support/client_lines.ts";
import { run } from "./support/programs.ts";
import { freePort } from "./support/service.ts";
import { startTunnel } from "./support/tunnel.ts";

const SQL = `
CREATE TABLE numbers AS SELECT generate_series(1, 500000) AS n;
SELECT sum(n), inet_server_port() FROM numbers;
COPY numbers TO STDOUT;
`;

Deno.test("psql through passthrough, as docs/clients.md says, queries and gets bulk data", async () => {
  const port = freePort();
  await using tunnel = await startTunnel({ upstream: port });
  const [psql, ...args] = clientLine("psql ", tunnel).split(" ");
  // A server that ends with the command.
  const { text } = await run("pg_virtualenv", [
    ...["-c", `--port=${port}`, psql!, ...args],
    ...["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"],
  ], { stdin: SQL, timeoutMs: 60_000 });
  // Beside these, there is what becomes of the server.
  const [sum, ...numbers] = text.split("\n").filter((line) => /^\d/.test(line));
  assertEquals(sum, `125000250000|${port}`);
  assertEquals(numbers, Array.from({ length: 500_000 }, (_, i) => `${i + 1}`));
});
