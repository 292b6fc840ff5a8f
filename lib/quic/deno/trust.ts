// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Has Deno trust no CA but those that each connection names.
 *
 * By itself, it adds them to its own: those of Mozilla or of the system, as `DENO_TLS_CA_STORE`
 * says, and those in the files that `DENO_CERT` and `NODE_EXTRA_CA_CERTS` name. It reads these
 * variables once, when anything needs its CAs for the first time. With an empty store and without
 * the files there are none.
 */
import { messageOf, UsageError } from "../../errors.ts";

const STORE = "DENO_TLS_CA_STORE";
const FILES = ["DENO_CERT", "NODE_EXTRA_CA_CERTS"];

/** Environment variables that the program must be allowed to change. */
const VARIABLES = [STORE, ...FILES];

/** No store has this name, so loading it fails. */
const NO_STORE = "none";

let isDone = false;

/**
 * Removes Deno's own CAs, for the rest of the process.
 *
 * @throws {UsageError} when that is not possible: it may not change the environment, or Deno has
 * loaded its CAs already, as `deno run` does to download packages, and half a second after its start
 * to look for a new version
 */
export function trustNoOtherCa(): void {
  if (isDone) return;
  try {
    for (const name of FILES) Deno.env.delete(name);
    if (!Deno.build.standalone) assertNotLoaded();
    Deno.env.set(STORE, "");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    throw new UsageError(
      `Deno's QUIC would trust CAs that are not in --ca-file: start with --allow-env=${
        ["QRHT_*", ...VARIABLES].join(",")
      }`,
      { cause: error },
    );
  }
  useRoots();
  isDone = true;
}

/**
 * Compiled programs keep the error of the first time, so they are not asked. They load nothing
 * before their own code runs.
 */
function assertNotLoaded(): void {
  Deno.env.set(STORE, NO_STORE);
  try {
    useRoots();
  } catch (error) {
    if (messageOf(error).includes(NO_STORE)) return;
    throw error;
  }
  throw new UsageError(
    "Deno has loaded its own CAs already, to download packages or to look for a new version: " +
      "start the program again, with DENO_NO_UPDATE_CHECK=1 in its environment",
  );
}

/** Loads Deno's CAs, without any traffic. */
function useRoots(): void {
  Deno.createHttpClient({}).close();
}
