// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line is what the benchmark reads

/**
 * The limit of the QUIC binding: a client and a server in one process that hand their datagrams to each other, without
 * sockets, and with none of this project's driver.
 *
 * Its arguments are the certificates' folder, the size of the datagrams and the number of bytes.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { type HostPort, type NativeConnection, quiche } from "../lib/quic/quiche/native.ts";
import { nativeConfig, transportSettings } from "../lib/quic/options.ts";

const CHUNK_BYTES = 64 << 10;
/** Of the bytes, those that are moved before the clock runs. */
const WARM_UP = 0.1;
/** The stream that the server opens first. */
const STREAM = 1;

const [directory, datagramBytes, totalBytes] = [
  Deno.args[0]!,
  ...Deno.args.slice(1).map(Number),
] as [
  string,
  number,
  number,
];

const read = (name: string) => Deno.readFileSync(join(directory, name));
const configOf = (end: "server" | "client") =>
  nativeConfig(
    transportSettings({
      tls: { ca: read("ca.pem"), cert: read(`${end}.pem`), key: read(`${end}.key`) },
      alpn: ["memory"],
      mtu: datagramBytes + 28,
    }),
    datagramBytes,
  );

const clientAddress: HostPort = { host: "127.0.0.1", port: 1 };
const serverAddress: HostPort = { host: "127.0.0.1", port: 2 };
const id = () => new Uint8Array(randomBytes(16));
const client = quiche.Connection.connect(
  "quic-tunnel-server",
  id(),
  clientAddress,
  serverAddress,
  configOf("client"),
);
const server = quiche.Connection.accept(
  id(),
  null,
  serverAddress,
  clientAddress,
  configOf("server"),
);
const toServer = { from: clientAddress, to: serverAddress };
const toClient = { from: serverAddress, to: clientAddress };
const datagram = new Uint8Array(datagramBytes);

/** Hands over everything that one end has to send now. */
function handOver(from: NativeConnection, to: NativeConnection, path: typeof toServer): void {
  if (from.timeout() === 0) from.onTimeout();
  for (let sent = from.send(datagram); sent; sent = from.send(datagram)) {
    to.recv(datagram.subarray(0, sent[0]), path);
  }
}

for (let turns = 0; !(client.isEstablished() && server.isEstablished()); turns++) {
  if (turns === 100) throw new Error("no handshake");
  handOver(client, server, toServer);
  handOver(server, client, toClient);
}

const outgoing = new Uint8Array(randomBytes(CHUNK_BYTES));
const incoming = new Uint8Array(CHUNK_BYTES);
let since = 0;
let measured = 0;
for (let received = 0; received < totalBytes * (1 + WARM_UP);) {
  while ((server.streamSend(STREAM, outgoing, false) ?? 0) > 0);
  handOver(server, client, toClient);
  for (
    let got = client.streamRecv(STREAM, incoming);
    got;
    got = client.streamRecv(STREAM, incoming)
  ) {
    received += got[0];
  }
  handOver(client, server, toServer);
  if (since === 0 && received >= totalBytes * WARM_UP) {
    since = performance.now();
    measured = -received;
  }
  if (since > 0 && received >= totalBytes * (1 + WARM_UP)) measured += received;
}
const seconds = (performance.now() - since) / 1_000;
console.error(`moved ${(measured / 1e6 / seconds).toFixed(3)} MB/s`);
