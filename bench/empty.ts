// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line tells the benchmark that it runs

/** What every program of Deno's takes. */
console.error("started");
setInterval(() => {}, 1_000_000);
