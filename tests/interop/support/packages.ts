// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What clients of a {@linkcode PrivateSite} get there: small packages of many sorts, each of which says `hello`. */
import { createHash } from "node:crypto";
import { runCommand } from "../../support/system_command.ts";
import type { LineOptions, PrivateSite } from "./private_site.ts";

export type Scheme = "http" | "https";

/** Runs a script that must succeed, in a folder of a server. */
async function make(site: PrivateSite, name: string, script: string): Promise<string> {
  const cwd = `${site.home}/www/${name}.internal`;
  await Deno.mkdir(cwd, { recursive: true });
  const { code, stdout, stderr } = await runCommand("sh", ["-euc", script], { cwd });
  if (code !== 0) throw new Error(`${name}: ${stderr}`);
  return stdout;
}

async function digestOf(path: string): Promise<{ readonly hex: string; readonly size: number }> {
  const bytes = await Deno.readFile(path);
  return { hex: createHash("sha256").update(bytes).digest("hex"), size: bytes.length };
}

/** A repository `repo.git`, of which `README` says `hello`. */
export async function makeGitRepository(site: PrivateSite): Promise<LineOptions> {
  await make(
    site,
    "git",
    `
      git init -q --bare repo.git
      git init -q work
      cd work
      echo hello >README
      git add README
      git -c user.name=test -c user.email=test@example.invalid commit -qm hello
      git push -q ../repo.git HEAD
      git -C ../repo.git config http.receivepack true
      git -C ../repo.git symbolic-ref HEAD "$(git symbolic-ref HEAD)"
    `,
  );
  return {};
}

/** An archive of Debian packages `hello-1` to `hello-COUNT`; the lines update and download. */
export async function makeDebianArchive(site: PrivateSite, count: number): Promise<LineOptions> {
  const root = `${site.home}/www/apt.internal`;
  let index = "";
  for (let i = 1; i <= count; i++) {
    const control = [
      `Package: hello-${i}`,
      "Version: 1",
      "Architecture: all",
      "Maintainer: test <test@example.invalid>",
      "Description: hello",
    ].join("\n");
    await Deno.mkdir(`${root}/hello-${i}/DEBIAN`, { recursive: true });
    await Deno.writeTextFile(`${root}/hello-${i}/DEBIAN/control`, `${control}\n`);
    const file = `hello-${i}_1_all.deb`;
    await make(site, "apt", `dpkg-deb --build --root-owner-group hello-${i} ${file}`);
    const { hex, size } = await digestOf(`${root}/${file}`);
    index += `${control}\nFilename: ./${file}\nSize: ${size}\nSHA256: ${hex}\n\n`;
  }
  await Deno.writeTextFile(`${root}/Packages`, index);
  const { hex, size } = await digestOf(`${root}/Packages`);
  await Deno.writeTextFile(`${root}/Release`, `SHA256:\n ${hex} ${size} Packages\n`);
  const dir = `${site.home}/apt`;
  for (const name of ["state/lists/partial", "cache/archives/partial", "parts"]) {
    await Deno.mkdir(`${dir}/${name}`, { recursive: true });
  }
  const sources = ["http", "https"].map((scheme) =>
    site.place(`deb [trusted=yes] ${scheme}://apt.internal/ ./\n`)
  );
  await Deno.writeTextFile(`${dir}/sources.list`, sources.join(""));
  await Deno.writeTextFile(`${dir}/state/status`, "");
  const config = {
    "Dir::State": `${dir}/state`,
    "Dir::State::status": `${dir}/state/status`,
    "Dir::Cache": `${dir}/cache`,
    "Dir::Etc::sourcelist": `${dir}/sources.list`,
    "Dir::Etc::sourceparts": `${dir}/parts`,
    "Dir::Etc::parts": `${dir}/parts`,
    "Acquire::https::CAInfo": `${site.home}/ca.pem`,
    "Acquire::Retries": "0",
    "APT::Sandbox::User": "root",
    "APT::Update::Error-Mode": "any",
  };
  const lines = Object.entries(config).map(([name, value]) => `${name} "${value}";\n`);
  await Deno.writeTextFile(`${dir}/apt.conf`, lines.join(""));
  return {
    env: { APT_CONFIG: `${dir}/apt.conf` },
    behind: ` && apt-cache show hello-1 >shown && rm ${dir}/state/lists/*_*`,
  };
}

