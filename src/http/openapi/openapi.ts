import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import { BEARER_SCHEME, KEY_SCHEME } from '../problems/problem.docs.js';

/** The OpenAPI document, made from the controllers and DTOs. */
export function openApiDocument(app: INestApplication): OpenAPIObject {
  const config = new DocumentBuilder()
    .setTitle('checkpoint-backend')
    .setDescription(
      'Keeps the checkpoints of LangGraph agents in Postgres. Every operation may be repeated with the same result, so a ' +
        'client may retry whatever failed with 408, 425, 429, a status from 500 on, or without an answer.',
    )
    .setVersion('1')
    .setOpenAPIVersion('3.0.3')
    .addApiKey({ type: 'apiKey', in: 'header', name: 'x-agent-api-key' }, KEY_SCHEME)
    .addBearerAuth({ type: 'http', scheme: 'bearer', description: 'A key or a JWT' }, BEARER_SCHEME)
    .build();
  return SwaggerModule.createDocument(app, config);
}

/** Swagger UI at /docs, the document at /openapi.json. */
export function serveOpenApi(app: INestApplication): void {
  SwaggerModule.setup('docs', app, () => openApiDocument(app), {
    jsonDocumentUrl: 'openapi.json',
    swaggerOptions: { tryItOutEnabled: true, displayRequestDuration: true },
    customSiteTitle: 'checkpoint-backend',
  });
}
