// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { FileCertificate } from "../tls/material.ts";
import { usabilityOf } from "../tls/usability.ts";
import type { Monitor, Peer } from "./monitor.ts";

/** A condition for a program to serve clients. */
export interface ReadinessCheck {
  readonly name: string;
  /** The problem, undefined if there is none. */
  readonly problem: string | undefined;
}

/** All conditions for a program to serve clients. It is ready when none has a problem. */
export function readinessOf(monitor: Monitor, now = new Date()): readonly ReadinessCheck[] {
  const { isServer, peers } = monitor;
  const listeners = monitor.isListening ? undefined : "not listening yet";
  return [
    ...(isServer ? [{ name: "listeners", problem: listeners }] : []),
    { name: isServer ? "agents" : "servers", problem: peersProblem(isServer, [...peers]) },
    { name: "certificates", problem: certificatesProblem(monitor.certificates, now) },
    { name: "draining", problem: monitor.isDraining ? "shutting down" : undefined },
  ];
}

/** Whether each of a server's groups, if there are several, has agents to serve its clients. */
export function readinessOfGroups({ groups, peers }: Monitor): readonly ReadinessCheck[] {
  return groups.map(({ name }) => ({
    name: `group ${name}`,
    problem: peersProblem(true, [...peers].filter(({ groups }) => groups?.includes(name))),
  }));
}

function peersProblem(isServer: boolean, peers: readonly Peer[]): string | undefined {
  const serving = peers.filter(({ isDraining }) => !isDraining);
  if (serving.some(({ isResponsive }) => isResponsive)) return undefined;
  const none = isServer ? "no agent is connected" : "not connected to a server";
  if (peers.length === 0) return none;
  return serving.length === 0 ? `${none} that accepts tunnels` : `${none} that responds`;
}

function certificatesProblem(
  certificates: readonly FileCertificate[],
  now: Date,
): string | undefined {
  const unusable = usabilityOf(certificates, now).filter(({ problem }) => problem !== undefined);
  return unusable.map(({ flag, problem }) => `${flag} ${problem}`).join(", ") || undefined;
}