/** A Python package `hello` in an index. */
export async function makeWheel(site: PrivateSite, scheme: Scheme): Promise<LineOptions> {
  await make(
    site,
    "pypi",
    `
      mkdir -p simple/hello
      cd simple/hello
      echo '<a href="hello-1.0-py3-none-any.whl">hello-1.0-py3-none-any.whl</a>' >index.html
      /usr/bin/python3 -c '
import zipfile
with zipfile.ZipFile("hello-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("hello.py", "hello = 1")
    info = "hello-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: hello\\nVersion: 1.0\\n")
    tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    wheel.writestr(info + "WHEEL", tags)
    wheel.writestr(info + "RECORD", "hello.py,,\\n")
'
    `,
  );
  return {
    env: {
      PIP_INDEX_URL: site.place(`${scheme}://pypi.internal/simple/`),
      PIP_TRUSTED_HOST: "pypi.internal",
      PIP_NO_CACHE_DIR: "1",
      PIP_DISABLE_PIP_VERSION_CHECK: "1",
    },
  };
}

/** A package `hello` in a registry of npm. */
export async function makeNpmPackage(site: PrivateSite, scheme: Scheme): Promise<LineOptions> {
  const manifest = { name: "hello", version: "1.0.0" };
  await make(
    site,
    "npm",
    `
      mkdir work
      cd work
      echo '${JSON.stringify(manifest)}' >package.json
      echo '// hello' >index.js
      npm pack --silent --offline --pack-destination ..
    `,
  );
  const tarball = site.place(`${scheme}://npm.internal/hello-1.0.0.tgz`);
  await Deno.writeTextFile(
    `${site.home}/www/npm.internal/hello`,
    JSON.stringify({
      name: "hello",
      "dist-tags": { latest: "1.0.0" },
      versions: { "1.0.0": { ...manifest, dist: { tarball } } },
    }),
  );
  return {
    env: {
      npm_config_registry: site.place(`${scheme}://npm.internal/`),
      npm_config_audit: "false",
      npm_config_cafile: `${site.home}/ca.pem`,
      npm_config_fetch_retries: "0",
      npm_config_fund: "false",
      npm_config_update_notifier: "false",
    },
  };
}

/** An image `hello:1` with one layer, in a registry. */
export async function makeImage(site: PrivateSite): Promise<LineOptions> {
  const root = `${site.home}/www/registry.internal/v2`;
  await Deno.mkdir(`${root}/hello/blobs`, { recursive: true });
  await Deno.mkdir(`${root}/hello/manifests`);
  await Deno.writeTextFile(`${root}/index.html`, "{}");
  const blob = async (mediaType: string, text: string) => {
    const size = new TextEncoder().encode(text).length;
    const digest = `sha256:${createHash("sha256").update(text).digest("hex")}`;
    await Deno.writeTextFile(`${root}/hello/blobs/${digest}`, text);
    return { mediaType, size, digest };
  };
  const type = "application/vnd.oci.image";
  const layer = await blob(`${type}.layer.v1.tar`, "hello".repeat(100_000));
  const config = await blob(
    `${type}.config.v1+json`,
    JSON.stringify({
      architecture: "amd64",
      os: "linux",
      rootfs: { type: "layers", diff_ids: [layer.digest] },
    }),
  );
  const manifest = { schemaVersion: 2, mediaType: `${type}.manifest.v1+json`, config };
  await Deno.writeTextFile(
    `${root}/hello/manifests/1`,
    JSON.stringify({ ...manifest, layers: [layer] }),
  );
  return {};
}
