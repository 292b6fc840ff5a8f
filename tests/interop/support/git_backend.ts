// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { pathOf } from "./programs.ts";

/** Answers as `git http-backend` does, which is a program for the Common Gateway Interface (RFC 3875). */
export async function gitBackend(request: Request, root: string): Promise<Response> {
  const { pathname, search } = new URL(request.url);
  const { headers } = request;
  const child = new Deno.Command(pathOf("git"), {
    args: ["http-backend"],
    env: {
      GIT_HTTP_EXPORT_ALL: "1",
      GIT_PROJECT_ROOT: root,
      REQUEST_METHOD: request.method,
      PATH_INFO: pathname,
      QUERY_STRING: search.slice(1),
      CONTENT_TYPE: headers.get("content-type") ?? "",
      HTTP_CONTENT_ENCODING: headers.get("content-encoding") ?? "",
      GIT_PROTOCOL: headers.get("git-protocol") ?? "",
      // Whoever has a name may push.
      REMOTE_USER: "test",
    },
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const [output] = await Promise.all([
    child.output(),
    (request.body ?? new Blob().stream()).pipeTo(child.stdin),
  ]);
  const text = new TextDecoder("latin1").decode(output.stdout);
  const end = text.indexOf("\r\n\r\n");
  const fields = text.slice(0, end).split("\r\n").map((line) =>
    line.split(": ") as [string, string]
  );
  const status = fields.find(([name]) => name === "Status")?.[1].slice(0, 3) ?? "200";
  return new Response(output.stdout.slice(end + 4), {
    status: Number(status),
    headers: fields.filter(([name]) => name !== "Status"),
  });
}
