// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

let reads = 0;

const { dlopen } = Deno;

// Whoever counts imports this before anything that opens the C library.
Deno.dlopen = (path, symbols) => {
  const library = dlopen(path, symbols);
  const counted = Object.entries(library.symbols).map(([name, call]) =>
    name === "getsockname" || name === "getpeername"
      ? [name, (...args: unknown[]) => {
        reads++;
        return (call as (...args: unknown[]) => unknown)(...args);
      }]
      : [name, call]
  );
  return { symbols: Object.fromEntries(counted), close: () => library.close() };
};

/** How often the C library was asked for the address of a socket. */
export function addressReads(): number {
  return reads;
}
