// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The one place that imports the native binding (quiche 0.18.0 behind Node-API), without the
 * classes around it.
 *
 * Everything in this folder exists only because of this binding and this version of quiche. When
 * either changes, look here first: each work-around says when it can go.
 *
 * The binding reports errors as text, the `Debug` form of quiche's error type: {@linkcode
 * nativeErrorOf} is the only code that reads it.
 */
import "./addon.ts";
import type { Authority } from "../../net/authority.ts";
import { messageOf } from "../../errors.ts";
import { unsupported } from "./platforms.ts";

type Native = typeof import("@matrixai/quic/native");

/** The native library cannot be used on this machine. */
export class NativeLibraryError extends Error {
  override readonly name = "NativeLibraryError";
}

/** What is wrong when the binding could not be loaded. */
export function nativeLibraryError(
  cause: unknown,
  target: string = Deno.build.target,
): NativeLibraryError {
  const message = unsupported(target) ??
    `cannot load the QUIC library: ${messageOf(cause).split("\n", 1)[0]}`;
  return new NativeLibraryError(message, { cause });
}

/**
 * Without the library, its first use throws: a program can still show its help and version, and
 * report the error.
 */
const native = await import("@matrixai/quic/native").then(exportsOf, refusing);

/** What a CommonJS module exports, of which Deno finds not all names. */
function exportsOf(module: Native & { readonly default?: Native }): Native {
  return module.default ?? module;
}

function refusing(cause: unknown): Native {
  const refuse = () => {
    throw nativeLibraryError(cause);
  };
  const quiche = new Proxy({}, { get: refuse });
  return { quiche, Shutdown: {} } as Native;
}

export const { quiche, Shutdown } = native;

export type NativeConfig = InstanceType<typeof quiche.Config>;
export type NativeConnection = ReturnType<typeof quiche.Connection.connect>;

/** IP address and UDP port, as quiche takes and gives them. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** An address in quiche's form. */
export function hostPort({ hostname, port }: Authority): HostPort {
  return { host: hostname, port };
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
