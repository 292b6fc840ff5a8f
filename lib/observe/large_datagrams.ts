// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Warns if the path to a peer loses all but the smallest datagrams, which slows tunnels down. */
import type { Logger } from "../log.ts";
import { type AgentConnection, BASE_DATAGRAM_BYTES } from "../quic/mod.ts";

/** What to do about it. */
export const LOST_DATAGRAMS_HINT =
  "tunnels are slower than necessary: raise the MTU of the whole path to the peer to 1400, also that of VPNs";

/** Logs it, once, when large datagrams of a connection turn out to be lost, if it tells. */
export function logLargeDatagrams(
  { path }: Pick<AgentConnection, "path">,
  log: Logger,
  fields: Readonly<Record<string, unknown>>,
): void {
  if (!path) return;
  path.onBlackHole = () => {
    if (path.datagramBytes >= BASE_DATAGRAM_BYTES) return;
    log.warn("large datagrams are lost", {
      ...fields,
      largerThan: path.datagramBytes,
      hint: LOST_DATAGRAMS_HINT,
    });
    path.onBlackHole = undefined;
  };
}
