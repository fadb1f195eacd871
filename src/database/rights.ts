import type { Settings } from '../config/env.js';
import { MIGRATIONS_TABLE } from './data-source.js';

/** What the service may have to do, in each of its modes, with each table that it uses. */
interface Right {
  table: string;
  privileges: readonly ('select' | 'insert' | 'update' | 'delete')[];
}

const ALWAYS: readonly Right[] = [
  { table: 'checkpoints', privileges: ['select', 'insert', 'update', 'delete'] },
  { table: 'checkpoint_blobs', privileges: ['select', 'insert', 'update', 'delete'] },
  { table: 'checkpoint_writes', privileges: ['select', 'insert', 'update', 'delete'] },
  { table: 'checkpoint_deltas', privileges: ['select', 'insert', 'update', 'delete'] },
  { table: MIGRATIONS_TABLE, privileges: ['select'] },
];
/** The trigger of `api_keys` counts its version as the role that changes a key. */
const WITH_KEYS: readonly Right[] = [
  { table: 'api_keys', privileges: ['select', 'insert', 'update'] },
  { table: 'api_keys_version', privileges: ['select', 'update'] },
];
const WITH_AUDIT: readonly Right[] = [{ table: 'audit_log', privileges: ['insert'] }];

/** Everybody may call these, unless an administrator has revoked that. A test holds the names against the SQL. */
const FUNCTIONS = [
  'pg_advisory_xact_lock(bigint)',
  'pg_advisory_xact_lock_shared(bigint)',
  'pg_try_advisory_xact_lock(bigint)',
  'pg_try_advisory_xact_lock_shared(bigint)',
  'pg_terminate_backend(int, bigint)',
];

/** What the role needs in the mode that the settings choose. */
export function neededRights({ authModes, apiKeysFile, auditLog }: Settings): readonly Right[] {
  return [
    ...ALWAYS,
    ...(authModes.includes('keys') && apiKeysFile === null ? WITH_KEYS : []),
    ...(auditLog === 'table' ? WITH_AUDIT : []),
  ];
}

/**
 * SQL: two columns, arrays of text. `lacking` are rights that the role does not have, as `grant` names them; `filtered`
 * are tables of which row-level security hides rows from it. A table that is not there is in neither.
 */
export function rightsColumns(settings: Settings): string {
  const { databaseSchema: schema } = settings;
  const needed = neededRights(settings).flatMap(({ table, privileges }) =>
    privileges.map((privilege) => `('${table}', '${privilege}')`),
  );
  const functions = FUNCTIONS.map((signature) => `('pg_catalog.${signature}')`);
  const table = `
    pg_catalog.pg_class as c
      join pg_catalog.pg_namespace as n
        on n.oid operator(pg_catalog.=) c.relnamespace and n.nspname operator(pg_catalog.=) '${schema}'::name`;
  return `
    array(select 'usage on schema "${schema}"'::text
           where not coalesce((select pg_catalog.has_schema_privilege(n.oid, 'usage')
                                 from pg_catalog.pg_namespace as n
                                where n.nspname operator(pg_catalog.=) '${schema}'::name), true)
           union all
          select pg_catalog.format('%s on "${schema}".%s', needed.privilege, needed.relation)
            from (values ${needed.join(', ')}) as needed (relation, privilege)
            join (${table}) on c.relname operator(pg_catalog.=) needed.relation::name
           where not pg_catalog.has_table_privilege(c.oid, needed.privilege)
             -- It may have been granted for each column.
             and case when needed.privilege operator(pg_catalog.=) 'delete' then true
                      else exists (select from pg_catalog.pg_attribute as a
                                    where a.attrelid operator(pg_catalog.=) c.oid and not a.attisdropped
                                      and a.attnum operator(pg_catalog.>) 0::int2
                                      and not pg_catalog.has_column_privilege(c.oid, a.attnum, needed.privilege)) end
           union all
          select pg_catalog.format('execute on function %s', needed.signature)
            from (values ${functions.join(', ')}) as needed (signature)
           where not coalesce(pg_catalog.has_function_privilege(
                                pg_catalog.to_regprocedure(needed.signature)::oid, 'execute'), true)) as lacking,
    array(select c.relname::text
            from (values ${neededRights(settings)
              .map((right) => `('${right.table}')`)
              .join(', ')}) as needed (relation)
            join (${table}) on c.relname operator(pg_catalog.=) needed.relation::name
           where pg_catalog.row_security_active(c.oid)) as filtered`;
}

export interface Rights {
  lacking: string[];
  filtered: string[];
}

/** What to do about rights that are missing, in words for an operator; null: none is missing. */
export function faultOfRights({ lacking, filtered }: Rights): string | null {
  if (filtered.length > 0) {
    return (
      `Row-level security hides rows of ${filtered.join(', ')} from this role. Use the owner of the tables or a role with ` +
      'bypassrls, or disable row level security: tenants are kept apart by keys'
    );
  }
  if (lacking.length === 0) return null;
  return `The role lacks rights: ${lacking.join(', ')}; see \`checkpoint-backend migrate grants ROLE\``;
}

/** The statements that give a role what it needs to serve in any mode. */
export function grantsFor(schema: string, role: string): string[] {
  const to = `to "${role.replaceAll('"', '""')}"`;
  return [
    `grant usage on schema "${schema}" ${to}`,
    ...[...ALWAYS, ...WITH_KEYS, ...WITH_AUDIT].map(
      ({ table, privileges }) => `grant ${privileges.join(', ')} on "${schema}".${table} ${to}`,
    ),
  ];
}
