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
import { IssuerUnavailableError } from '../errors/errors.js';
import type { JwtSettings } from '../config/env.js';
import { granted, isTenant, type Principal, type Scope, SCOPES } from '../request/principal.js';
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

/** A token that was verified: until when it is valid, by the clock, and trusted, by the monotonic one, which nobody sets back. */
interface Trusted {
  principal: Principal;
  endMs: number;
  untilMs: number;
}

/** The issuer's JSON Web Tokens, each the credential of a tenant. */
export class Tokens {
  private readonly keys: IssuerKeys;
  /** By the hash of the token. Only what was verified is here, so nobody can push others out with inventions. */
  private trusted = new Map<string, Trusted>();

  constructor(private readonly settings: JwtSettings) {
    // A token whose key was withdrawn is verified anew. One that is being verified meanwhile goes into the map that is gone.
    const onChange = () => {
      this.trusted = new Map();
    };
    this.keys =
      settings.jwksFile === null
        ? remoteKeys(settings.jwksUrl, onChange)
        : fileKeys(settings.jwksFile, onChange);
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
      if (Date.now() < trusted.endMs && performance.now() < trusted.untilMs) return trusted.principal;
      this.trusted.delete(id);
    }
    return this.check(token, id);
  }

  private async check(token: string, id: string): Promise<Principal | Refusal> {
    const { issuer, audience, algorithms } = this.settings;
    const { trusted } = this;
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
    if (trusted.size >= TRUSTED) {
      for (const oldest of trusted.keys()) {
        trusted.delete(oldest);
        break;
      }
    }
    trusted.set(id, { principal, endMs, untilMs: performance.now() + TRUST_MS });
    return principal;
  }

  private principalOf(payload: JWTPayload): Principal | Refusal {
    const { tenantClaim, scopesClaim, defaultScopes } = this.settings;
    const tenant = claimOf(payload, tenantClaim);
    // Not the default tenant's: a provider that forgets the claim, or leaves it empty, would open what is there.
    if (typeof tenant !== 'string' || tenant === '' || !isTenant(tenant)) {
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

function fileKeys(path: string, onChange: () => void): IssuerKeys {
  let find: JWTVerifyGetKey;
  const file = new WatchedFile(path, (text) => {
    find = createLocalJWKSet(JSON.parse(text) as JSONWebKeySet);
    onChange();
  });
  return {
    find: (...token) => find(...token),
    start: () => file.start(),
    stop: () => {
      file.stop();
    },
  };
}

/** Keys that were fetched go on while the issuer is out of reach. It is asked at most every COOL_DOWN_MS, whatever is sent. */
function remoteKeys(url: string, onChange: () => void): IssuerKeys {
  const logger = new Logger('tokens');
  // When to fetch is decided here: jose goes by the wall clock, and asks without a pause until there are keys.
  const keys = createRemoteJWKSet(new URL(url), {
    cacheMaxAge: Infinity,
    cooldownDuration: Infinity,
    timeoutDuration: TIMEOUT_MS,
  });
  let fetched = '';
  let askedAt = -Infinity;
  let asking: Promise<void> | null = null;
  const reload = (): Promise<void> => {
    askedAt = performance.now();
    asking ??= keys
      .reload()
      .then(() => {
        const now = JSON.stringify(keys.jwks());
        if (now !== fetched) onChange();
        fetched = now;
      })
      .catch((error: unknown) => {
        logger.warn(`the keys at JWT_JWKS_URL cannot be fetched, those that were go on: ${String(error)}`);
      })
      .finally(() => (asking = null));
    return asking;
  };
  const reloadOnceInAWhile = async () => {
    if (asking !== null) await asking;
    else if (performance.now() > askedAt + COOL_DOWN_MS) await reload();
  };
  let timer: NodeJS.Timeout | undefined;
  return {
    find: async (header, token) => {
      if (fetched === '') await reloadOnceInAWhile();
      if (fetched === '') {
        throw new IssuerUnavailableError('The keys of the tokens cannot be fetched from their issuer');
      }
      try {
        return await keys(header, token);
      } catch (error) {
        if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
        await reloadOnceInAWhile();
        return keys(header, token);
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
