import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { loadAll } from 'js-yaml';
import { parse } from 'yaml';
import { SETTING_NAMES, Settings } from '../src/config/env.js';
import { faultsOf, type Manifest, readManifests } from './support/kubernetes.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const CHART = join(ROOT, 'deploy/helm/checkpoint-backend');
const HELM = process.env.HELM ?? 'helm';

interface Schema {
  properties?: Record<string, Schema>;
}

const textOf = (path: string) => readFileSync(path, 'utf8');
const values = parse(textOf(join(CHART, 'values.yaml'))) as Manifest;
const schema = JSON.parse(textOf(join(CHART, 'values.schema.json'))) as Schema;

describe('the values of the chart', () => {
  it('are those of the schema, one for one', () => {
    // A schema without properties takes any map.
    const pathsOf = ({ properties }: Schema, path: string[] = []): string[] =>
      properties === undefined
        ? [path.join('.')]
        : Object.entries(properties).flatMap(([name, inner]) => pathsOf(inner, [...path, name]));
    const paths = pathsOf(schema).filter((path) => path !== 'global');
    const at = (path: string): unknown =>
      path.split('.').reduce<unknown>((value, name) => (value as Record<string, unknown>)[name], values);
    expect(paths.filter((path) => at(path) === undefined)).toEqual([]);
    const namesOf = (value: unknown, { properties }: Schema, path: string[] = []): string[] =>
      properties === undefined
        ? []
        : Object.entries(value as object).flatMap(([name, inner]) =>
            name in properties
              ? namesOf(inner, properties[name]!, [...path, name])
              : [[...path, name].join('.')],
          );
    expect(namesOf(values, schema)).toEqual([]);
  });

  it('name settings of the service, as the manifests have them', () => {
    const settings = values.settings as Record<string, string>;
    expect(Object.keys(settings).filter((name) => !SETTING_NAMES.includes(name))).toEqual([]);
    expect(readManifests().find(({ kind }) => kind === 'ConfigMap')!.data).toMatchObject(settings);
  });
});

it('the chart has the version of the service', () => {
  const { version } = JSON.parse(textOf(join(ROOT, 'package.json'))) as { version: string };
  expect(parse(textOf(join(CHART, 'Chart.yaml')))).toMatchObject({ version, appVersion: version });
});

const hasHelm = spawnSync(HELM, ['version']).status === 0;
if (!hasHelm) console.warn('The chart was NOT rendered: there is no helm; HELM names it.');

