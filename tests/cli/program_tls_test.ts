// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { clientTlsFiles } from "../../lib/cli/program_tls.ts";
import { UsageError } from "../../lib/errors.ts";
import { servesStreams } from "../../lib/tls/tls_carrier.ts";
import { pureTest as test } from "../support/pure_test.ts";

const listenTls = { hostname: "", port: 8444 };
const none = { tlsCertFile: undefined, tlsCertKey: undefined, tlsClientCaFile: undefined };

test("clientTlsFiles() needs all files, and none without --listen-tls", () => {
  assertEquals(clientTlsFiles({ ...none, listenTls: undefined, tlsCertKey: "k" }), undefined);
  const some = { ...none, listenTls, tlsCertKey: "k" };
  const { message } = assertThrows(() => clientTlsFiles(some), UsageError);
  assertEquals(message, "--listen-tls needs --tls-cert-file, --tls-client-ca-file");
  const all = { listenTls, tlsCertFile: "c", tlsCertKey: "k", tlsClientCaFile: "a" };
  assertEquals(clientTlsFiles(all), {
    caFile: "a",
    caFlag: "--tls-client-ca-file",
    certFile: "c",
    certFlag: "--tls-cert-file",
    keyFile: "k",
    keyFlag: "--tls-cert-key",
  });
});

test("servesStreams() tells the releases of Deno that ask clients for certificates", () => {
  const releases = {
    "1.46.3": false,
    "2.7.11": false,
    "2.9.0": true,
    "2.10.1": true,
    "3.0.0": true,
  };
  for (const [release, asks] of Object.entries(releases)) {
    assertEquals(servesStreams(release), asks);
  }
});
