// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Makes compiled programs on Linux run the native library from memory.
 *
 * By itself, Deno unpacks it to the folder for temporary files, which then has to exist, be
 * writable and executable, and is shared with others. Can go when Deno loads libraries of compiled
 * programs without a file.
 */
import { createRequire } from "node:module";
import { libc } from "../../net/libc.ts";

/** memfd_create(2); kernels before 6.3 know no `MFD_EXEC`, and need none. */
const MFD_CLOEXEC = 1;
const MFD_EXEC = 16;

if (Deno.build.standalone && Deno.build.os === "linux") {
  const { extensions } = createRequire(import.meta.url);
  const open = extensions[".node"]!;
  extensions[".node"] = (module, path) => {
    try {
      withCopyInMemory(path, (copy) => open(module, copy));
    } catch {
      // Where the system allows no such memory, there is still Deno's own way.
      open(module, path);
    }
  };
}

/** Copies a file into memory for as long as it takes to use it there. */
function withCopyInMemory(path: string, use: (copy: string) => void): void {
  if (!libc) throw new Error("no C library");
  const { close, memfd_create: create, write } = libc;
  const name = new TextEncoder().encode("quic.node\0");
  let fd = create(name, MFD_CLOEXEC | MFD_EXEC);
  if (fd < 0) fd = create(name, MFD_CLOEXEC);
  try {
    for (let rest = Deno.readFileSync(path); rest.length > 0;) {
      const written = Number(write(fd, rest, BigInt(rest.length)));
      if (written <= 0) throw new Error("no memory to load a library from");
      rest = rest.subarray(written);
    }
    use(`/proc/self/fd/${fd}`);
  } finally {
    if (fd >= 0) close(fd);
  }
}
