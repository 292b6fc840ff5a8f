// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { createHash, randomBytes } from "node:crypto";
import { abortable } from "@std/async/abortable";
import { messageOf } from "../lib/errors.ts";
import { LARGE_BYTES, reprDigest } from "./digest.ts";
import { type HttpRequest, type HttpResponse, send } from "./http.ts";
import type { Stage } from "./stage.ts";

/** A request, and what its answer must be. */
export interface Check {
  readonly name: string;
  readonly request: HttpRequest;
  judge(response: HttpResponse): Verdict;
}

export interface Verdict {
  readonly ok: boolean;
  /** What was seen, in a few words. */
  readonly text: string;
}

/** How a check went; there is no measurement if there was no answer. */
export interface Result extends Verdict {
  readonly name: string;
  readonly measured?: {
    /** Bytes of the larger body, either way. */
    readonly bytes: number;
    readonly firstByteMs: number;
    readonly totalMs: number;
  };
}

const CHECK_TIMEOUT_MS = 60_000;

/** Where nothing listens: a reserved port, since a free one may be taken before it is dialled. */
const NOWHERE = { hostname: "127.0.0.1", port: 1 };

/** The checks of the network whose agent serves CONNECT. */
export function officeChecks({ office, origin }: Stage): Check[] {
  const tunnel = { via: office.tcp, tunnelTo: origin.tcp };
  const upload = randomBytes(LARGE_BYTES);
  const uploadDigest = reprDigest(createHash("sha256").update(upload));
  return [
    { name: "GET /", request: { ...tunnel, method: "GET", path: "/" }, judge: isWhole },
    { name: "GET /large", request: { ...tunnel, method: "GET", path: "/large" }, judge: isWhole },
    {
      name: "POST /upload",
      request: { ...tunnel, method: "POST", path: "/upload", body: upload },
      judge: (response) => compare(response, uploadDigest),
    },
    {
      name: "CONNECT nowhere",
      request: { ...tunnel, tunnelTo: NOWHERE, method: "GET", path: "/" },
      judge: isRefused,
    },
  ];
}

/** The checks of the network with one upstream. */
export function labChecks({ lab }: Stage): Check[] {
  const via = lab.tcp;
  return [
    { name: "GET /", request: { via, method: "GET", path: "/" }, judge: isWhole },
    { name: "GET /large", request: { via, method: "GET", path: "/large" }, judge: isWhole },
  ];
}

/** Does what a check says. Rejects only when the signal aborts. */
export async function runCheck(check: Check, signal: AbortSignal): Promise<Result> {
  const { name, request } = check;
  const late = AbortSignal.timeout(CHECK_TIMEOUT_MS);
  const either = AbortSignal.any([signal, late]);
  try {
    const response = await abortable(send(request, either), either);
    const { firstByteMs, totalMs } = response;
    const bytes = Math.max(response.length, request.body?.length ?? 0);
    return { name, measured: { bytes, firstByteMs, totalMs }, ...check.judge(response) };
  } catch (error) {
    signal.throwIfAborted();
    const text = late.aborted ? `no answer within ${CHECK_TIMEOUT_MS / 1000} s` : messageOf(error);
    return { name, ok: false, text };
  }
}

/** What the client got is what the origin says it has sent. */
function isWhole(response: HttpResponse): Verdict {
  return compare(response, response.digest);
}

function compare({ status, reason, fields }: HttpResponse, digest: string): Verdict {
  if (status !== 200) return { ok: false, text: `${status} ${reason}` };
  const theirs = fields.get("repr-digest");
  return theirs === digest
    ? { ok: true, text: `200, SHA-256 ${hex(digest).slice(0, 8)}… at both ends` }
    : { ok: false, text: `SHA-256 ${hex(digest)} here, ${hex(theirs)} at the origin` };
}

function isRefused({ status, reason }: HttpResponse): Verdict {
  const ok = status === 502 && reason.endsWith(": connection refused");
  return { ok, text: `${status} ${reason}` };
}

function hex(digest = ""): string {
  const base64 = digest.split(":")[1];
  return base64 === undefined ? "none" : Uint8Array.fromBase64(base64).toHex();
}
