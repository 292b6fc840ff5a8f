// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import project from "../deno.json" with { type: "json" };

/** Version of the programs: the one in `deno.json`. */
export const version: string = project.version;
