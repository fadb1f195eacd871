import 'reflect-metadata';
import { readFileSync, writeFileSync } from 'node:fs';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import { Settings } from './config/env.js';
import { openApiDocument } from './http/openapi.js';
import { Metrics } from './metrics/metrics.js';

const FILE = 'openapi.json';

// Writes openapi.json from the code; with --check, fails when the file says something else.
const app = await NestFactory.create(
  AppModule.for(new Settings({}), 'postgresql://unused', new Metrics(''), null),
  {
    preview: true,
    logger: false,
  },
);
const text = `${JSON.stringify(openApiDocument(app), null, 2)}\n`;
if (!process.argv.includes('--check')) writeFileSync(FILE, text);
else if (readFileSync(FILE, 'utf8') !== text) {
  console.error(`${FILE} is out of date: run \`npm run openapi\` and commit it`);
  process.exitCode = 1;
}
