// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The one place that imports the native binding (quiche 0.18.0 behind Node-API).
 *
 * The binding reports errors as text, the `Debug` form of quiche's error type: {@linkcode nativeErrorOf} is the only
 * code that reads it.
 */
import { native } from "@matrixai/quic";

export const { quiche } = native;
export const { Shutdown, Type: PacketType } = native;

export type NativeConfig = InstanceType<typeof quiche.Config>;
export type NativeConnection = ReturnType<typeof quiche.Connection.connect>;

/** IP address and UDP port, as quiche takes and gives them. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** A quiche error: its name, and the application error code where the peer sent one. */
export interface NativeError {
  /** Variant name, such as `StreamReset`, `TlsFail`, `FlowControl`. */
  readonly name: string;
  /** Application error code of `StreamReset` and `StreamStopped`, else 0. */
  readonly code: number;
}

const variant = /^(\w+)(?:\((\d+)\))?$/;

/** Reads the error that a call into the binding threw. */
export function nativeErrorOf(error: unknown): NativeError {
  const text = error instanceof Error ? error.message : String(error);
  const match = variant.exec(text);
  return match ? { name: match[1]!, code: Number(match[2] ?? 0) } : { name: text, code: 0 };
}
