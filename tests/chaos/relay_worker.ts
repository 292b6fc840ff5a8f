// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/// <reference lib="deno.worker" />

/** The relays between agents and servers, in a thread of their own, so that packets do not wait for the load. */
import { TcpRelay } from "../support/tcp_relay.ts";
import { UdpRelay } from "../support/udp_relay.ts";
import type { LinkAnswer, LinkCommand } from "./link.ts";

const relays = new Map<number, UdpRelay | TcpRelay>();

self.addEventListener("message", ({ data }: MessageEvent<LinkCommand>) => {
  const { link } = data;
  if ("action" in data) {
    const relay = relays.get(link)!;
    return Reflect.apply(Reflect.get(relay, data.action), relay, data.args);
  }
  const { server } = data;
  const relay = "seed" in data ? new UdpRelay(server, data) : new TcpRelay(server, data);
  relays.set(link, relay);
  const answer: LinkAnswer = { link, port: relay.addr.port };
  self.postMessage(answer);
});
