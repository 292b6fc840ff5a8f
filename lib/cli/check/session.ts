// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Steps of an agent that connects to its server briefly, and serves no clients. */
import type { Authority } from "../../net/authority.ts";
import { CloseCode } from "../../qrht/codes.ts";
import { ConnectError, explainConnectError } from "../../agent/connect_error.ts";
import { type OpenConnection, openConnection } from "../../agent/open_connection.ts";
import { AnchorChoice } from "../../tls/anchor_choice.ts";
import type { TlsMaterial } from "../../tls/material.ts";
import { certificateFields, describeCertificate } from "../../tls/certificate.ts";
import { speaksQrht } from "../../qrht/dialect.ts";
import { quote } from "../../printable.ts";
import { LOST_DATAGRAMS_HINT } from "../../observe/large_datagrams.ts";
import { largeDatagramsArrive } from "./large_datagrams.ts";
import { startControl } from "../../qrht/control.ts";
import type { Hello } from "../../qrht/messages.ts";
import {
  type AgentConnection,
  congestionControls,
  ConnectionClosedError,
  MIN_DATAGRAM_BYTES,
  type OpenDatagramSocket,
  QuicConnection,
  type QuicLibraryChoice,
} from "../../quic/mod.ts";
import { sleep } from "../../wait.ts";
import { type Found, type Report, StepError } from "./report.ts";

export interface SessionCheck {
  /** Name of the program. */
  readonly program: string;
  readonly name: string | undefined;
  readonly serverName: string;
  readonly alpn: readonly string[];
  readonly quicLibrary: QuicLibraryChoice;
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

/** Time to deliver the last packets. */
const SETTLE_MS = 500;

/** Close reason, which the server logs. */
const CHECKED = "closed by --check";

/**
 * Connects to a server, checks whether it admits this agent, and disconnects.
 *
 * @param address undefined when it does not answer, as `options` are when an earlier step has
 * failed
 * @param carrier opens what takes the place of UDP
 */
export async function checkSession(
  report: Report,
  address: Authority | undefined,
  label: string,
  options: SessionCheck | undefined,
  carrier?: OpenDatagramSocket,
): Promise<void> {
  const connected = await report.after(
    address && options,
    `handshake with ${label}`,
    (options) => connect(address!, options, carrier),
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
  const { connection, close } = connected;
  if (!(connection instanceof QuicConnection)) report.skip(way, "not known on Deno's QUIC");
  else if (isIn && !speaksQrht(connection.alpn)) {
    report.skip(way, "not supported in the raw dialect");
  } else await report.after(isIn && connection, way, checkLarge);
  await connection.settled(SETTLE_MS);
  connection.close(CloseCode.AgentLeaves, CHECKED);
  await close(CloseCode.AgentLeaves);
}

/** A connection, or why the server closed it right after the handshake. */
type Connected = OpenConnection | StepError;

async function connect(
  address: Authority,
  { tls, serverName, alpn, quicLibrary }: SessionCheck,
  carrier: OpenDatagramSocket | undefined,
): Promise<Found<Connected>> {
  try {
    const value = await openConnection(
      address,
      {
        serverName,
        tls: new AnchorChoice(tls),
        alpn,
        quicLibrary,
        mtu: 0,
        congestionControl: congestionControls[0],
        // Without stream credit, the server can send no clients, in either dialect.
        maxStreams: 0,
      },
      new AbortController().signal,
      carrier,
    );
    return { found: describeConnection(value.connection), value };
  } catch (error) {
    const value = stepError(explainConnectError(error, tls, serverName));
    const wasJudged = error instanceof ConnectionClosedError && error.info.by === "peer" &&
      error.info.application;
    if (wasJudged) return { found: "both ends accept each other's certificate", value };
    throw value;
  }
}

function describeConnection(connection: AgentConnection): string {
  const { alpn, library, peerCertificates } = connection;
  const { rttMs } = connection.stats();
  if (!peerCertificates) return `${alpn}, library ${library}`;
  const { subject, notAfter } = certificateFields(describeCertificate(peerCertificates[0]!));
  return `${alpn}, round trip ${rttMs} ms, certificate of ${
    quote(subject)
  }, valid until ${notAfter}`;
}

/** Checks that the server does not close the connection after verifying this end. */
async function checkAdmission(
  connected: Connected,
  { program, name, tls, serverName }: SessionCheck,
): Promise<Found> {
  if (connected instanceof StepError) throw connected;
  const { connection } = connected;
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
      const { rttMs = 0 } = connection.stats();
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
