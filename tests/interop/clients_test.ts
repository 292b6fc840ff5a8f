// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Clients of proxy-agent, run as docs/clients.md says. */
import { assert, assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { clientLines } from "../support/client_lines.ts";
import { patternStream, sha256 } from "../support/pattern.ts";
import { read } from "../support/repository.ts";
import { runCommand } from "../support/system_command.ts";
import { buildGo, go } from "./support/go.ts";
import { startOpenSsh } from "./support/openssh.ts";
import {
  makeDebianArchive,
  makeGitRepository,
  makeImage,
  makeNpmPackage,
  makeWheel,
} from "./support/packages.ts";
import { type LineOptions, PrivateSite, type Seen } from "./support/private_site.ts";

const UPLOAD_BYTES = 3_000_000;
const BULK_BYTES = 200_000_000;

/** A line of the documentation, and the tunnels that it takes: protocol and name of the target. */
type Line = readonly [line: string, ...tunnels: string[]];

interface Client {
  readonly lines: readonly Line[];
  /** Makes what the client is to get, and tells how its lines are run. */
  readonly prepare?: (site: PrivateSite, stack: AsyncDisposableStack) => Promise<LineOptions>;
  /** What it prints. */
  readonly prints?: string;
  /** A file that it leaves in its working directory, and a part of it. */
  readonly leaves?: readonly [name: string, part: string];
  /** Where it is missing, it is not run. */
  readonly ignore?: boolean;
}

const PROXY = "http://tunnel.example:8443";
const SOCKS = "socks5h://tunnel.example:8443";
const BOTH = `http_proxy=${PROXY} https_proxy=${PROXY}`;
const HELLO = "hello from web.internal\n";

const source = (name: string) => fileURLToPath(new URL(`clients/${name}`, import.meta.url));

/** Arguments of a program that gets URLs, what it prints, and its tunnels. */
const URLS = " http://web.internal/ http://other.internal/ https://web.internal/";
const GOT_URLS = `${HELLO}hello from other.internal\n${HELLO}`;
const BY_HTTP = ["http web.internal", "http other.internal", "connect web.internal"];
const BY_CONNECT = ["connect web.internal", "connect other.internal"];
const BY_SOCKS = ["socks5 web.internal", "socks5 other.internal"];

function programOf(name: string, path = source(name)): LineOptions {
  return { replace: { [name]: path }, behind: URLS };
}

const CLIENTS: Readonly<Record<string, Client>> = {
  curl: {
    lines: [
      [`curl --proxy ${PROXY} http://web.internal/`, "http web.internal"],
      [`curl -p --proxy ${PROXY} http://web.internal/`, "connect web.internal"],
      [`curl --proxy ${PROXY} https://web.internal/`, "connect web.internal"],
      ["curl --socks5-hostname tunnel.example:8443 https://web.internal/", "socks5 web.internal"],
      [`${BOTH} curl http://web.internal/`, "http web.internal"],
      [`ALL_PROXY=${SOCKS} curl https://web.internal/`, "socks5 web.internal"],
    ],
    prints: HELLO,
  },
  wget: {
    lines: [
      [`${BOTH} wget http://web.internal/`, "http web.internal"],
      [`${BOTH} wget https://web.internal/`, "connect web.internal"],
    ],
    prepare: () => Promise.resolve({ behind: " --ca-certificate=../ca.pem" }),
    leaves: ["index.html", HELLO],
  },
  git: {
    lines: [
      [`git -c http.proxy=${PROXY} clone http://git.internal/repo.git`, "http git.internal"],
      [`git -c http.proxy=${PROXY} clone https://git.internal/repo.git`, "connect git.internal"],
      [`git -c http.proxy=${SOCKS} clone https://git.internal/repo.git`, "socks5 git.internal"],
    ],
    prepare: makeGitRepository,
    leaves: ["repo/README", "hello\n"],
  },
  apt: {
    lines: [
      [
        `apt-get -o Acquire::http::Proxy=${PROXY} update`,
        "http apt.internal",
        "connect apt.internal",
      ],
      [`apt-get -o Acquire::http::Proxy=${SOCKS} update`, "socks5 apt.internal"],
    ],
    prepare: (site) => makeDebianArchive(site, 1),
    leaves: ["shown", "Package: hello-1\n"],
  },
  pip: {
    lines: [[`pip download --proxy ${PROXY} hello`, "connect pypi.internal"]],
    prepare: (site) => makeWheel(site, "https"),
    leaves: ["hello-1.0-py3-none-any.whl", "hello = 1"],
  },
  npm: {
    lines: [[
      `npm install --proxy ${PROXY} --https-proxy ${PROXY} hello`,
      "connect npm.internal",
    ]],
    prepare: (site) => makeNpmPackage(site, "https"),
    leaves: ["node_modules/hello/index.js", "// hello\n"],
  },
  skopeo: {
    lines: [[
      `https_proxy=${PROXY} skopeo copy docker://registry.internal/hello:1 dir:hello`,
      "connect registry.internal",
    ]],
    prepare: makeImage,
    leaves: ["hello/manifest.json", '"schemaVersion":2'],
  },
  ssh: {
    lines: [
      [
        'ssh -o "ProxyCommand=nc -X connect -x tunnel.example:8443 %h %p" host.internal',
        "connect host.internal",
      ],
      [
        'ssh -o "ProxyCommand=nc -X 5 -x tunnel.example:8443 %h %p" host.internal',
        "socks5 host.internal",
      ],
    ],
    prepare: async (_site, stack) => {
      const ssh = stack.use(await startOpenSsh());
      const args = await ssh.client("HostName host.internal", `Port ${ssh.port}`);
      const destination = ` ${args.join(" ")} ${ssh.host} echo hello`;
      return { replace: { " host.internal": destination } };
    },
    prints: "hello\n",
  },
  kubectl: {
    lines: [[`https_proxy=${PROXY} kubectl get --raw /healthz`, "connect kube.internal"]],
    prepare: async (site) => ({ env: { KUBECONFIG: await makeKubeConfig(site) } }),
    prints: "hello from kube.internal\n",
  },
  Python: {
    lines: [
      [`${BOTH} python3 get.py`, ...BY_HTTP],
      [`ALL_PROXY=${SOCKS} python3 get.py`, ...BY_SOCKS],
    ],
    prepare: () => Promise.resolve(programOf("get.py")),
    prints: GOT_URLS,
  },
  Node: {
    lines: [[`NODE_USE_ENV_PROXY=1 ${BOTH} node get.mjs`, ...BY_CONNECT]],
    prepare: async (site) => {
      // Node of the machine may be older.
      const args = ["install", "--silent", "--prefix", `${site.home}/node`, "node@24.21.0"];
      assertEquals((await runCommand("npm", args)).code, 0);
      const { replace, ...options } = programOf("get.mjs");
      return { replace: { ...replace, " node ": ` ../node/node_modules/.bin/node ` }, ...options };
    },
    prints: GOT_URLS,
  },
  Go: {
    lines: [
      [`${BOTH} ./get`, ...BY_HTTP],
      [
        "http_proxy=socks5://tunnel.example:8443 https_proxy=socks5://tunnel.example:8443 ./get",
        ...BY_SOCKS,
      ],
    ],
    prepare: async ({ home }) => {
      await buildGo("clients", `${home}/get`);
      return programOf("./get", `${home}/get`);
    },
    prints: GOT_URLS,
    ignore: go === undefined,
  },
  Java: {
    lines: [
      [
        "java -Dhttp.proxyHost=tunnel.example -Dhttp.proxyPort=8443 " +
        "-Dhttps.proxyHost=tunnel.example -Dhttps.proxyPort=8443 Get.java",
        ...BY_HTTP,
      ],
      ["java -DsocksProxyHost=tunnel.example -DsocksProxyPort=8443 Get.java", ...BY_SOCKS],
    ],
    prepare: async (site) => {
      const store = `${site.home}/ca.p12`;
      const args = ["-importcert", "-noprompt", "-file", `${site.home}/ca.pem`];
      const to = ["-keystore", store, "-storepass", "password", "-alias", "ca"];
      assertEquals((await runCommand("keytool", [...args, ...to])).code, 0);
      const { replace, ...options } = programOf("Get.java");
      const trust = `java -Djavax.net.ssl.trustStore=${store} ` +
        "-Djavax.net.ssl.trustStorePassword=password -D";
      return { replace: { ...replace, "java -D": trust }, ...options };
    },
    prints: GOT_URLS,
  },
};

/** A file for kubectl, and further lines about the cluster. */
async function makeKubeConfig(site: PrivateSite, ...lines: string[]): Promise<string> {
  const path = `${site.home}/kubeconfig-${lines.length}`;
  await Deno.writeTextFile(
    path,
    `
apiVersion: v1
kind: Config
clusters:
- name: a
  cluster:
    server: ${site.place("https://kube.internal")}
    certificate-authority: ${site.home}/ca.pem
${lines.map((line) => `    ${line}\n`).join("")}
contexts:
- name: a
  context: { cluster: a, user: a }
users:
- name: a
  user: { token: secret }
current-context: a
`,
  );
  await Deno.mkdir(`${site.home}/www/kube.internal`, { recursive: true });
  await Deno.writeTextFile(`${site.home}/www/kube.internal/healthz`, "hello from kube.internal\n");
  return path;
}

for (const [name, { lines, prepare, prints, leaves, ignore = false }] of Object.entries(CLIENTS)) {
  Deno.test({
    name: `${name} gets through proxy-agent as docs/clients.md says`,
    ignore,
    fn: async (t) => {
      await using site = await PrivateSite.start();
      await using stack = new AsyncDisposableStack();
      const options = await prepare?.(site, stack);
      for (const [line, ...tunnels] of lines) {
        await t.step(line, async () => {
          const { stdout, folder } = await site.run(line, options);
          if (prints !== undefined) assertEquals(stdout, prints);
          if (leaves) {
            assertStringIncludes(await Deno.readTextFile(`${folder}/${leaves[0]}`), leaves[1]);
          }
          await site.assertTunnels(tunnels);
        });
      }
    },
  });
}

Deno.test("pip and npm get through proxy-agent without TLS", async () => {
  await using site = await PrivateSite.start();
  const [pip] = CLIENTS.pip!.lines[0]!;
  await site.run(pip, await makeWheel(site, "http"));
  await site.assertTunnels(["http pypi.internal"]);
  const [npm] = CLIENTS.npm!.lines[0]!;
  await site.run(npm, await makeNpmPackage(site, "http"));
  await site.assertTunnels(["http npm.internal"]);
});

Deno.test("apt gets many packages through proxy-agent, one after the other", async () => {
  await using site = await PrivateSite.start();
  const { env } = await makeDebianArchive(site, 5);
  const options = { env: env! };
  const apt = `apt-get -o Acquire::http::Proxy=${PROXY} -o Debug::Acquire::http=1`;
  await site.run(`${apt} update`, options);
  const names = [1, 2, 3, 4, 5].map((i) => `hello-${i}`);
  const { folder } = await site.run(`${apt} download ${names.join(" ")}`, options);
  const files = Array.from(Deno.readDirSync(folder), ({ name }) => name).sort();
  assertEquals(files, names.map((name) => `${name}_1_all.deb`));
});

Deno.test("git pushes more through proxy-agent than fits into one request with a length", async () => {
  await using site = await PrivateSite.start();
  await makeGitRepository(site);
  const clone = `git -c http.proxy=${PROXY} clone -q http://git.internal/repo.git`;
  await site.run(`
    ${clone}
    cd repo
    head -c 3000000 /dev/urandom >big
    git add big
    git -c user.name=test -c user.email=test@example.invalid commit -qm big
    git -c http.proxy=${PROXY} push -q
    cd ..
    ${clone} again
    cmp repo/big again/big
  `);
  await site.assertTunnels(["http git.internal"]);
  const isChunked = ({ method, headers }: Seen) =>
    method === "POST" && headers.get("transfer-encoding") === "chunked";
  assert(site.seen.some(isChunked));
});

Deno.test("kubectl gets through proxy-agent by the proxy-url of its configuration", async () => {
  await using site = await PrivateSite.start();
  for (const [scheme, via] of [["http", "connect"], ["socks5", "socks5"]] as const) {
    const line = site.place(`proxy-url: ${scheme}://tunnel.example:8443`);
    const env = { KUBECONFIG: await makeKubeConfig(site, line) };
    const { stdout } = await site.run("kubectl get --raw /healthz", { env });
    assertEquals(stdout, "hello from kube.internal\n");
    await site.assertTunnels([`${via} kube.internal`]);
  }
  assertStringIncludes(read("docs/clients.md"), "`proxy-url: http://tunnel.example:8443`");
});

/** What curl prints of responses: their status, and how many connections each took. */
const SHOWN = "-sS -o /dev/null -w '%{http_code} %{num_connects}\n'";

Deno.test("curl gets plain requests of every sort through proxy-agent", async (t) => {
  await using site = await PrivateSite.start();
  const upload = `${site.home}/upload`;
  await Deno.writeFile(upload, patternStream(UPLOAD_BYTES));
  const digest = await sha256(patternStream(UPLOAD_BYTES));
  const post = `-T ${upload} -X POST http://web.internal/`;
  const cases: [options: string, printed: string][] = [
    // Each on a connection of its own, by the response's word.
    [
      `${SHOWN} http://web.internal/ -o /dev/null http://other.internal/ -o /dev/null http://web.internal/`,
      "200 1\n200 1\n200 1\n",
    ],
    [
      `-sS --head -o /dev/null -w '%{http_code} %header{content-length}' http://web.internal/bytes/9`,
      "200 9",
    ],
    [`${SHOWN} http://web.internal/status/204`, "204 1\n"],
    [`${SHOWN} http://web.internal/status/304`, "304 1\n"],
    [`-sS -0 http://web.internal/`, HELLO],
    [`-sS -o /dev/null -w '%{size_download}' http://web.internal/chunks`, "100000"],
    [`-sS -0 -o /dev/null -w '%{size_download}' http://web.internal/chunks`, "100000"],
    [`-sS -H "Expect: 100-continue" ${post}`, `${digest}\n`],
    [`-sS -H "Transfer-Encoding: chunked" -H "Expect: 100-continue" ${post}`, `${digest}\n`],
    [`-sS -H "Transfer-Encoding: chunked" -H "Expect:" ${post}`, `${digest}\n`],
    [`-sS -H "Expect:" -w '%{http_code}' ${post}refused`, "413"],
    [`-sS -o /dev/null -w '%{http_code}' http://nowhere.invalid/`, "502"],
  ];
  for (const [options, printed] of cases) {
    await t.step(options.replaceAll(upload, "FILE"), async () => {
      const { stdout } = await site.run(`curl --proxy ${PROXY} ${options}`);
      assertEquals(stdout, printed);
    });
  }
});

Deno.test({
  name: "200 MB through proxy-agent, both ways, leave its memory and the server's as it was",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    await using site = await PrivateSite.start();
    const upload = `${site.home}/upload`;
    await Deno.writeFile(upload, patternStream(BULK_BYTES));
    const digest = await sha256(patternStream(BULK_BYTES));
    for (const proxy of [`--proxy ${PROXY}`, "--socks5-hostname tunnel.example:8443"]) {
      const down = `curl -sS ${proxy} http://web.internal/bytes/${BULK_BYTES} | sha256sum`;
      assertEquals((await site.run(down)).stdout, `${digest}  -\n`);
      const up = `curl -sS ${proxy} -T ${upload} -X POST http://web.internal/`;
      assertEquals((await site.run(up)).stdout, `${digest}\n`);
    }
    for (const { pid, name } of [site.tunnel.agent, site.tunnel.server]) {
      const { stdout } = await site.run(`grep VmHWM: /proc/${pid}/status`);
      const [, kib] = /(\d+) kB/.exec(stdout)!;
      assertLess(Number(kib) * 1_024, BULK_BYTES, name);
    }
  },
});

/** Clients whose lines other tests run. */
const ELSEWHERE = /^(?:chromium|mariadb|psql) /;

Deno.test("the lines for clients in docs/clients.md are those that the tests run", () => {
  const run = Object.values(CLIENTS).flatMap(({ lines }) => lines.map(([line]) => line));
  assertEquals(clientLines().filter((line) => !ELSEWHERE.test(line)), run);
});
