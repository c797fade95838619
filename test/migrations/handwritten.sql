-- handwritten.sql - what applications that need retention write for themselves: the policy
-- table, indexes, a function that counts and deletes, a trigger.  Needs executions and tenants.

CREATE TABLE IF NOT EXISTS execution_retention_policies (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL REFERENCES tenants(id) ON DELETE CASCADE,
    retention_days INTEGER NOT NULL DEFAULT 90 CHECK (retention_days > 0),
    is_enabled BOOLEAN NOT NULL DEFAULT true,
    min_executions_to_keep INTEGER DEFAULT 100,
    last_cleanup_at TIMESTAMPTZ,
    last_cleanup_deleted_count INTEGER DEFAULT 0,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    created_by UUID,
    updated_by UUID,
    CONSTRAINT unique_tenant_retention_policy UNIQUE (tenant_id)
);

CREATE INDEX IF NOT EXISTS idx_executions_retention_cleanup
    ON executions (tenant_id, started_at) WHERE started_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_executions_null_started_at
    ON executions (tenant_id, created_at) WHERE started_at IS NULL;
CREATE INDEX IF NOT EXISTS idx_retention_policies_tenant
    ON execution_retention_policies (tenant_id) WHERE is_enabled = true;

CREATE OR REPLACE FUNCTION cleanup_old_executions(
    p_tenant_id UUID,
    p_retention_days INTEGER,
    p_min_executions_to_keep INTEGER DEFAULT 100,
    p_batch_size INTEGER DEFAULT 1000
) RETURNS TABLE (deleted_count INTEGER, execution_summary JSONB) AS $$
DECLARE
    v_cutoff TIMESTAMPTZ := NOW() - (p_retention_days || ' days')::INTERVAL;
    v_total BIGINT;
    v_batch INTEGER;
    v_deleted INTEGER := 0;
BEGIN
    SELECT COUNT(*) INTO v_total FROM executions WHERE tenant_id = p_tenant_id;
    LOOP
        DELETE FROM executions WHERE id IN (
            SELECT id FROM (
                SELECT id, COALESCE(started_at, created_at) AS at,
                       ROW_NUMBER() OVER (ORDER BY COALESCE(started_at, created_at) DESC) AS rn
                FROM executions WHERE tenant_id = p_tenant_id
            ) ranked
            WHERE at < v_cutoff AND rn > p_min_executions_to_keep
            ORDER BY at LIMIT p_batch_size);
        GET DIAGNOSTICS v_batch = ROW_COUNT;
        v_deleted := v_deleted + v_batch;
        EXIT WHEN v_batch < p_batch_size;
    END LOOP;
    RETURN QUERY SELECT v_deleted, jsonb_build_object('tenant_id', p_tenant_id,
        'total_before', v_total, 'deleted', v_deleted, 'cutoff_date', v_cutoff);
END;
$$ LANGUAGE plpgsql;

CREATE OR REPLACE FUNCTION update_execution_retention_policies_updated_at()
RETURNS TRIGGER AS $$
BEGIN
    NEW.updated_at = NOW();
    RETURN NEW;
END;
$$ LANGUAGE plpgsql;

DROP TRIGGER IF EXISTS trigger_update_execution_retention_policies_updated_at
    ON execution_retention_policies;
CREATE TRIGGER trigger_update_execution_retention_policies_updated_at
    BEFORE UPDATE ON execution_retention_policies
    FOR EACH ROW EXECUTE FUNCTION update_execution_retention_policies_updated_at();
