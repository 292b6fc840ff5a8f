// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Steps about the addresses that a server listens on. */
import { type Authority, formatAuthority } from "../../net/authority.ts";
import { listenOn } from "../../net/listen_on.ts";
import { messageOf } from "../../errors.ts";
import { listenUnix, type UnixSocketOptions } from "../../net/unix_listener.ts";
import { UnixFront } from "../../server/unix_front.ts";
import { probeUdp } from "./udp.ts";
import { type Found, StepError } from "./report.ts";

const MAYBE_RUNNING = "this is expected if a proxy-server is already running here";

/** Time for the program that has the port to answer. */
const PROBE_MS = 500;

/**
 * Whether a listener on TCP can be bound.
 *
 * @param isShared whether a server that shares it may be running. Even then, this does not share
 * it, which would take clients from that server, and can only warn of a port that is in use
 */
export function checkTcpAddress(
  address: Authority,
  flag: "--listen-tcp" | "--listen-tls" | "--listen-fallback" = "--listen-tcp",
  isShared = false,
): Found {
  try {
    listenOn(address.hostname, (hostname) => Deno.listen({ ...address, hostname })).close();
    return { found: foundOf(address), value: true };
  } catch (error) {
    if (isShared && error instanceof Deno.errors.AddrInUse) {
      const found = "in use, by servers with --reuse-port or by another program";
      return { found, value: true, isWarning: true };
    }
    throw bindError(flag, address, error, "by another program");
  }
}

/** Whether the Unix socket for clients can be bound, and who can connect to it. */
export async function checkUnixSocket(options: UnixSocketOptions): Promise<Found> {
  try {
    const front = new UnixFront(await listenUnix(options), "http-connect");
    const { access, uid, gid, hint } = front.fields;
    front.close();
    const found = `free, with access ${access}, uid ${uid}, gid ${gid}`;
    return { found: hint === undefined ? found : `${found}; ${hint}`, value: true };
  } catch (error) {
    const problem = messageOf(error);
    throw new StepError(problem, `--uds-name ${options.path}: ${problem}`, { cause: error });
  }
}

/** Whether the listener for agents can be bound. */
export async function checkUdpAddress(address: Authority): Promise<Found> {
  try {
    listenOn(
      address.hostname,
      (hostname) => Deno.listenDatagram({ transport: "udp", ...address, hostname }),
    ).close();
    return { found: foundOf(address), value: true };
  } catch (error) {
    const isTaken = error instanceof Deno.errors.AddrInUse;
    const who = isTaken && await answersQuic(address) ? "by a QUIC server" : "by another program";
    throw bindError("--listen-quic", address, error, who);
  }
}

function foundOf({ port }: Authority): string {
  return port === 0 ? "a free port is available" : "free";
}

function bindError(flag: string, address: Authority, error: unknown, who: string): StepError {
  const where = `${flag} ${formatAuthority(address)}`;
  if (!(error instanceof Deno.errors.AddrInUse)) {
    const fix = `set ${flag} to an address of this machine and a port that the program may bind`;
    return new StepError(`cannot listen: ${messageOf(error)}`, `${fix}: not ${where}`);
  }
  return new StepError(
    `in use ${who}; ${MAYBE_RUNNING}`,
    `${where} is in use: stop the program that uses it, or choose another port; ${MAYBE_RUNNING}`,
  );
}

async function answersQuic({ hostname, port }: Authority): Promise<boolean> {
  const any: Record<string, string> = { "": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1" };
  try {
    return await probeUdp({ hostname: any[hostname] ?? hostname, port }, PROBE_MS) === "answers";
  } catch {
    return false;
  }
}
