// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Application error codes of connections (docs/protocol.md, "Errors"). */
export const CloseCode = {
  ServerStopped: 0,
  /** The agent stops, or has another connection instead. */
  AgentLeaves: 100,
  /** The peer has violated the dialect. */
  ProtocolError: 101,
  /** The server admits no name in the agent's certificate. */
  NotAdmitted: 102,
  /** The server stops, or has as many agents as it takes. */
  NoFurtherAgents: 103,
} as const;

/** Application error codes of streams (docs/protocol.md, "Errors"). */
export const StreamCode = {
  Aborted: 0,
  /** Of a raw stream: its upstream could not be reached. */
  UpstreamUnreachable: 1,
  ProtocolError: 2,
  /** The server has another agent serve the tunnel instead. */
  Moved: 3,
} as const;
