// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Kubernetes manifests, as kustomize puts them together, and the schemas that Kubernetes publishes of them. */
import { validate as configMap } from "kubernetes-models/_schemas/IoK8sApiCoreV1ConfigMap";
import { validate as daemonSet } from "kubernetes-models/_schemas/IoK8sApiAppsV1DaemonSet";
import { validate as deployment } from "kubernetes-models/_schemas/IoK8sApiAppsV1Deployment";
import { validate as networkPolicy } from "kubernetes-models/_schemas/IoK8sApiNetworkingV1NetworkPolicy";
import { validate as pod } from "kubernetes-models/_schemas/IoK8sApiCoreV1Pod";
import { validate as podDisruptionBudget } from "kubernetes-models/_schemas/IoK8sApiPolicyV1PodDisruptionBudget";
import { validate as service } from "kubernetes-models/_schemas/IoK8sApiCoreV1Service";
import { validate as statefulSet } from "kubernetes-models/_schemas/IoK8sApiAppsV1StatefulSet";
import { assert, assertEquals } from "@std/assert";
import { parse, parseAllDocuments } from "yaml";

/** Of what a schema validates to false, its `errors` say why. */
type Schema = ((data: unknown) => boolean) & {
  readonly errors?: readonly { readonly instancePath: string; readonly keyword: string }[] | null;
};

const schemas: Readonly<Record<string, Schema>> = {
  "apps/v1 DaemonSet": daemonSet,
  "apps/v1 Deployment": deployment,
  "apps/v1 StatefulSet": statefulSet,
  "networking.k8s.io/v1 NetworkPolicy": networkPolicy,
  "policy/v1 PodDisruptionBudget": podDisruptionBudget,
  "v1 ConfigMap": configMap,
  "v1 Pod": pod,
  "v1 Service": service,
};

/** Labels, and what selects them. */
export type Labels = Readonly<Record<string, string>>;
interface Selector {
  readonly matchLabels: Labels;
}

/** What the tests look at in a probe. */
interface Probe {
  readonly httpGet: {
    readonly path: string;
    readonly port: string | number;
    readonly host?: string;
  };
  readonly periodSeconds: number;
  readonly failureThreshold?: number;
}

/** What the tests look at in a container. */
export interface Container {
  readonly name: string;
  readonly image: string;
  readonly args: readonly string[];
  readonly env?: readonly { readonly name: string; readonly value: string }[];
  readonly envFrom: readonly { readonly configMapRef: { readonly name: string } }[];
  readonly ports?: readonly {
    readonly name: string;
    readonly protocol: string;
    readonly containerPort: number;
  }[];
  readonly readinessProbe: Probe;
  readonly livenessProbe: Probe;
  readonly resources: {
    readonly requests: Readonly<Record<string, string>>;
    readonly limits: Readonly<Record<string, string>>;
  };
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly volumeMounts: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly readOnly?: boolean;
  }[];
}

/** What the tests look at in a pod. */
export interface PodSpec {
  readonly automountServiceAccountToken: boolean;
  readonly enableServiceLinks: boolean;
  readonly terminationGracePeriodSeconds: number;
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly topologySpreadConstraints?: readonly { readonly labelSelector: Selector }[];
  readonly initContainers?: readonly (Container & { readonly restartPolicy: string })[];
  readonly containers: readonly Container[];
  readonly volumes: readonly {
    readonly name: string;
    readonly secret?: { readonly secretName: string; readonly defaultMode: number };
  }[];
}

/** A manifest; which parts of `spec` there are depends on the kind. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly data?: Labels;
  readonly spec: {
    readonly selector: Selector & Labels;
    readonly template: {
      readonly metadata: { readonly labels: Labels; readonly annotations: Labels };
      readonly spec: PodSpec;
    };
    /** Of a Deployment, or a DaemonSet. */
    readonly strategy?: Strategy;
    readonly updateStrategy?: Strategy;
    /** Of a StatefulSet. */
    readonly replicas?: number;
    readonly serviceName?: string;
    /** Of a Service. */
    readonly publishNotReadyAddresses?: boolean;
    readonly podSelector: Selector;
    readonly ports: readonly {
      readonly protocol: string;
      readonly port: number;
      readonly targetPort: string;
    }[];
    readonly policyTypes: readonly string[];
    readonly ingress: readonly PolicyRule[];
    readonly egress: readonly PolicyRule[];
  };
}

/** How pods are replaced. */
interface Strategy {
  readonly rollingUpdate?: { readonly maxUnavailable: number; readonly maxSurge: number };
}

/** A rule of a NetworkPolicy. */
interface PolicyRule {
  readonly ports?: readonly { readonly protocol: string; readonly port: string | number }[];
  readonly from?: readonly { readonly namespaceSelector?: Selector }[];
  readonly to?: readonly { readonly ipBlock?: { readonly cidr: string } }[];
}

