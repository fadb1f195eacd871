import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import {
  ForbiddenError,
  InvalidRequestError,
  KeysElsewhereError,
  UnauthorizedError,
} from '../errors/errors.js';
import type { Settings } from '../config/env.js';
import type { Middleware } from '../http/pipeline/exact-routes.js';
import { isTenant, type Principal, type Scope, SCOPES_OF } from '../request/principal.js';
import type { Audit } from './audit.js';
import type { Authenticator } from './authenticator.js';
import type { Refusal } from './refusal.js';

const NO_KEY: Refusal = { refused: 'no key' };
const BEARER = /^bearer +/i;

/** What a request for an operation passes through before its body is read: it knows who may do what. */
export class Gate {
  constructor(
    private readonly settings: Settings,
    private readonly authenticator: Authenticator,
    private readonly audit: Audit,
  ) {}

  before(operation: string): Middleware[] {
    const { authModes, apiKeysFile } = this.settings;
    const asked = [authModes.length === 0 ? refuseTenant : this.authorize(operation)];
    if (!operation.startsWith('keys-') || (authModes.includes('keys') && apiKeysFile === null)) return asked;
    return [
      ...asked,
      (_request, _response, next) => {
        next(new KeysElsewhereError());
      },
    ];
  }

  /** Lets through, with their `principal`, requests of those who may carry out the operation. */
  private authorize(operation: string): Middleware {
    const needed = SCOPES_OF[operation];
    if (needed === undefined) throw new Error(`Nobody said what scope ${operation} takes`);
    return (request, response, next) => {
      try {
        const credential = credentialOf(request.headers);
        const verdict = credential === undefined ? NO_KEY : this.authenticator.verify(credential);
        if (verdict instanceof Promise) {
          verdict
            .then((found) => {
              this.admit(request, response, operation, needed, found);
            })
            .then(next, next);
          return;
        }
        this.admit(request, response, operation, needed, verdict);
      } catch (error) {
        next(error);
        return;
      }
      next();
    };
  }

  /** @throws UnauthorizedError, ForbiddenError */
  private admit(
    request: IncomingMessage,
    response: ServerResponse,
    operation: string,
    needed: readonly Scope[],
    verdict: Principal | Refusal,
  ): void {
    const tenant = request.headers['x-tenant'];
    const fault = faultOf(verdict, needed, tenant);
    if (fault !== null) {
      const isKnown = !('refused' in verdict);
      this.audit.refused({
        operation,
        requestId: String(response.getHeader('x-request-id')),
        tenant: isKnown ? verdict.tenant : null,
        ...(isKnown && { by: verdict.by }),
        detail: {
          ...(isKnown ? { reason: fault.message } : { reason: verdict.refused, key: verdict.key }),
          from: request.socket.remoteAddress,
        },
      });
      throw fault;
    }
    const principal = verdict as Principal;
    request.principal = tenant === undefined ? principal : { ...principal, tenant: String(tenant) };
  }
}

/** Where nobody is asked everybody is the default tenant: what names another one would be done to that one's threads. */
const refuseTenant: Middleware = (request, _response, next) => {
  const named = request.headers['x-tenant'];
  if (named === undefined || named === '') next();
  else
    next(new InvalidRequestError([{ pointer: '#', detail: 'x-tenant has no meaning with AUTH_MODE=none' }]));
};

function faultOf(
  verdict: Principal | Refusal,
  needed: readonly Scope[],
  tenant: string | string[] | undefined,
): UnauthorizedError | ForbiddenError | null {
  if ('refused' in verdict) return new UnauthorizedError();
  for (const scope of needed) {
    if (!verdict.scopes.has(scope)) return new ForbiddenError(`The operation takes the scope ${scope}`);
  }
  if (tenant === undefined || tenant === verdict.tenant) return null;
  if (!verdict.scopes.has('admin')) {
    return new ForbiddenError('To act for another tenant, by x-tenant, takes the scope admin');
  }
  return isTenant(String(tenant)) ? null : new ForbiddenError('x-tenant is no name of a tenant');
}

function credentialOf(headers: IncomingHttpHeaders): string | undefined {
  const key = headers['x-agent-api-key'];
  if (key !== undefined) return String(key);
  const { authorization } = headers;
  return authorization !== undefined && BEARER.test(authorization)
    ? authorization.replace(BEARER, '')
    : undefined;
}
