// The manifests of 0.1 run this file, which a build puts into dist/src. `checkpoint-backend tenants` takes its place.
process.argv.splice(2, 0, 'tenants');
await import('./main.js');
