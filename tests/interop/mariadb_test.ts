// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** MariaDB through passthrough: the server speaks first. */
import { assertEquals, assertNotEquals } from "@std/assert";
import { createHash, randomBytes } from "node:crypto";
import { clientLine } from "../support/client_lines.ts";
import { Dialogue } from "./support/dialogue.ts";
import { startMariaDbServer } from "./support/mariadb.ts";
import { run } from "./support/programs.ts";
import { lineAbout, startTunnel, type TunnelOptions } from "./support/tunnel.ts";

const ROWS = 10_000;
const BLOB_BYTES = 4 * 1024 * 1024;
/** More than the blob as an SQL literal. */
const MAX_PACKET = "--max-allowed-packet=32M";

/** A MariaDB server with no data yet, and how to log in to it through passthrough. */
async function startMariaDb(options: Omit<TunnelOptions, "upstream"> = {}) {
  await using stack = new AsyncDisposableStack();
  const { port } = stack.use(await startMariaDbServer(MAX_PACKET));
  const tunnel = stack.use(await startTunnel({ ...options, upstream: port }));
  const host = tunnel.host.replace(/[[\]]/g, "");
  const [, ...address] = clientLine("mariadb ", { host, port: tunnel.port }).split(" ");
  const client = [
    "--no-defaults",
    MAX_PACKET,
    "--protocol=tcp",
    "--skip-ssl", // what newer clients demand of a server's certificate is not looked at here
    ...address,
    "--user=root",
    "--connect-timeout=10",
    "--batch",
    "--raw",
    "--skip-column-names",
  ];
  const query = (sql: string) => run("mariadb", client, { stdin: sql });
  await query("CREATE DATABASE interop");
  client.push("--database=interop");
  const rest = stack.move();
  return { tunnel, client, query, [Symbol.asyncDispose]: () => rest.disposeAsync() };
}

Deno.test(`the mariadb client through passthrough inserts ${ROWS} rows and sums them up`, async () => {
  await using db = await startMariaDb();
  const values = Array.from({ length: ROWS }, (_, i) => `(${i + 1}, 'row number ${i + 1}')`);
  await db.query(`CREATE TABLE t (n INT PRIMARY KEY, words TEXT)`);
  const inserts = values.map((value) => `INSERT INTO t VALUES ${value};\n`).join("");
  await db.query(`START TRANSACTION;\n${inserts}COMMIT;\n`);
  const { text } = await db.query("SELECT COUNT(*), SUM(n), MAX(words) FROM t");
  assertEquals(text, `${ROWS}\t${ROWS * (ROWS + 1) / 2}\trow number 9999`);
});

Deno.test("a blob of 4 MiB comes back from MariaDB through passthrough as it was", async () => {
  await using db = await startMariaDb();
  const blob = randomBytes(BLOB_BYTES);
  const expected = createHash("sha256").update(blob).digest("hex");
  await db.query(
    `CREATE TABLE b (data LONGBLOB); INSERT INTO b VALUES (x'${blob.toString("hex")}')`,
  );
  assertEquals((await db.query("SELECT SHA2(data, 256) FROM b")).text, expected);
  const { bytes } = await db.query("SELECT data FROM b");
  assertEquals(bytes.length, BLOB_BYTES + 1); // and the end of the line
  const hash = createHash("sha256").update(bytes.subarray(0, BLOB_BYTES));
  assertEquals(hash.digest("hex"), expected);
});

Deno.test("two mariadb clients at once through passthrough have sessions of their own", async () => {
  await using db = await startMariaDb();
  const client = () => new Dialogue("mariadb", [...db.client, "--unbuffered"]);
  await using a = client();
  await using b = client();
  const numberOf = async (session: Dialogue) => {
    await session.say("SELECT 'connection', CONNECTION_ID();");
    return (await session.hear(/^connection\t(\d+)$/m))[1]!;
  };
  const [numberA, numberB] = [await numberOf(a), await numberOf(b)];
  assertNotEquals(numberA, numberB);

  await a.say("SELECT 'lock', GET_LOCK('interop', 0);");
  await a.hear(/^lock\t1$/m);
  await b.say("SELECT 'holder', IS_USED_LOCK('interop'), 'lock', GET_LOCK('interop', 0);");
  await b.hear(new RegExp(`^holder\t${numberA}\tlock\t0$`, "m"));
  // The lock goes with the session, which ends with the client.
  await b.say("SELECT 'lock', GET_LOCK('interop', 10);");
  await a.close();
  assertEquals((await a.status).code, 0, a.heard);
  await b.hear(/^lock\t1$/m);
  await b.close();
  assertEquals((await b.status).code, 0, b.heard);
});

for (const [version, host] of [["v1", "127.0.0.1"], ["v2", "[::1]"]] as const) {
  Deno.test(`MariaDB behind passthrough --proxy-protocol ${version} knows its client as ${host}`, async () => {
    await using db = await startMariaDb({ host, agent: { "proxy-protocol": version } });
    const { text } = await db.query(
      "SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()",
    );
    await lineAbout(db.tunnel.server, text);
  });
}
