// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Keeps an error that no test catches from ending as a segmentation fault.
 *
 * After such an error `deno test` dispatches `unload` and frees every native object, but timers and sockets go on for
 * some turns: they would call quiche with connections that are freed. `deno run` runs no JavaScript after `unload`.
 *
 * Can go when `deno test` (2.9.6) runs no JavaScript after it has called the finalizers of Node-API.
 */
import { quiche } from "../../lib/quic/quiche/native.ts";

function gone(): never {
  throw new Error("the native objects are freed");
}

addEventListener("unload", () => {
  const prototype: object = Reflect.get(quiche.Connection, "prototype");
  for (const name of Object.keys(prototype)) Object.assign(prototype, { [name]: gone });
  Object.assign(quiche, { Connection: { accept: gone, connect: gone } });
  // What fails now would be reported instead of the error that no test has caught.
  for (const type of ["error", "unhandledrejection"]) {
    addEventListener(type, (event) => event.preventDefault());
  }
});
