import { hash } from 'node:crypto';
import { Logger } from '@nestjs/common';
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  errors,
  type JSONWebKeySet,
  type JWTPayload,
  type JWTVerifyGetKey,
  jwtVerify,
} from 'jose';
import { IssuerUnavailableError } from '../checkpoints/checkpoint.errors.js';
import type { JwtSettings } from '../config/env.js';
import { granted, isTenant, type Principal, type Scope, SCOPES } from '../http/principal.js';
import type { Refusal } from './refusal.js';
import { WatchedFile } from './watched-file.js';

const FORM = /^[\w-]+\.[\w-]+\.[\w-]*$/;
const CLOCK_SKEW_SECONDS = 30;

/** A token that was verified is taken for so long without a look at its signature, which costs more than a statement. */
const TRUST_MS = 60_000;
const TRUSTED = 10_000;

/** How often the issuer's keys are fetched: regularly, and at once for a key id that is new, unless that was just done. */
const RELOAD_MS = 10 * 60_000;
const COOL_DOWN_MS = 5000;
const TIMEOUT_MS = 5000;

/** Where the issuer's keys come from. */
interface IssuerKeys {
  find: JWTVerifyGetKey;
  start: () => Promise<void>;
  stop: () => void;
}

/** The issuer's JSON Web Tokens, each the credential of a tenant. */
export class Tokens {
  private readonly keys: IssuerKeys;
  /** By the hash of the token. Only what was verified is here, so nobody can push others out with inventions. */
  private readonly trusted = new Map<string, { principal: Principal; untilMs: number }>();

  constructor(private readonly settings: JwtSettings) {
    this.keys = settings.jwksFile === null ? remoteKeys(settings.jwksUrl) : fileKeys(settings.jwksFile);
  }

  start(): Promise<void> {
    return this.keys.start();
  }

  stop(): void {
    this.keys.stop();
  }

  /** At once for a token that was verified of late. Rejects with IssuerUnavailableError when the keys are out of reach. */
  verify(token: string): Principal | Refusal | Promise<Principal | Refusal> {
    if (!FORM.test(token)) return { refused: 'malformed' };
    const id = hash('sha256', token, 'base64');
    const trusted = this.trusted.get(id);
    if (trusted !== undefined) {
      if (Date.now() < trusted.untilMs) return trusted.principal;
      this.trusted.delete(id);
    }
    return this.check(token, id);
  }

  private async check(token: string, id: string): Promise<Principal | Refusal> {
    const { issuer, audience, algorithms } = this.settings;
    let payload: JWTPayload;
    try {
      ({ payload } = await jwtVerify(token, this.keys.find, {
        ...{ issuer, audience, algorithms, clockTolerance: CLOCK_SKEW_SECONDS, requiredClaims: ['exp'] },
      }));
    } catch (error) {
      if (error instanceof IssuerUnavailableError) throw error;
      return {
        refused: error instanceof errors.JOSEError ? `${error.code}: ${error.message}` : String(error),
      };
    }
    const principal = this.principalOf(payload);
    if ('refused' in principal) return principal;
    const endMs = 1000 * ((payload.exp ?? 0) + CLOCK_SKEW_SECONDS);
    if (this.trusted.size >= TRUSTED) {
      for (const oldest of this.trusted.keys()) {
        this.trusted.delete(oldest);
        break;
      }
    }
    this.trusted.set(id, { principal, untilMs: Math.min(endMs, Date.now() + TRUST_MS) });
    return principal;
  }

  private principalOf(payload: JWTPayload): Principal | Refusal {
    const { tenantClaim, scopesClaim, defaultScopes } = this.settings;
    const tenant = claimOf(payload, tenantClaim);
    // Not the default tenant's: a provider that forgets the claim would open what is there.
    if (typeof tenant !== 'string' || !isTenant(tenant)) {
      return { refused: `the claim ${tenantClaim} names no tenant` };
    }
    const claim = claimOf(payload, scopesClaim);
    return {
      tenant,
      scopes: granted(scopesIn(claim === undefined ? defaultScopes : claim)),
      by: { subject: payload.sub ?? '' },
    };
  }
}

/** By a plain name, or a JSON pointer such as `/kubernetes.io/namespace`. */
function claimOf(payload: JWTPayload, path: string): unknown {
  if (!path.startsWith('/')) return Object.hasOwn(payload, path) ? payload[path] : undefined;
  let value: unknown = payload;
  for (const part of path.slice(1).split('/')) {
    const name = part.replaceAll('~1', '/').replaceAll('~0', '~');
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

/** Of a text with spaces, as OAuth has it, or an array. Others' scopes may be among them. */
function scopesIn(claim: unknown): Scope[] {
  const given: unknown[] =
    typeof claim === 'string' ? claim.split(/[\s,]+/) : Array.isArray(claim) ? claim : [];
  return SCOPES.filter((scope) => given.includes(scope));
}

function fileKeys(path: string): IssuerKeys {
  let find: JWTVerifyGetKey;
  const file = new WatchedFile(path, (text) => {
    find = createLocalJWKSet(JSON.parse(text) as JSONWebKeySet);
  });
  return {
    find: (...token) => find(...token),
    start: () => file.start(),
    stop: () => {
      file.stop();
    },
  };
}

/** Keys that were fetched go on while the issuer is out of reach. */
function remoteKeys(url: string): IssuerKeys {
  const logger = new Logger('tokens');
  const keys = createRemoteJWKSet(new URL(url), {
    cacheMaxAge: Infinity,
    cooldownDuration: COOL_DOWN_MS,
    timeoutDuration: TIMEOUT_MS,
  });
  const reload = async () => {
    await keys.reload().catch((error: unknown) => {
      logger.warn(`the keys at JWT_JWKS_URL cannot be fetched, those that were go on: ${String(error)}`);
    });
  };
  let timer: NodeJS.Timeout | undefined;
  return {
    find: async (header, token) => {
      try {
        return await keys(header, token);
      } catch (error) {
        if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys)
          throw error;
        if (error instanceof errors.JOSENotSupported) throw error;
        throw new IssuerUnavailableError('The keys of the tokens cannot be fetched from their issuer', {
          cause: error,
        });
      }
    },
    start: async () => {
      await reload();
      timer = setInterval(() => void reload(), RELOAD_MS).unref();
    },
    stop: () => {
      clearInterval(timer);
    },
  };
}
