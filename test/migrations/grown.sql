-- grown.sql - the same after some years in another hands: other types and missing columns, foreign
-- keys both ways, an audit trigger, row-level security, grants.  Runs as the owner, "app_owner", of executions
-- and tenants; the roles app_web, app_cron and app_report exist.

CREATE TABLE execution_retention_policies (
    id UUID NOT NULL DEFAULT gen_random_uuid() CONSTRAINT retention_pk PRIMARY KEY,
    tenant_id VARCHAR(36) NOT NULL,
    retention_days SMALLINT DEFAULT 30,
    is_enabled BOOLEAN DEFAULT true,
    min_executions_to_keep BIGINT,
    last_cleanup_at TIMESTAMP,
    last_cleanup_deleted_count NUMERIC(12),
    created_at TIMESTAMP DEFAULT NOW(),
    updated_by TEXT REFERENCES users(id) ON DELETE SET NULL,
    CONSTRAINT one_policy_a_tenant UNIQUE (tenant_id),
    CONSTRAINT sane_days CHECK (retention_days BETWEEN 1 AND 3650)
);
CREATE INDEX idx_policies_last_cleanup ON execution_retention_policies (last_cleanup_at NULLS FIRST);
CREATE INDEX idx_retention_policies_tenant ON execution_retention_policies (tenant_id);

CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, started_at DESC);

CREATE TABLE retention_exceptions (
    id INTEGER PRIMARY KEY,
    policy_id UUID NOT NULL REFERENCES execution_retention_policies(id) ON DELETE CASCADE
);

CREATE FUNCTION cleanup_old_executions(UUID, INTEGER, INTEGER, INTEGER)
RETURNS TABLE (deleted_count INTEGER, execution_summary JSONB) AS $$
    WITH gone AS (
        DELETE FROM executions WHERE tenant_id = $1
            AND COALESCE(started_at, created_at) < NOW() - make_interval(days => $2)
            AND id NOT IN (SELECT id FROM executions WHERE tenant_id = $1
                           ORDER BY COALESCE(started_at, created_at) DESC LIMIT $3)
        RETURNING id)
    SELECT COUNT(*)::INTEGER, jsonb_build_object('deleted', COUNT(*)) FROM gone;
$$ LANGUAGE sql SECURITY DEFINER;

CREATE FUNCTION cleanup_old_executions(UUID) RETURNS INTEGER AS $$
    SELECT deleted_count FROM cleanup_old_executions($1, 90, 100, 1000);
$$ LANGUAGE sql;

CREATE FUNCTION update_execution_retention_policies_updated_at()
RETURNS TRIGGER AS $$ BEGIN RETURN NEW; END; $$ LANGUAGE plpgsql;
CREATE TRIGGER trigger_update_execution_retention_policies_updated_at
    BEFORE UPDATE ON execution_retention_policies
    FOR EACH ROW EXECUTE FUNCTION update_execution_retention_policies_updated_at();
CREATE TRIGGER touch BEFORE INSERT ON execution_retention_policies
    FOR EACH ROW EXECUTE FUNCTION update_execution_retention_policies_updated_at();

CREATE TABLE retention_audit (at TIMESTAMPTZ DEFAULT clock_timestamp(), op TEXT, tenant TEXT);
CREATE FUNCTION audit_retention() RETURNS TRIGGER AS $$
BEGIN
    INSERT INTO retention_audit (op, tenant) VALUES (TG_OP, COALESCE(NEW.tenant_id, OLD.tenant_id)::TEXT);
    RETURN NULL;
END;
$$ LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT;
CREATE TRIGGER audit_retention AFTER INSERT OR UPDATE OF retention_days OR DELETE
    ON execution_retention_policies FOR EACH ROW EXECUTE FUNCTION audit_retention();
CREATE TRIGGER audit_off AFTER DELETE
    ON execution_retention_policies FOR EACH ROW EXECUTE FUNCTION audit_retention();
ALTER TABLE execution_retention_policies DISABLE TRIGGER audit_off;

ALTER TABLE execution_retention_policies ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON execution_retention_policies FOR ALL TO app_web
    USING (tenant_id = current_setting('app.tenant_id', true))
    WITH CHECK (tenant_id = current_setting('app.tenant_id', true) AND retention_days >= 7);
CREATE POLICY reporting ON execution_retention_policies FOR SELECT TO app_report USING (is_enabled);

GRANT SELECT, INSERT, UPDATE ON execution_retention_policies TO app_web;
GRANT SELECT (tenant_id, retention_days) ON execution_retention_policies TO app_report WITH GRANT OPTION;
GRANT SELECT, UPDATE ON execution_retention_policies TO app_cron;
REVOKE ALL ON FUNCTION cleanup_old_executions(UUID, INTEGER, INTEGER, INTEGER) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cleanup_old_executions(UUID, INTEGER, INTEGER, INTEGER) TO app_cron;
