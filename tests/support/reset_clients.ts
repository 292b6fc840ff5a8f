// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Connects to a port, as often as told, and resets each connection. Arguments: port, count. */
import { once } from "node:events";
import { connect } from "node:net";

const [port, count] = Deno.args.map(Number);
for (let i = 0; i < count!; i++) {
  const socket = connect(port!, "127.0.0.1");
  await once(socket, "connect");
  socket.resetAndDestroy();
}
