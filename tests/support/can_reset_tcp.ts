// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { libc } from "../../lib/net/libc.ts";

/** Whether TCP connections can be reset here. */
export const canResetTcp = libc !== undefined;