(hasHelm ? describe : describe.skip)('the chart, rendered by helm', () => {
  const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-helm-'));
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  const helm = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(HELM, args, { encoding: 'utf8' });
    return { status, stdout, stderr };
  };
  const template = (given: object) => {
    const file = join(directory, 'values.json');
    writeFileSync(file, JSON.stringify(given));
    const place = ['--namespace', 'checkpoints', '--kube-version', '1.30.0', '--values', file];
    return helm('template', 'memory', CHART, ...place);
  };
  const render = (given: object = {}): Manifest[] => {
    const { stdout, stderr } = template(given);
    // Helm warns of readable configuration files of its own, too.
    expect(stderr.split('\n').filter((line) => /error/i.test(line))).toEqual([]);
    return loadAll(stdout) as Manifest[];
  };
  const of = (manifests: Manifest[], kind: string): Manifest => {
    const found = manifests.filter((manifest) => manifest.kind === kind);
    expect(found).toHaveLength(1);
    return found[0]!;
  };
  const podOf = (manifests: Manifest[]) => of(manifests, 'Deployment').spec.template.spec;

  /** Everything that is off by default. */
  const EVERYTHING = {
    extraEnv: [{ name: 'OTEL_EXPORTER_OTLP_ENDPOINT', value: 'http://collector:4318' }],
    database: { ca: { existingSecret: 'ca' } },
    migration: { mode: 'job', grantTo: 'checkpoints' },
    apiKeys: { existingSecret: 'keys' },
    tls: { existingSecret: 'certificate' },
    metrics: { serviceMonitor: { enabled: true, labels: { release: 'prometheus' } } },
    networkPolicy: { clientNamespaces: ['team-a'], extraFrom: [{ ipBlock: { cidr: '10.0.0.0/8' } }] },
    autoscaling: { enabled: false },
    imagePullSecrets: [{ name: 'registry' }],
    service: { annotations: { a: 'b' } },
    serviceAccount: { annotations: { a: 'b' } },
    podAnnotations: { a: 'b' },
    podLabels: { a: 'b' },
    nodeSelector: { a: 'b' },
    tolerations: [{ key: 'a', operator: 'Exists' }],
    affinity: { nodeAffinity: {} },
    priorityClassName: 'high',
    extraVolumes: [{ name: 'more', emptyDir: {} }],
    extraVolumeMounts: [{ name: 'more', mountPath: '/more' }],
  };

  it('passes helm lint', () => {
    expect(helm('lint', '--strict', CHART)).toMatchObject({ status: 0 });
  });

  it.each([
    { what: 'the defaults', given: {} },
    { what: 'everything', given: EVERYTHING },
    {
      what: 'nothing that can be off',
      given: {
        ...{ metrics: { enabled: false }, networkPolicy: { enabled: false }, migration: { mode: 'none' } },
        ...{ podDisruptionBudget: { enabled: false }, serviceAccount: { create: false } },
      },
    },
  ])("fits Kubernetes's schemas with $what", ({ given }) => {
    // That of the Prometheus operator is not among them.
    const manifests = render(given).filter(({ kind }) => kind !== 'ServiceMonitor');
    expect(manifests.length).toBeGreaterThan(2);
    expect(faultsOf(manifests)).toEqual([]);
  });

  it('gives the same pods as deploy/kubernetes', () => {
    const pod = podOf(render());
    const plain = readManifests().find(({ kind }) => kind === 'Deployment')!.spec.template.spec;
    const [container] = pod.containers;
    const [other] = plain.containers;
    expect(container.resources).toEqual(other.resources);
    expect(container.ports).toEqual(other.ports);
    expect(container.securityContext).toEqual(other.securityContext);
    expect(container.env).toEqual(other.env);
    expect(pod.initContainers[0].command).toEqual(plain.initContainers[0].command);
    expect(pod.initContainers[0].env).toEqual(plain.initContainers[0].env);
    expect(pod.securityContext).toMatchObject(plain.securityContext);
    for (const name of ['automountServiceAccountToken', 'enableServiceLinks']) {
      expect([name, pod[name], plain[name]]).toEqual([name, false, false]);
    }
  });

  it.each([{ settings: {} }, { settings: { QUEUE_WAIT_MS: '60000', OUTAGE_WAIT_MS: '0' } }])(
    'gives the drain the time that a request may take, with $settings',
    ({ settings }) => {
      const manifests = render({ settings });
      const environment: Record<string, string> = of(manifests, 'ConfigMap').data;
      const set = new Settings({ ...environment, DATABASE_URL: 'postgresql://postgres/checkpoints' });
      const longestMs =
        set.shutdownDelayMs +
        set.bodyTimeoutMs +
        2 * set.queueWaitMs +
        set.outageWaitMs +
        set.statementTimeoutMs +
        set.stallTimeoutMs;
      expect(podOf(manifests).terminationGracePeriodSeconds).toBe(longestMs / 1000 + 30);
      const { maxReplicas } = of(manifests, 'HorizontalPodAutoscaler').spec as { maxReplicas: number };
      expect(set.instances).toBe(maxReplicas + 1);
    },
  );

  it('puts Secrets where the settings say, and speaks HTTPS to its probes', () => {
    const manifests = render(EVERYTHING);
    const { data } = of(manifests, 'ConfigMap');
    const pod = podOf(manifests);
    const [{ volumeMounts, readinessProbe, env }] = pod.containers;
    const secretAt = (path: string): string => {
      const { name } = volumeMounts.find(({ mountPath }: Manifest) => path.startsWith(`${mountPath}/`));
      return pod.volumes.find((volume: Manifest) => volume.name === name).secret.secretName;
    };
    expect([secretAt(data.API_KEYS_FILE), secretAt(data.TLS_CERT), secretAt(data.DATABASE_SSL_CA)]).toEqual([
      'keys',
      'certificate',
      'ca',
    ]);
    expect(readinessProbe.httpGet.scheme).toBe('HTTPS');
    expect(env.at(-1)).toEqual(EVERYTHING.extraEnv[0]);
    const named = [...Object.keys(data), ...env.map(({ name }: Manifest) => name)];
    expect(named.filter((name) => !SETTING_NAMES.includes(name))).toEqual([]);
  });

  it('migrates in a Job that needs no other object of the release', () => {
    const manifests = render(EVERYTHING);
    expect(podOf(manifests).initContainers).toBeUndefined();
    const { metadata, spec } = of(manifests, 'Job');
    const [{ command, env, envFrom }] = spec.template.spec.containers;
    expect(metadata.annotations['helm.sh/hook']).toBe('pre-install,pre-upgrade');
    expect(command).toEqual(['node', 'dist/src/main.js', 'migrate', '--grant-to', 'checkpoints']);
    expect([envFrom, spec.template.spec.serviceAccountName]).toEqual([undefined, undefined]);
    const set = Object.fromEntries(env.map(({ name, value }: Manifest) => [name, value]));
    expect(set).toMatchObject(of(manifests, 'ConfigMap').data);
    // A Service selects by its labels, and would send requests to the Job.
    expect(spec.template.metadata.labels).not.toMatchObject(of(manifests, 'Service').spec.selector);
  });

  it('lets agents of other namespaces in, by their labels', () => {
    const [{ from }] = of(render(EVERYTHING), 'NetworkPolicy').spec.ingress;
    const podSelector = { matchLabels: values.networkPolicy.clientLabels };
    expect(from.slice(0, 2)).toEqual([
      { podSelector },
      {
        namespaceSelector: {
          matchExpressions: [{ key: 'kubernetes.io/metadata.name', operator: 'In', values: ['team-a'] }],
        },
        podSelector,
      },
    ]);
  });

  it('has the Prometheus operator scrape a port that the Service has', () => {
    const manifests = render(EVERYTHING);
    const [{ port }] = of(manifests, 'ServiceMonitor').spec.endpoints;
    const service = of(manifests, 'Service');
    expect(service.spec.ports.map(({ name }: Manifest) => name)).toContain(port);
    expect(service.metadata.labels).toMatchObject(of(manifests, 'ServiceMonitor').spec.selector.matchLabels);
  });

  it.each([
    { what: 'a setting that is not a text', given: { settings: { QUEUE_MAX: 5 } } },
    { what: 'a setting that the chart makes', given: { settings: { PORT: '5003' } } },
    { what: 'a value that it does not know', given: { tsl: {} } },
    { what: 'a way to migrate that it does not know', given: { migration: { mode: 'Job' } } },
  ])('refuses $what', ({ given }) => {
    expect(template(given).stderr).toMatch(/values don't meet the specifications of the schema/);
  });
});
