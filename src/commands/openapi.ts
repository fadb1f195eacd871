import { readFileSync, writeFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { Settings } from '../config/env.js';
import { FailureError } from './outcome.js';

export function openapiCommand(): Command {
  return new Command('openapi')
    .description('Print the OpenAPI document of the service.')
    .option('--output <file>', 'write it to a file')
    .addOption(new Option('--check <file>', 'fail when the file says something else').conflicts('output'))
    .action(openapi);
}

async function openapi({ output, check }: { output?: string; check?: string }): Promise<void> {
  const text = await documentText();
  if (output !== undefined) writeFileSync(output, text);
  else if (check === undefined) process.stdout.write(text);
  else if (readFileSync(check, 'utf8') !== text) {
    throw new FailureError(`${check} is out of date; write it anew with: openapi --output ${check}`);
  }
}

async function documentText(): Promise<string> {
  const { NestFactory } = await import('@nestjs/core');
  const { AppModule } = await import('../server/app.module.js');
  const { openApiDocument } = await import('../http/openapi/openapi.js');
  const { Metrics } = await import('../observability/metrics/metrics.js');
  const module = AppModule.for(new Settings({}), 'postgresql://unused', new Metrics(''), null);
  const app = await NestFactory.create(module, { preview: true, logger: false });
  return `${JSON.stringify(openApiDocument(app), null, 2)}\n`;
}
