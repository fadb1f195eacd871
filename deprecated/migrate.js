// The manifests of 0.1 run this file, which a build puts into dist/src. `checkpoint-backend migrate` takes its place.
process.argv.splice(2, 0, 'migrate');
await import('./main.js');
