import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { SETTING_NAMES, Settings } from '../src/config/env.js';
import { startApp } from './support/app.js';
import {
  faultsOf,
  type Manifest,
  readKustomization,
  readManifests,
  readSecretExample,
} from './support/kubernetes.js';

const manifests = readManifests();
const of = (kind: string): Manifest => {
  const [found, ...others] = manifests.filter((manifest) => manifest.kind === kind);
  if (found === undefined || others.length > 0) throw new Error(`deploy/kubernetes needs one ${kind}`);
  return found;
};
const deployment = of('Deployment').spec;
const pod = deployment.template.spec;
const [container] = pod.containers;
const [migration] = pod.initContainers;
const configured: Record<string, string> = of('ConfigMap').data;
const secret = readSecretExample();
const settings = new Settings({ ...configured, DATABASE_URL: secret.stringData.url });

describe('the Kubernetes manifests', () => {
  it("fit Kubernetes's schemas", () => {
    expect(faultsOf([...manifests, secret])).toEqual([]);
  });

  it.each([
    {
      what: 'a field that does not exist',
      harm: (spec: typeof pod) => (spec.terminationGracePeriodSecond = 1),
      fault: /terminationGracePeriodSecond.* does not exist/,
    },
    {
      what: 'a field that does not exist, deep inside',
      harm: (spec: typeof pod) => (spec.containers[0].readinessProbe.httpGet.paths = '/'),
      fault: /paths.* does not exist in type 'HTTPGetAction'/,
    },
    {
      what: 'a value of another type',
      harm: (spec: typeof pod) => (spec.containers[0].ports[0].containerPort = '5003'),
      fault: /'string' is not assignable to type 'number'/,
    },
    {
      what: 'a field that is missing',
      harm: (spec: typeof pod) => delete spec.containers[0].name,
      fault: /'name' is missing/,
    },
  ])('would not fit with $what', ({ harm, fault }) => {
    const broken = structuredClone(of('Deployment'));
    harm(broken.spec.template.spec);
    expect(faultsOf([broken]).join('\n')).toMatch(fault);
  });

  it('name settings of the service alone, and the keys of their Secret', () => {
    for (const { envFrom, env } of [container, migration]) {
      expect(envFrom).toEqual([{ configMapRef: { name: of('ConfigMap').metadata.name } }]);
      const names: string[] = env.map(({ name }: { name: string }) => name);
      expect([...names, ...Object.keys(configured)].filter((name) => !SETTING_NAMES.includes(name))).toEqual(
        [],
      );
      for (const { valueFrom } of env) {
        expect(valueFrom.secretKeyRef.name).toBe(secret.metadata.name);
        expect(Object.keys(secret.stringData)).toContain(valueFrom.secretKeyRef.key);
      }
    }
  });

  it('replace no Secret when they are applied, by -f or by -k', () => {
    expect(manifests.map(({ kind }) => kind)).not.toContain('Secret');
    const files = readdirSync(fileURLToPath(new URL('../deploy/kubernetes', import.meta.url)));
    expect(readKustomization().resources).toEqual(
      files.filter((file) => file !== 'kustomization.yaml').sort(),
    );
  });

  it('send requests and probes where the service answers', async () => {
    const [port, metrics] = container.ports;
    expect(port.containerPort).toBe(settings.port);
    expect(metrics.containerPort).toBe(settings.metricsPort);
    expect(deployment.template.metadata.annotations['prometheus.io/port']).toBe(String(settings.metricsPort));
    const [{ targetPort }] = of('Service').spec.ports;
    const probes = [container.startupProbe, container.livenessProbe, container.readinessProbe];
    expect([targetPort, ...probes.map(({ httpGet }) => httpGet.port)]).toEqual(Array(4).fill(port.name));
    const allowed = of('NetworkPolicy').spec.ingress.map(({ ports }: Manifest) => ports);
    expect(allowed).toEqual([[{ port: port.name }], [{ port: metrics.name }]]);
    const app = await startApp();
    for (const { httpGet } of probes) expect((await app.get(httpGet.path)).status).toBe(200);
    await app.close();
  });

  it('select the pods, and scale the Deployment', () => {
    const { labels } = deployment.template.metadata;
    expect(deployment.selector.matchLabels).toEqual(labels);
    expect(of('Service').spec.selector).toEqual(labels);
    expect(of('PodDisruptionBudget').spec.selector.matchLabels).toEqual(labels);
    expect(of('NetworkPolicy').spec.podSelector.matchLabels).toEqual(labels);
    const { apiVersion, kind, metadata } = of('Deployment');
    expect(of('HorizontalPodAutoscaler').spec.scaleTargetRef).toEqual({
      apiVersion,
      kind,
      name: metadata.name,
    });
  });

  it('give the drain the time that its requests may take', () => {
    const { shutdownDelayMs, bodyTimeoutMs, queueWaitMs, outageWaitMs, statementTimeoutMs, stallTimeoutMs } =
      settings;
    const arrivedMs = shutdownDelayMs + bodyTimeoutMs + queueWaitMs;
    const doneMs = queueWaitMs + outageWaitMs + statementTimeoutMs;
    const longestMs = arrivedMs + doneMs + stallTimeoutMs;
    expect(pod.terminationGracePeriodSeconds * 1000).toBeGreaterThan(longestMs);
  });

  it('give a pod the memory that it may need for what is in flight', () => {
    const [, gibibytes] = /^(\d+)Gi$/.exec(container.resources.limits.memory) ?? [];
    expect(100e6 + 2 * 3 * settings.inflightBytes).toBeLessThan(Number(gibibytes) * 2 ** 30);
  });

  it('give a probe more time than the answer takes', () => {
    expect(container.readinessProbe.timeoutSeconds).toBeGreaterThan(2);
  });

  it('say how many instances there are at most, and fit them into max_connections of 100', () => {
    const { maxReplicas } = of('HorizontalPodAutoscaler').spec as { maxReplicas: number };
    const { maxSurge } = deployment.strategy.rollingUpdate as { maxSurge: number };
    expect(settings.instances).toBe(maxReplicas + maxSurge);
    expect(settings.databasePoolMax * settings.instances).toBeLessThan(0.9 * 97);
  });

  it('migrate before the service starts, and not once more in it', () => {
    expect(migration.image).toBe(container.image);
    expect(migration.command).toEqual(['node', 'dist/src/main.js', 'migrate']);
    expect(settings.migrateOnStart).toBe(false);
  });

  it('let nothing run as root, or write to its file system', () => {
    expect(pod.securityContext).toMatchObject({
      runAsNonRoot: true,
      seccompProfile: { type: 'RuntimeDefault' },
    });
    for (const { securityContext } of [container, migration]) {
      expect(securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      });
    }
  });
});
