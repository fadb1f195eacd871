import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadAll } from 'js-yaml';
import ts from 'typescript';

export interface Manifest {
  apiVersion: string;
  kind: string;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- the schema checks its shape
  [field: string]: any;
}

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const DIRECTORY = `${ROOT}deploy/kubernetes/`;

/** What `kubectl apply -k deploy/kubernetes` reads. */
export function readKustomization(): { resources: string[] } {
  return loadAll(readFileSync(`${DIRECTORY}kustomization.yaml`, 'utf8'))[0] as { resources: string[] };
}

/** The documents of deploy/kubernetes, which `kubectl apply -f` takes as well. */
export function readManifests(): Manifest[] {
  return readdirSync(DIRECTORY)
    .filter((file) => file !== 'kustomization.yaml')
    .flatMap((file) => loadAll(readFileSync(DIRECTORY + file, 'utf8')) as Manifest[]);
}

export function readSecretExample(): Manifest {
  return loadAll(readFileSync(`${ROOT}deploy/secret.example.yaml`, 'utf8'))[0] as Manifest;
}

/**
 * What in them does not fit Kubernetes's published schemas, which kubernetes-types has as TypeScript. The compiler refuses
 * what a literal lacks, has in another type, or has beyond its type.
 */
export function faultsOf(manifests: Manifest[]): string[] {
  const name = `${ROOT}test/support/manifests.ts`;
  const text = manifests
    .map((document, n) => {
      const [group, version] = document.apiVersion.includes('/')
        ? document.apiVersion.replace('.k8s.io', '').split('/')
        : ['core', document.apiVersion];
      return `import type { ${document.kind} as Kind${n} } from 'kubernetes-types/${group}/${version}.js';
const manifest${n}: Kind${n} = ${JSON.stringify(document)};`;
    })
    .join('\n');
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    types: [],
    lib: ['lib.es5.d.ts'],
  };
  const host = ts.createCompilerHost(options);
  const onDisk = { ...host };
  host.fileExists = (path) => path === name || onDisk.fileExists(path);
  host.getSourceFile = (path, target, ...rest) =>
    path === name ? ts.createSourceFile(path, text, target) : onDisk.getSourceFile(path, target, ...rest);
  return ts
    .getPreEmitDiagnostics(ts.createProgram([name], options, host))
    .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'));
}