/** A kustomization of the parts that `built()` knows. */
export interface Kustomization {
  readonly apiVersion: string;
  readonly kind: string;
  readonly namespace: string;
  readonly resources: readonly string[];
  readonly patches?: readonly {
    readonly path: string;
    readonly target?: { readonly kind: string; readonly name: string };
  }[];
  readonly images?: readonly { readonly name: string; readonly newTag: string }[];
  readonly configMapGenerator?: readonly {
    readonly name: string;
    readonly literals?: readonly string[];
    readonly files?: readonly string[];
  }[];
}

const KUSTOMIZATION = "kustomization.yaml";

/** The kustomization of a folder. */
export function kustomizationOf(folder: URL): Kustomization {
  return parse(Deno.readTextFileSync(new URL(KUSTOMIZATION, folder)));
}

/** The names of a folder's other files. */
export function manifestFiles(folder: URL): string[] {
  return Array.from(Deno.readDirSync(folder), ({ name }) => name)
    .filter((name) => name !== KUSTOMIZATION).sort();
}

/** The manifests in a file. */
export function manifestsIn(file: URL): Manifest[] {
  return parseAllDocuments(Deno.readTextFileSync(file))
    .map((document) => document.toJS() as Manifest);
}

/** A step of a JSON patch (RFC 6902). */
interface PatchStep {
  readonly op: "add" | "replace" | "test";
  readonly path: string;
  readonly value: unknown;
}

function applyStep(manifest: Manifest, { op, path, value }: PatchStep): void {
  const keys = path.split("/").slice(1);
  const last = keys.pop()!;
  const parent = keys.reduce<object>((part, key) => Reflect.get(part, key), manifest);
  if (op === "add" && Array.isArray(parent)) {
    parent.splice(Number(last), 0, value);
    return;
  }
  const before = Reflect.get(parent, last);
  assert(op === "add" || before !== undefined, `${path}: there is none`);
  if (op === "test") assertEquals(before, value, path);
  else Reflect.set(parent, last, value);
}

/** What kustomize makes of a folder, but for the namespace, and the hashes in the names of ConfigMaps. */
export function built(folder: URL): Manifest[] {
  const { resources, patches = [], images = [], configMapGenerator = [] } = kustomizationOf(folder);
  const manifests = resources.flatMap((name) => {
    const isFile = name.endsWith(".yaml");
    return isFile ? manifestsIn(new URL(name, folder)) : built(new URL(`${name}/`, folder));
  });
  for (const { path, target } of patches) {
    const file = new URL(path, folder);
    if (target === undefined) {
      // The patch of a component stays what it is: there is nothing to apply it to.
      manifests.push(...manifestsIn(file));
      continue;
    }
    const [manifest, ...others] = manifests
      .filter(({ kind, metadata: { name } }) => kind === target.kind && name === target.name);
    assert(manifest !== undefined && others.length === 0, `${path}: one ${target.kind}`);
    for (const step of parse(Deno.readTextFileSync(file))) applyStep(manifest, step);
  }
  const tags = new Map(images.map(({ name, newTag }) => [name, newTag]));
  for (const { spec } of manifests as Partial<Manifest>[]) {
    const { initContainers = [], containers = [] } = spec?.template?.spec ?? {};
    for (const container of [...initContainers, ...containers]) {
      const tag = tags.get(container.image);
      if (tag !== undefined) Object.assign(container, { image: `${container.image}:${tag}` });
    }
  }
  const configMaps = configMapGenerator.map(({ name, literals = [], files = [] }) => ({
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name },
    data: Object.fromEntries([
      ...literals.map((text) => text.split(/=(.*)/s, 2)),
      ...files.map((file) => [file, Deno.readTextFileSync(new URL(file, folder))]),
    ]),
  } as unknown as Manifest));
  return [...manifests, ...configMaps];
}

/**
 * What is wrong with a manifest by the schema of its kind; nothing when the array is empty.
 *
 * The API takes unknown fields, and so do the schemas. What a schema has not looked at is unknown to it.
 */
export function schemaErrors(manifest: { apiVersion: string; kind: string }): string[] {
  const schema = schemas[`${manifest.apiVersion} ${manifest.kind}`];
  if (schema === undefined) return [`unknown kind ${manifest.apiVersion} ${manifest.kind}`];
  const unread = new Set<string>();
  const valid = schema(watched(manifest, "", unread));
  const errors = valid ? [] : schema.errors ?? [{ instancePath: "", keyword: "invalid" }];
  return [
    ...errors.map(({ instancePath, keyword }) => `${instancePath}: ${keyword}`),
    ...Array.from(unread, (path) => `${path}: unknown field`),
  ];
}

/** The same value, whose fields are in `unread` until somebody reads them. */
function watched<T>(value: T, path: string, unread: Set<string>): T {
  if (typeof value !== "object" || value === null) return value;
  const own = new Map<string | symbol, unknown>(Object.entries(value));
  for (const key of Object.keys(value)) unread.add(`${path}/${key}`);
  return new Proxy(value, {
    get(target, key, receiver) {
      if (!own.has(key)) return Reflect.get(target, key, receiver);
      const fieldPath = `${path}/${String(key)}`;
      if (unread.delete(fieldPath)) own.set(key, watched(own.get(key), fieldPath, unread));
      return own.get(key);
    },
  });
}
