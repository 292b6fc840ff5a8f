// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Steps of an agent that connects to its server briefly, and serves no clients. */
import type { Authority } from "../../net/authority.ts";
import { CloseCode } from "../../qrht/codes.ts";
import { ConnectError, explainConnectError } from "../../agent/connect_error.ts";
import { AnchorChoice } from "../../tls/anchor_choice.ts";
import type { TlsMaterial } from "../../tls/files.ts";
import { certificateFields, describeCertificate } from "../../tls/certificate.ts";
import { speaksQrht } from "../../qrht/dialect.ts";
import { quote } from "../../printable.ts";
import { LOST_DATAGRAMS_HINT } from "../../observe/large_datagrams.ts";
import { largeDatagramsArrive } from "./large_datagrams.ts";
import { startControl } from "../../qrht/control.ts";
import type { Hello } from "../../qrht/messages.ts";
import {
  ConnectionClosedError,
  MIN_DATAGRAM_BYTES,
  type QuicConnection,
  QuicEndpoint,
} from "../../quic/mod.ts";
import { sleep } from "../../wait.ts";
import { type Found, type Report, StepError } from "./report.ts";

export interface SessionCheck {
  /** Name of the program. */
  readonly program: string;
  readonly name: string | undefined;
  readonly serverName: string;
  readonly alpn: readonly string[];
  readonly tls: TlsMaterial;
}

/** Time for the server to verify this end's certificate and send HELLO. */
const HELLO_TIMEOUT_MS = 3_000;

/**
 * In the raw dialect a server confirms nothing, but would have closed the connection by then, plus
 * some round trips.
 */
const RAW_JUDGEMENT_MS = 100;
const RAW_JUDGEMENT_ROUND_TRIPS = 3;

/** Interval of PINGs, which reveal losses soon. */
const KEEPALIVE_MS = 500;

/** Time to deliver the last packets. */
const SETTLE_MS = 500;

/** Close reason, which the server logs. */
const CHECKED = "closed by --check";

/**
 * Connects to a server, checks whether it admits this agent, and disconnects.
 *
 * @param address undefined when it does not answer, as `options` are when an earlier step has
 * failed
 */
export async function checkSession(
  report: Report,
  address: Authority | undefined,
  label: string,
  options: SessionCheck | undefined,
): Promise<void> {
  const hostname = address?.hostname.includes(":") ? "::" : "0.0.0.0";
  await using endpoint = new QuicEndpoint({ hostname, port: 0 });
  const connected = await report.after(
    address && options,
    `handshake with ${label}`,
    (options) => connect(endpoint, address!, options),
  );
  const isIn = await report.after(
    connected,
    `admission by ${label}`,
    (connected) => checkAdmission(connected, options!),
  );
  const way = `large datagrams to ${label}`;
  if (connected instanceof StepError || !connected) {
    await report.after(undefined, way, checkLarge);
    return;
  }
  if (isIn && !speaksQrht(connected.alpn)) report.skip(way, "not supported in the raw dialect");
  else await report.after(isIn && connected, way, checkLarge);
  await connected.settled(SETTLE_MS);
  connected.close(CloseCode.AgentLeaves, CHECKED);
}

/** A connection, or why the server closed it right after the handshake. */
type Connected = QuicConnection | StepError;

async function connect(
  endpoint: QuicEndpoint,
  address: Authority,
  { tls, serverName, alpn }: SessionCheck,
): Promise<Found<Connected>> {
  try {
    const value = await endpoint.connect(address, serverName, {
      tls: new AnchorChoice(tls),
      alpn,
      keepAliveMs: KEEPALIVE_MS,
      // Without stream credit, the server can send no clients, in either dialect.
      maxStreams: 0,
    });
    const { rttMs } = value.stats();
    return { found: `${value.alpn}, round trip ${rttMs} ms, ${describeServer(value)}`, value };
  } catch (error) {
    const value = stepError(explainConnectError(error, tls, serverName));
    const wasJudged = error instanceof ConnectionClosedError && error.info.by === "peer" &&
      error.info.application;
    if (wasJudged) return { found: "both ends accept each other's certificate", value };
    throw value;
  }
}

function describeServer({ peerCertificates }: QuicConnection): string {
  const { subject, notAfter } = certificateFields(describeCertificate(peerCertificates![0]!));
  return `certificate of ${quote(subject)}, valid until ${notAfter}`;
}

/** Checks that the server does not close the connection after verifying this end. */
async function checkAdmission(
  connection: Connected,
  { program, name, tls, serverName }: SessionCheck,
): Promise<Found> {
  if (connection instanceof StepError) throw connection;
  const hello = Promise.withResolvers<Hello>();
  let drains = false;
  const control = startControl(connection, { program, name }, {
    hello: hello.resolve,
    drain: () => drains = true,
    violated: (error) =>
      hello.reject(new StepError(error.message, "run the same version at both ends")),
  });
  // At once, so that the server sends no clients.
  control?.drain();
  const over = new AbortController();
  const closed = connection.closed.then((info): never => {
    throw stepError(explainConnectError(new ConnectionClosedError(info), tls, serverName));
  });
  try {
    if (!control) {
      const { rttMs } = connection.stats();
      const ms = RAW_JUDGEMENT_MS + RAW_JUDGEMENT_ROUND_TRIPS * rttMs;
      await Promise.race([closed, sleep(ms, over.signal)]);
      return { found: "admitted, as far as the raw dialect shows", value: true };
    }
    const said = await Promise.race([
      hello.promise,
      closed,
      sleep(HELLO_TIMEOUT_MS, over.signal),
    ]);
    if (!said) {
      const found = `no HELLO on the control stream within ${HELLO_TIMEOUT_MS} ms of the handshake`;
      // HELLO may have been in a large datagram.
      throw new StepError(`${found}: large datagrams may be lost`, LOST_DATAGRAMS_HINT);
    }
    const who = [said.program, said.version, said.name].filter((word) => word).join(" ");
    return { found: `admitted by ${who}${drains ? ", which is draining" : ""}`, value: true };
  } finally {
    over.abort();
    closed.catch(() => {});
    hello.promise.catch(() => {});
  }
}

async function checkLarge(connection: QuicConnection): Promise<Found> {
  // By then, the control stream has arrived.
  await connection.settled(SETTLE_MS);
  switch (await largeDatagramsArrive(connection)) {
    case true:
      return { found: "delivered", value: true };
    case false: {
      const found = `those above ${MIN_DATAGRAM_BYTES} bytes are lost`;
      throw new StepError(found, LOST_DATAGRAMS_HINT);
    }
    default:
      return { found: "unknown", value: true, isWarning: true };
  }
}

function stepError(error: unknown): StepError {
  const { message } = error as Error;
  const hint = error instanceof ConnectError ? error.hint : undefined;
  return new StepError(message, hint ?? "see the server's log", { cause: error });
}
