// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { closedFolder, formatMode, type UnixSocket } from "../net/unix_listener.ts";
import { unixDuplex } from "../tunnel/unix_duplex.ts";
import type { Front, FrontClient, FrontMode } from "./front.ts";

/** A front for clients of this machine, on a Unix socket. They have no addresses. */
export class UnixFront implements Front {
  readonly kind = "unix";
  readonly address: string;
  readonly #socket: UnixSocket;

  constructor(socket: UnixSocket, readonly mode: FrontMode) {
    this.#socket = socket;
    this.address = socket.path;
  }

  /** Who can connect, and what others need. */
  get fields(): Readonly<Record<string, unknown>> {
    const { path, file: { mode, uid, gid } } = this.#socket;
    return { access: formatMode(mode!), uid, gid, hint: hintFor(path, mode!, gid) };
  }

  async accept(): Promise<FrontClient> {
    return { carrier: unixDuplex(await this.#socket.accept()) };
  }

  retire(): void {
    this.#socket.remove();
  }

  close(): void {
    this.#socket.close();
  }
}

const GROUP_MAY_WRITE = 0o020;
const OTHERS_MAY_WRITE = 0o002;

function hintFor(path: string, mode: number, gid: number | null): string | undefined {
  if ((mode & (GROUP_MAY_WRITE | OTHERS_MAY_WRITE)) === 0) return undefined;
  const closed = closedFolder(path, gid);
  if (closed !== undefined) return `clients of another uid cannot search the folder ${closed}`;
  if ((mode & OTHERS_MAY_WRITE) !== 0) return undefined;
  return `clients of another uid have to be in group ${gid}: see --uds-group and --uds-mode`;
}
