// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Chromium, and Firefox where it is installed, as a client of proxy-agent, with the arguments that docs/clients.md names. */
import { assertEquals } from "@std/assert";
import { PrivateSite } from "../interop/support/private_site.ts";
import { clientLine } from "../support/client_lines.ts";
import { findProgram } from "../support/required_programs.ts";
import { startChromium } from "./support/chromium.ts";

/** Says something to a WebSocket, and gives what it hears. */
const ASK_SOCKET = (url: string) =>
  `new Promise((resolve, reject) => {
  const socket = new WebSocket(${JSON.stringify(url)});
  socket.onopen = () => socket.send("hello");
  socket.onmessage = ({ data }) => resolve(data);
  socket.onerror = () => reject(new Error("the WebSocket failed"));
})`;

/** What a line of the documentation comes to: the protocols of pages by HTTP and the rest. */
const VIA = {
  http: ["http web.internal", "connect web.internal"],
  socks5: ["socks5 web.internal"],
};

/** Browsers ask for more than they are told to. */
const INTERNAL_ONLY = { agent: { allow: "*.internal" } };

for (const [scheme, tunnels] of Object.entries(VIA)) {
  Deno.test(`Chromium loads pages and WebSockets through proxy-agent by ${scheme}`, async () => {
    await using site = await PrivateSite.start(INTERNAL_ONLY);
    const line = clientLine(`chromium --proxy-server=${scheme}:`, site.tunnel);
    {
      await using browser = await startChromium(...line.split(" ").slice(1));
      await using context = await browser.newContext({ ignoreHTTPSErrors: true });
      const page = await context.newPage();
      for (
        const url of ["http://web.internal/", "https://web.internal/"].map((url) => site.place(url))
      ) {
        await page.goto(url);
        assertEquals((await page.innerText("body")).trim(), "hello from web.internal");
        assertEquals(await page.evaluate(ASK_SOCKET(url.replace("http", "ws"))), "hello");
        // Several at once, each a request of its own.
        const sizes = await page.evaluate(`Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((n) =>
          fetch("/bytes/" + n + "00000").then((response) => response.arrayBuffer())
            .then(({ byteLength }) => byteLength)))`);
        assertEquals(sizes, [1, 2, 3, 4, 5, 6, 7, 8].map((n) => n * 100_000));
      }
    }
    await site.assertTunnels(tunnels);
  });
}

/** What the settings that docs/clients.md names come to. */
const FIREFOX: Readonly<Record<string, (host: string, port: number) => Record<string, unknown>>> = {
  http: (host, port) => ({ http: host, http_port: port, ssl: host, ssl_port: port }),
  socks5: (host, port) => ({
    socks: host,
    socks_port: port,
    socks_version: 5,
    socks_remote_dns: true,
  }),
};

for (const [via, settingsOf] of Object.entries(FIREFOX)) {
  Deno.test({
    name: `Firefox loads a page through proxy-agent by ${via}`,
    ignore: findProgram("firefox-esr") === undefined,
    fn: async () => {
      await using site = await PrivateSite.start(INTERNAL_ONLY);
      const { host, port } = site.tunnel;
      const profile = `${site.home}/profile`;
      await Deno.mkdir(profile);
      const settings = { type: 1, ...settingsOf(host, port) };
      const lines = Object.entries(settings).map(([name, value]) =>
        `user_pref("network.proxy.${name}", ${JSON.stringify(value)});\n`
      );
      await Deno.writeTextFile(`${profile}/user.js`, lines.join(""));
      const options = `--headless --profile ${profile} --screenshot ${site.home}/page.png`;
      await site.run(`firefox-esr ${options} http://web.internal/`);
      await site.assertTunnels([`${via} web.internal`]);
    },
  });
}
