// service.js - the retention part of a service, as services have it, and what it does on one
// day.  Knows the policy table, cleanup_old_executions() and retention.preview(), and nothing
// else of the database.  Prints what each call gave as JSON, one line a step.

'use strict';

const { Pool } = require('pg');

const CLEANUP = `SELECT * FROM cleanup_old_executions(
  p_tenant_id => $1, p_retention_days => $2, p_min_executions_to_keep => $3, p_batch_size => $4)`;

class RetentionService {
  constructor(pool) {
    this.pool = pool;
  }

  async one(text, values) {
    const { rows } = await this.pool.query(text, values);
    return rows[0] ?? null;
  }

  getPolicy(tenant) {
    return this.one('SELECT * FROM execution_retention_policies WHERE tenant_id = $1', [tenant]);
  }

  createPolicy(tenant, { days, enabled = true, minimum = 100 }, user) {
    return this.one(
      `INSERT INTO execution_retention_policies
         (tenant_id, retention_days, is_enabled, min_executions_to_keep, created_by, updated_by)
       VALUES ($1, $2, $3, $4, $5, $5)
       ON CONFLICT (tenant_id) DO UPDATE SET
         tenant_id = EXCLUDED.tenant_id, retention_days = EXCLUDED.retention_days,
         is_enabled = EXCLUDED.is_enabled, min_executions_to_keep = EXCLUDED.min_executions_to_keep,
         updated_by = EXCLUDED.updated_by
       RETURNING *`,
      [tenant, days, enabled, minimum, user]);
  }

  updatePolicy(tenant, changes, user) {
    const columns = { days: 'retention_days', enabled: 'is_enabled', minimum: 'min_executions_to_keep' };
    const set = Object.keys(changes).map((key, i) => `${columns[key]} = $${i + 3}`);
    return this.one(
      `UPDATE execution_retention_policies SET ${set.join(', ')}, updated_by = $2 WHERE tenant_id = $1 RETURNING *`,
      [tenant, user, ...Object.values(changes)]);
  }

  preview(tenant) {
    return this.one('SELECT * FROM retention.preview($1)', [tenant]);
  }

  cleanup(tenant, { days = null, minimum = null, batch = null } = {}) {
    return this.one(CLEANUP, [tenant, days, minimum, batch]);
  }

  async listPolicies() {
    return (await this.pool.query('SELECT * FROM execution_retention_policies ORDER BY tenant_id')).rows;
  }

  // As RPC layers over HTTP call a function: arguments as JSON, rows as JSON.
  async rpc(args) {
    const { body } = await this.one(
      `WITH call AS (
         SELECT c.* FROM json_to_record($1::json) AS a (p_tenant_id uuid, p_retention_days integer,
             p_min_executions_to_keep integer, p_batch_size integer),
           LATERAL public.cleanup_old_executions("p_tenant_id" := a.p_tenant_id, "p_retention_days" := a.p_retention_days,
             "p_min_executions_to_keep" := a.p_min_executions_to_keep, "p_batch_size" := a.p_batch_size) AS c)
       SELECT coalesce(json_agg(call), '[]') AS body FROM call`,
      [JSON.stringify(args)]);
    return body;
  }

  // The nightly job that the service had before there was retention.run().
  async cleanAll() {
    const { rows } = await this.pool.query(
      'SELECT tenant_id, retention_days, min_executions_to_keep FROM execution_retention_policies WHERE is_enabled ORDER BY tenant_id');
    const results = [];
    for (const policy of rows) {
      const client = await this.pool.connect();
      try {
        await client.query('BEGIN');
        const { rows: [result] } = await client.query({
          name: 'cleanup', text: CLEANUP,
          values: [policy.tenant_id, policy.retention_days, policy.min_executions_to_keep, 500],
        });
        await client.query(
          'UPDATE execution_retention_policies SET last_cleanup_at = NOW(), last_cleanup_deleted_count = $2 WHERE tenant_id = $1',
          [policy.tenant_id, result.deleted_count]);
        await client.query('COMMIT');
        results.push({ tenant: policy.tenant_id, deleted: result.deleted_count });
      } catch (error) {
        await client.query('ROLLBACK');
        results.push({ tenant: policy.tenant_id, code: error.code, message: error.message });
      } finally {
        client.release();
      }
    }
    return results;
  }
}

const [t1, t2, t3] = [1, 2, 3].map((n) => `00000000-0000-0000-0000-00000000000${n}`);
const user = '00000000-0000-0000-0000-0000000000aa';

async function main() {
  const pool = new Pool({ max: 3 });
  const service = new RetentionService(pool);
  const print = (step, value) => process.stdout.write(`${JSON.stringify({ step, value })}\n`);
  const attempt = async (step, f) => {
    try {
      print(step, await f());
    } catch (error) {
      print(step, { code: error.code, message: error.message, hint: error.hint ?? null });
    }
  };

  await attempt('get none', () => service.getPolicy(t1));
  await attempt('create', () => service.createPolicy(t1, { days: 60, minimum: 20 }, user));
  await attempt('create others', async () => [
    await service.createPolicy(t2, { days: 90 }, user), await service.createPolicy(t3, { days: 10, enabled: false }, user)].length);
  await attempt('create again', () => service.createPolicy(t1, { days: 45, minimum: 20 }, t2));
  await attempt('update', () => service.updatePolicy(t1, { days: 30, minimum: 5 }, user));
  await attempt('update none', () => service.updatePolicy(user, { days: 30 }, user));
  await attempt('get', () => service.getPolicy(t1));
  await attempt('get is typed', async () => {
    const policy = await service.getPolicy(t1);
    return Object.fromEntries(Object.entries(policy).map(([key, value]) =>
      [key, value === null ? 'null' : value instanceof Date ? 'Date' : typeof value]));
  });
  await attempt('preview', () => service.preview(t1));
  await attempt('cleanup', () => service.cleanup(t1));
  await attempt('cleanup again', () => service.cleanup(t1));
  await attempt('cleanup with arguments', () => service.cleanup(t1, { days: 20, minimum: 3, batch: 7 }));
  await attempt('rpc', () => service.rpc({ p_tenant_id: t1, p_retention_days: 10, p_min_executions_to_keep: 2 }));
  await attempt('clean all', () => service.cleanAll());
  await attempt('list', () => service.listPolicies());
  await attempt('positions', () => service.one('SELECT * FROM cleanup_old_executions($1, $2, $3, $4)', [t2, 90, 100, 1000]));
  await attempt('a number of days that is none', () => service.createPolicy(t1, { days: 0 }, user));
  await attempt('a minimum that is none', () => service.createPolicy(t1, { days: 5, minimum: null }, user));
  await attempt('a tenant that is none', () => service.cleanup(null));
  await attempt('negative days', () => service.cleanup(t1, { days: -1 }));
  await attempt('run', () => pool.query('CALL retention.run()').then((r) => r.command));
  await attempt('run with a parameter', () => pool.query('CALL retention.run($1)', [t1]).then((r) => r.command));
  await attempt('bigint as a number', async () => {
    require('pg').types.setTypeParser(20, Number);
    const value = (await service.getPolicy(t2)).last_cleanup_deleted_count;
    return [typeof value, value];
  });
  await pool.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
