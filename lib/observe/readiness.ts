// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Monitor, UsedCertificate } from "./monitor.ts";
import type { ProgramName } from "../version.ts";

/** Whether something is as it has to be for a program to serve clients. */
export interface Check {
  readonly name: string;
  /** What is wrong; undefined when nothing is. */
  readonly problem: string | undefined;
}

/** Everything that a program has to have to serve clients. It is ready when none has a problem. */
export function readinessOf(program: ProgramName, monitor: Monitor, now: Date): readonly Check[] {
  const isServer = program === "proxy-server";
  const listeners = monitor.isListening ? undefined : "it does not listen yet";
  return [
    ...(isServer ? [{ name: "listeners", problem: listeners }] : []),
    { name: isServer ? "agents" : "servers", problem: peersProblem(isServer, monitor) },
    { name: "certificates", problem: certificatesProblem(monitor.certificates(), now) },
    { name: "draining", problem: monitor.isDraining ? "it was told to stop" : undefined },
  ];
}

function peersProblem(isServer: boolean, { peers }: Monitor): string | undefined {
  const serving = [...peers].filter(({ isDraining }) => !isDraining);
  if (serving.some(({ isResponsive }) => isResponsive)) return undefined;
  const none = isServer ? "no agent is connected" : "not connected to a server";
  if (peers.size === 0) return none;
  return serving.length === 0 ? `${none} that takes tunnels` : `${none} that answers`;
}

function certificatesProblem(
  certificates: readonly UsedCertificate[],
  now: Date,
): string | undefined {
  const expired = certificates.filter(({ info }) => info.notAfter < now);
  if (expired.length === 0) return undefined;
  return expired.map(({ flag, info }) => `${flag} has expired at ${info.notAfter.toISOString()}`)
    .join(", ");
}
