import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  applyDecorators,
  type CallHandler,
  type ExecutionContext,
  Injectable,
  type NestInterceptor,
  SetMetadata,
  UseInterceptors,
} from '@nestjs/common';
import { catchError, concatMap, from, map, type Observable } from 'rxjs';
import { DatabaseUnavailableError, DomainError } from '../errors/errors.js';
import { callerOf, CallerGoneError } from '../request/caller.js';
import { JsonNumber } from '../http/exact-json/exact-json.js';
import { operationOf } from '../http/pipeline/operations.js';
import { Audit, type AuditedDeed } from './audit.js';
import { bounded } from './bounded.js';

const FIELDS = 'audited-fields';

/** Writes to the audit log what is done by an operation, and failed to be done; of its request these fields. */
export function Audited(...fields: string[]): MethodDecorator {
  return applyDecorators(SetMetadata(FIELDS, fields), UseInterceptors(AuditInterceptor));
}

@Injectable()
export class AuditInterceptor implements NestInterceptor {
  constructor(private readonly audit: Audit) {}

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const http = context.switchToHttp();
    const request = http.getRequest<IncomingMessage & { body: Record<string, unknown> }>();
    const fields = Reflect.getMetadata(FIELDS, context.getHandler()) as string[];
    // Now: once it is validated a request keeps nothing of its body.
    const detail = bounded(Object.fromEntries(fields.map((field) => [field, plain(request.body[field])])));
    const event = {
      operation: operationOf(`/${pathOf(context.getClass())}/${pathOf(context.getHandler())}`),
      requestId: String(http.getResponse<ServerResponse>().getHeader('x-request-id')),
      tenant: request.principal?.tenant ?? '',
      ...(request.principal && { by: request.principal.by }),
      detail,
    };
    const deed = this.audit.begin(event);
    const caller = callerOf(request.body);
    if (caller !== undefined) caller.deed = deed;
    return next.handle().pipe(
      concatMap((answer: unknown) => {
        const made = isMade(answer) ? { made: answer.id } : {};
        const recorded = this.audit.done(deed, { ...event, detail: { ...detail, ...made } });
        return from(recorded).pipe(map(() => answer));
      }),
      catchError((error: unknown) => {
        const outcome = outcomeOf(error, deed);
        if (outcome !== null) this.audit.write({ ...event, outcome });
        throw error;
      }),
    );
  }
}

/** What became of a request that failed; null when nothing was done, and the caller was told so. */
function outcomeOf(error: unknown, { isRecorded }: AuditedDeed): 'failed' | 'unknown' | null {
  // A transaction came as far as its row: it, or one before it, may be done.
  if (isRecorded || error instanceof DatabaseUnavailableError) return 'unknown';
  return error instanceof DomainError || error instanceof CallerGoneError ? null : 'failed';
}

/** What Nest keeps of the route. */
function pathOf(target: object): string {
  return Reflect.getMetadata('path', target) as string;
}

/** A new key, for one. */
function isMade(answer: unknown): answer is { id: string } {
  return typeof answer === 'object' && answer !== null && 'id' in answer;
}

function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  return value instanceof JsonNumber ? value.literal : value;
}
