import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Database } from '../database/database.js';
import type { Scope } from '../http/principal.js';
import type { ApiKeyRecord } from './api-key.js';
import { ApiKeyEntity } from './entities/api-key.entity.js';

/** What is stored of a new key's text. In seconds from now; null: nothing is said of its end. */
export interface NewKey {
  id: string;
  hash: Buffer;
  expiresInSeconds: number | null;
}

interface Row {
  id: string;
  tenant: string;
  name: string;
  scopes: Scope[];
  hash: Buffer;
  created_at: Date;
  expires_at: Date | null;
  revoked_at: Date | null;
}

// What never comes has no time in JavaScript.
const COLUMNS = `id, tenant, name, scopes, hash, created_at, nullif(expires_at, 'infinity') as expires_at, revoked_at`;

/** The keys in the table `api_keys`. */
@Injectable()
export class ApiKeyRepository {
  private readonly keys: string;

  constructor(
    private readonly dataSource: DataSource,
    private readonly database: Database,
  ) {
    const { schema, tableName } = dataSource.getMetadata(ApiKeyEntity);
    this.keys = `"${schema ?? 'public'}".${tableName}`;
  }

  /** A number that is another one after each change. Tried once: it is asked for again and again. */
  async version(): Promise<string> {
    const [row] = await this.dataSource.query<[{ version: string }]>(
      `select version from ${this.keys}_version`,
    );
    return row.version;
  }

  /** Every key, and the version that they are of. Tried once. */
  async findAll(): Promise<{ version: string; keys: ApiKeyRecord[] }> {
    const rows = await this.dataSource.query<(Row & { version: string })[]>(
      `select version, ${COLUMNS} from ${this.keys}_version left join ${this.keys} on true`,
    );
    return {
      version: rows[0]?.version ?? '',
      keys: rows.filter(({ id }) => id !== (null as unknown)).map(toRecord),
    };
  }

  /** Also one that was revoked. Null when there is none. */
  async find(id: string): Promise<ApiKeyRecord | null> {
    const [row] = await this.database.query<Row>(id, `select ${COLUMNS} from ${this.keys} where id = $1`, [
      id,
    ]);
    return row === undefined ? null : toRecord(row);
  }

  /** Oldest first, those that have ended too. Null: of every tenant. */
  async list(tenant: string | null): Promise<ApiKeyRecord[]> {
    const rows = await this.database.query<Row>(
      '',
      `select ${COLUMNS} from ${this.keys} where $1::text is null or tenant = $1 order by created_at, id`,
      [tenant],
    );
    return rows.map(toRecord);
  }

  /** Stores a new key; a repeat stores it once. */
  async insert(key: NewKey & { tenant: string; name: string; scopes: Scope[] }): Promise<ApiKeyRecord> {
    const [row] = await this.database.query<Row>(
      key.id,
      `insert into ${this.keys} (id, tenant, name, scopes, hash, expires_at)
       values ($1, $2, $3, $4, $5, now() + $6 * interval '1 second')
           on conflict (id) do update set id = excluded.id
       returning ${COLUMNS}`,
      [key.id, key.tenant, key.name, key.scopes, key.hash, key.expiresInSeconds],
    );
    return toRecord(row as Row);
  }

  /** The key's end, unless it was revoked before. False: the tenant (null: any) has no such key. May be repeated. */
  async revoke(id: string, tenant: string | null): Promise<boolean> {
    const rows = await this.database.query(
      id,
      `update ${this.keys}
          set revoked_at = coalesce(revoked_at, now())
        where id = $1 and ($2::text is null or tenant = $2)
       returning id`,
      [id, tenant],
    );
    return rows.length > 0;
  }

  /**
   * Stores another key of the same tenant, name and scopes, and lets the old one expire after the grace. The new one is to
   * last as long as the old one was, unless it says. Null: the tenant (null: any) has no such key that still works.
   */
  async rotate(
    id: string,
    tenant: string | null,
    key: NewKey,
    graceSeconds: number,
  ): Promise<ApiKeyRecord | null> {
    const [row] = await this.database.query<Row>(
      id,
      `with old as (
         select * from ${this.keys}
          where id = $1 and ($2::text is null or tenant = $2)
            and revoked_at is null and (expires_at is null or expires_at > now())
            for update
       ),
       ended as (
         update ${this.keys} k
            set expires_at = least(k.expires_at, now() + $6 * interval '1 second')
           from old
          where k.id = old.id
       )
       insert into ${this.keys} (id, tenant, name, scopes, hash, expires_at)
       select $3, tenant, name, scopes, $4,
              coalesce(now() + $5 * interval '1 second', now() + (nullif(expires_at, 'infinity') - created_at))
         from old
           on conflict (id) do update set id = excluded.id
       returning ${COLUMNS}`,
      [id, tenant, key.id, key.hash, key.expiresInSeconds, graceSeconds],
    );
    return row === undefined ? null : toRecord(row);
  }
}

function toRecord({ created_at, expires_at, revoked_at, ...row }: Row): ApiKeyRecord {
  const { id, tenant, name, scopes, hash } = row;
  return {
    id,
    tenant,
    name,
    scopes,
    hash,
    createdAt: created_at,
    expiresAt: expires_at,
    revokedAt: revoked_at,
  };
}
