import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Database } from '../database/database.js';
import type { Scope } from '../request/principal.js';
import type { ApiKeyRecord } from './domain/api-key.js';
import { ApiKeyEntity } from './entities/api-key.entity.js';

/** What is stored of a new key's text. In seconds from now; null: nothing is said of its end. */
export interface NewKey {
  id: string;
  hash: Buffer;
  expiresInSeconds: number | null;
}

/** What is stored of a key that takes the place of another one. */
export interface Rotation {
  key: NewKey;
  /** For how long the old key works on at least, in seconds from now. */
  graceSeconds: number;
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
  is_unused: boolean;
  expires_in_ms: number | null;
}

/** Rows of a table `api_keys` that is named `k`. */
const COLUMNS = `
  k.id, k.tenant, k.name, k.scopes, k.hash, k.created_at, k.revoked_at, k.replaces is not null and k.used_at is null as is_unused,
  -- JavaScript has no infinite time.
  case when k.expires_at < 'infinity' then k.expires_at end as expires_at,
  case when k.expires_at < 'infinity'
       then (extract(epoch from k.expires_at - pg_catalog.clock_timestamp()) * 1000::numeric)::float8 end as expires_in_ms`;

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

  /** A number that grows with each change. Tried once: it is asked for again and again. */
  async version(): Promise<bigint> {
    const [row] = await this.dataSource.query<[{ version: string }]>(
      `select version from ${this.keys}_version`,
    );
    return BigInt(row.version);
  }

  /** Every key, and the version that they are of. Tried once. */
  async findAll(): Promise<{ version: bigint; keys: ApiKeyRecord[] }> {
    const rows = await this.dataSource.query<(Row & { version: string })[]>(
      `select v.version, ${COLUMNS} from ${this.keys}_version as v left join ${this.keys} as k on true`,
    );
    return {
      version: BigInt(rows[0]?.version ?? 0),
      keys: rows.filter(({ id }) => id !== (null as unknown)).map(toRecord),
    };
  }

  /** One key, null when there is none, and the version that this is of. Also one that was revoked. */
  async find(id: string): Promise<{ version: bigint; key: ApiKeyRecord | null }> {
    const [row] = await this.database.query<Row & { version: string }>(
      id,
      `select v.version, ${COLUMNS}
         from ${this.keys}_version as v
         left join ${this.keys} as k on k.id = $1`,
      [id],
    );
    if (row === undefined) return { version: 0n, key: null };
    return { version: BigInt(row.version), key: row.id === (null as unknown) ? null : toRecord(row) };
  }

  /** Oldest first, those that have ended too. Null: of every tenant. */
  async list(tenant: string | null): Promise<ApiKeyRecord[]> {
    const rows = await this.database.query<Row>(
      '',
      `select ${COLUMNS}
         from ${this.keys} as k
        where $1::text is null or k.tenant = $1
        order by k.created_at, k.id`,
      [tenant],
    );
    return rows.map(toRecord);
  }

  /** Stores a new key; a repeat stores it once. */
  async insert(key: NewKey & { tenant: string; name: string; scopes: Scope[] }): Promise<ApiKeyRecord> {
    const [row] = await this.change<Row>(
      key.id,
      `insert into ${this.keys} as k (id, tenant, name, scopes, hash, expires_at)
       values ($1, $2, $3, $4, $5, pg_catalog.now() + $6::float8 * interval '1 second')
           on conflict (id) do update set id = excluded.id
       returning ${COLUMNS}`,
      [key.id, key.tenant, key.name, key.scopes, key.hash, key.expiresInSeconds],
      { made: key.id },
    );
    return toRecord(row as Row);
  }

  /** The key's end, unless it was revoked before. False: the tenant (null: any) has no such key. May be repeated. */
  async revoke(id: string, tenant: string | null): Promise<boolean> {
    const rows = await this.change(
      id,
      `update ${this.keys}
          set revoked_at = coalesce(revoked_at, pg_catalog.now())
        where id = $1 and ($2::text is null or tenant = $2)
       returning id`,
      [id, tenant],
    );
    return rows.length > 0;
  }

  /**
   * Stores another key of the same tenant, name and scopes, which is to last as long as the old one was, unless it says. The
   * old one is left as it is: its end comes with the first use of the new one, since only that shows that the new key has
   * arrived. So this may be repeated. Null: the tenant (null: any) has no such key that still works.
   */
  async rotate(
    id: string,
    tenant: string | null,
    { key, graceSeconds }: Rotation,
  ): Promise<ApiKeyRecord | null> {
    const [row] = await this.change<Row>(
      id,
      `insert into ${this.keys} as k (id, tenant, name, scopes, hash, expires_at, replaces, grace_until)
       select $3, old.tenant, old.name, old.scopes, $4,
              case when $5::float8 is not null then pg_catalog.now() + $5::float8 * interval '1 second'
                   when old.expires_at < 'infinity' then pg_catalog.now() + (old.expires_at - old.created_at) end,
              old.id, pg_catalog.now() + $6::float8 * interval '1 second'
         from ${this.keys} as old
        where old.id = $1 and ($2::text is null or old.tenant = $2)
          and old.revoked_at is null and (old.expires_at is null or old.expires_at > pg_catalog.now())
           on conflict (id) do update set id = excluded.id
       returning ${COLUMNS}`,
      [id, tenant, key.id, key.hash, key.expiresInSeconds, graceSeconds],
      { made: key.id },
    );
    return row === undefined ? null : toRecord(row);
  }

  /** A key that replaces others was used: these end after the grace. Tried once; may be repeated. */
  async setUsed(id: string): Promise<void> {
    await this.dataSource.query(
      // A key may replace one that never arrived, which replaced another one.
      `with recursive used as (
         update ${this.keys}
            set used_at = pg_catalog.now()
          where id = $1 and used_at is null
         returning replaces, grace_until
       ),
       replaced as (
         select replaces as id, grace_until from used
          union
         select k.replaces, r.grace_until
           from replaced as r
           join ${this.keys} as k on k.id = r.id
          where k.replaces is not null and k.used_at is null
       )
       update ${this.keys} as k
          set expires_at = least(k.expires_at, greatest(r.grace_until, pg_catalog.now()))
         from replaced as r
        where k.id = r.id`,
      [id],
    );
  }

  /** Changes keys, and writes to the audit log that it does, unless there was none to change. */
  private change<Row>(id: string, sql: string, values: unknown[], detail?: object): Promise<Row[]> {
    return this.database.transaction(id, async (query, record) => {
      const rows = await query<Row>(sql, values);
      if (rows.length > 0) await record(detail);
      return rows;
    });
  }
}

function toRecord(row: Row): ApiKeyRecord {
  const { id, tenant, name, scopes, hash } = row;
  return {
    ...{ id, tenant, name, scopes, hash },
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    revokedAt: row.revoked_at,
    isUnused: row.is_unused,
    expiresInMs: row.expires_in_ms ?? Infinity,
  };
}
