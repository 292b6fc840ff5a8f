// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/// <reference lib="deno.worker" />

/** The relays between agents and servers, in a thread of their own, so that packets do not wait for the load. */
import { UdpRelay } from "../support/udp_relay.ts";
import type { LinkAnswer, LinkCommand } from "./link.ts";

const relays = new Map<number, UdpRelay>();

self.addEventListener("message", ({ data }: MessageEvent<LinkCommand>) => {
  const relay = relays.get(data.link);
  switch (data.kind) {
    case "open": {
      const opened = new UdpRelay(data.server, { seed: data.seed });
      relays.set(data.link, opened);
      const answer: LinkAnswer = { link: data.link, port: opened.addr.port };
      return self.postMessage(answer);
    }
    case "impair":
      return relay?.impair(data.impairment);
    case "cut":
      return relay?.cut(data.way);
    case "restore":
      return relay?.restore();
    case "rebind":
      return relay?.rebind();
  }
});
