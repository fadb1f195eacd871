// The manifests of 0.1 run this file, which a build puts into dist/src. `checkpoint-backend keys` takes its place.
process.argv.splice(2, 0, 'keys');
await import('./main.js');
