// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { onAbort } from "../lib/on_abort.ts";

const pure = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });

pure("onAbort() calls each listener once, in their order", () => {
  const controller = new AbortController();
  const calls: number[] = [];
  for (const i of [1, 2, 3]) onAbort(controller.signal, () => calls.push(i));
  assertEquals(calls, []);
  controller.abort();
  controller.abort();
  assertEquals(calls, [1, 2, 3]);
});

pure("onAbort() calls no listener that was taken off, also by one before it", () => {
  const controller = new AbortController();
  const calls: number[] = [];
  const off = onAbort(controller.signal, () => calls.push(1));
  onAbort(controller.signal, () => (calls.push(2), last()));
  const last = onAbort(controller.signal, () => calls.push(3));
  off();
  off();
  controller.abort();
  assertEquals(calls, [2]);
});

pure("onAbort() does not call for an abort that is over", () => {
  const controller = new AbortController();
  onAbort(controller.signal, () => {});
  controller.abort();
  const calls: number[] = [];
  onAbort(controller.signal, () => calls.push(1));
  onAbort(AbortSignal.abort(), () => calls.push(2));
  assertEquals(calls, []);
});

pure("onAbort() keeps the listeners of different signals apart", () => {
  const [a, b] = [new AbortController(), new AbortController()];
  const calls: string[] = [];
  onAbort(a.signal, () => calls.push("a"));
  onAbort(b.signal, () => calls.push("b"));
  b.abort();
  assertEquals(calls, ["b"]);
});

pure("onAbort() listens to a signal once for all", () => {
  const controller = new AbortController();
  let added = 0;
  const add = controller.signal.addEventListener.bind(controller.signal);
  controller.signal.addEventListener = (...args: Parameters<typeof add>) => (added++, add(...args));
  for (let i = 0; i < 10; i++) onAbort(controller.signal, () => {});
  assertEquals(added, 1);
});
