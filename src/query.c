/*
 * query.c
 *	  The text of every statement about a table to clean.
 *
 * The only place where identifiers enter SQL text.  Values are parameters.
 * Every table reference carries the condition on the tenant, uncast, and every
 * operator its schema.  Must not execute anything.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "query.h"

/*
 * The conditions that pick one tenant's rows of a leg in a range of times:
 * $1 is the tenant, $2 the first time and $3, if `ends`, the first time after
 * the range.  The comparison implies that the column is not NULL.
 */
static void
append_range(StringInfo text, const RetentionTarget *target,
			 const RetentionLeg *leg, bool ends)
{
	appendStringInfo(text, " WHERE %s OPERATOR(pg_catalog.=) $1",
					 quote_identifier(target->tenant_column));
	if (leg->null_column != NULL)
		appendStringInfo(text, " AND %s IS NULL",
						 quote_identifier(leg->null_column));
	appendStringInfo(text, " AND %s OPERATOR(pg_catalog.>=) $2",
					 quote_identifier(leg->column));
	if (ends)
		appendStringInfo(text, " AND %s OPERATOR(pg_catalog.<) $3",
						 quote_identifier(leg->column));
}

/*
 * The condition that picks rows by their places ($5) in one table ($4): a
 * place alone is not unique in a partitioned table.
 */
static void
append_places(StringInfo text)
{
	appendStringInfoString(text, " AND tableoid OPERATOR(pg_catalog.=) $4"
						   " AND ctid OPERATOR(pg_catalog.=) ANY ($5)");
}

/*
 * Adds an argument to a statement.
 */
static void
add_argument(RetentionStatement *statement, Oid type)
{
	Assert(statement->nargs < RETENTION_MAX_ARGS);
	statement->argtypes[statement->nargs++] = type;
}

/*
 * Makes the statement of this kind for one leg, in the current memory context.
 *
 * WALK(tenant, from, n): the times from `from` on, the newest n first.
 * TIMES(tenant, from, to, n): the oldest n times of a range, behind the tenant.
 * COLLECT(tenant, from, to, skip, n): the places (tableoid, ctid) of n rows of
 * a range, the oldest first, without the first `skip`.
 * LOCK(tenant, from, to, table, places): those of the places whose rows are
 * still in the range and not locked by others; locks them.
 * DELETE_RANGE(tenant, from, to): deletes; returns nothing.
 * DELETE_RANGE_RETURNING(tenant, from, to), DELETE_TIDS(tenant, from, to,
 * table, places): delete; return the times of what they deleted.
 * COUNT(tenant, from), COUNT_RANGE(tenant, from, to): how many rows there are.
 * COUNT_UNKNOWN(tenant): how many rows of the tenant are in no leg.
 */
static RetentionStatement
build_statement(const RetentionTarget *target, RetentionQuery query, int legno)
{
	const RetentionLeg *leg = &target->legs[legno];
	const char *relation = quote_qualified_identifier(target->nspname,
													  target->relname);
	const char *column = quote_identifier(leg->column);
	RetentionStatement statement = {0};
	StringInfoData text;

	initStringInfo(&text);
	add_argument(&statement, target->tenant_type);
	if (query != RETENTION_QUERY_COUNT_UNKNOWN)
		add_argument(&statement, leg->type);
	if (query != RETENTION_QUERY_COUNT_UNKNOWN &&
		query != RETENTION_QUERY_COUNT && query != RETENTION_QUERY_WALK)
		add_argument(&statement, leg->type);

	switch (query)
	{
		case RETENTION_QUERY_WALK:
			appendStringInfo(&text, "SELECT %s FROM %s", column, relation);
			append_range(&text, target, leg, false);
			appendStringInfo(&text, " ORDER BY %s DESC LIMIT $3", column);
			add_argument(&statement, INT8OID);
			break;
		case RETENTION_QUERY_TIMES:
			/* the columns of the index: nothing has to be projected */
			appendStringInfo(&text, "SELECT %s, %s FROM %s",
							 quote_identifier(target->tenant_column), column,
							 relation);
			append_range(&text, target, leg, true);
			appendStringInfo(&text, " ORDER BY %s LIMIT $4", column);
			add_argument(&statement, INT8OID);
			break;
		case RETENTION_QUERY_COLLECT:
			appendStringInfo(&text, "SELECT tableoid, ctid FROM %s", relation);
			append_range(&text, target, leg, true);
			appendStringInfo(&text, " ORDER BY %s OFFSET $4 LIMIT $5", column);
			add_argument(&statement, INT8OID);
			add_argument(&statement, INT8OID);
			break;
		case RETENTION_QUERY_LOCK:
			appendStringInfo(&text, "SELECT tableoid, ctid FROM %s", relation);
			append_range(&text, target, leg, true);
			append_places(&text);
			appendStringInfoString(&text, " FOR UPDATE SKIP LOCKED");
			break;
		case RETENTION_QUERY_DELETE_RANGE:
		case RETENTION_QUERY_DELETE_RANGE_RETURNING:
		case RETENTION_QUERY_DELETE_TIDS:
			appendStringInfo(&text, "DELETE FROM %s", relation);
			append_range(&text, target, leg, true);
			if (query == RETENTION_QUERY_DELETE_TIDS)
				append_places(&text);
			if (query != RETENTION_QUERY_DELETE_RANGE)
				appendStringInfo(&text, " RETURNING %s", column);
			break;
		case RETENTION_QUERY_COUNT:
		case RETENTION_QUERY_COUNT_RANGE:
			appendStringInfo(&text, "SELECT pg_catalog.count(*) FROM %s",
							 relation);
			append_range(&text, target, leg,
						 query == RETENTION_QUERY_COUNT_RANGE);
			break;
		case RETENTION_QUERY_COUNT_UNKNOWN:
			appendStringInfo(&text, "SELECT pg_catalog.count(*) FROM %s"
							 " WHERE %s OPERATOR(pg_catalog.=) $1"
							 " AND %s IS NULL", relation,
							 quote_identifier(target->tenant_column), column);
			if (leg->null_column != NULL)
				appendStringInfo(&text, " AND %s IS NULL",
								 quote_identifier(leg->null_column));
			break;
		case RETENTION_QUERY_DELETE_TENANTS:
		case RETENTION_QUERY_DELETE_BLOCKS:
		case RETENTION_QUERY_FIND_BLOCKS:
			pg_unreachable();
	}
	if (query == RETENTION_QUERY_LOCK || query == RETENTION_QUERY_DELETE_TIDS)
	{
		add_argument(&statement, OIDOID);
		add_argument(&statement, TIDARRAYOID);
	}
	statement.text = text.data;

	if (query != RETENTION_QUERY_COUNT_UNKNOWN)
		statement.indexes[statement.nindexes++] = leg->index;

	return statement;
}

/*
 * The kept plan of a statement about one leg.
 */
SPIPlanPtr
retention_query_plan(const RetentionTarget *target, RetentionQuery query,
					 int leg)
{
	RetentionStatement statement = build_statement(target, query, leg);

	return retention_spi_plan(target->relid,
							  query * RETENTION_MAX_LEGS + leg, &statement);
}

/*
 * The kept plan of the statement that deletes the rows of a leg of the tenants
 * $1 before the time that $2 has for each, and returns the number of the
 * tenant in $1 for each.
 */
SPIPlanPtr
retention_query_delete_tenants(const RetentionTarget *target, int legno)
{
	const RetentionLeg *leg = &target->legs[legno];
	const char *column = quote_identifier(leg->column);
	RetentionStatement statement = {0};
	StringInfoData text;

	initStringInfo(&text);
	add_argument(&statement, UUIDARRAYOID);
	add_argument(&statement, leg->type == TIMESTAMPTZOID ?
				 TIMESTAMPTZARRAYOID : TIMESTAMPARRAYOID);
	appendStringInfo(&text, "DELETE FROM %s AS e USING ROWS FROM"
					 " (pg_catalog.unnest($1), pg_catalog.unnest($2))"
					 " WITH ORDINALITY AS d (tenant, before, n)"
					 " WHERE e.%s OPERATOR(pg_catalog.=) d.tenant"
					 " AND e.%s OPERATOR(pg_catalog.>=) '-infinity'"
					 " AND e.%s OPERATOR(pg_catalog.<) d.before",
					 quote_qualified_identifier(target->nspname,
												target->relname),
					 quote_identifier(target->tenant_column), column, column);
	if (leg->null_column != NULL)
		appendStringInfo(&text, " AND e.%s IS NULL",
						 quote_identifier(leg->null_column));
	appendStringInfoString(&text, " RETURNING d.n");
	statement.text = text.data;

	statement.indexes[statement.nindexes++] = leg->index;
	return retention_spi_plan(target->relid,
							  RETENTION_QUERY_DELETE_TENANTS *
							  RETENTION_MAX_LEGS + legno, &statement);
}

/*
 * The kept plan of the statement that, between the places $1 and $2, deletes or
 * finds what retention.is_due() says is due.
 */
SPIPlanPtr
retention_query_blocks(const RetentionTarget *target, RetentionQuery query)
{
	const RetentionLeg *legs = target->legs;
	const char *type = legs[0].type == TIMESTAMPTZOID ?
	"timestamptz" : "timestamp";
	RetentionStatement statement = {0};

	add_argument(&statement, TIDOID);
	add_argument(&statement, TIDOID);
	statement.text =
		psprintf("%s FROM %s AS e WHERE e.ctid OPERATOR(pg_catalog.>=) $1"
				 " AND e.ctid OPERATOR(pg_catalog.<) $2"
				 " AND retention.is_due(e.%s, e.%s, %s%s, e.ctid)",
				 query == RETENTION_QUERY_DELETE_BLOCKS ? "DELETE" : "SELECT",
				 quote_qualified_identifier(target->nspname, target->relname),
				 quote_identifier(target->tenant_column),
				 quote_identifier(legs[0].column),
				 target->nlegs > 1 ? "e." : "NULL::pg_catalog.",
				 target->nlegs > 1 ? quote_identifier(legs[1].column) : type);
	return retention_spi_plan(target->relid, query * RETENTION_MAX_LEGS,
							  &statement);
}

/*
 * The policy table's name, with its schema.
 */
static char *
policy_table(Oid policy_relid)
{
	char	   *schema = get_namespace_name(get_rel_namespace(policy_relid));
	char	   *name = get_rel_name(policy_relid);

	if (schema == NULL || name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u does not exist", policy_relid)));
	return quote_qualified_identifier(schema, name);
}

/*
 * What a FROM clause reads policies from (tenant_id, retention_days,
 * is_enabled, min_executions_to_keep): the table or, where that is not for the
 * role that reads, four more arguments of the statement.
 */
static char *
policy_source(RetentionStatement *statement, Oid policy_relid, bool passed)
{
	int			first = statement->nargs + 1;

	if (!passed)
		return psprintf("(SELECT tenant_id, retention_days, is_enabled,"
						" min_executions_to_keep FROM %s)",
						policy_table(policy_relid));
	add_argument(statement, UUIDARRAYOID);
	add_argument(statement, INT4ARRAYOID);
	add_argument(statement, BOOLARRAYOID);
	add_argument(statement, INT4ARRAYOID);
	return psprintf("(SELECT * FROM ROWS FROM (pg_catalog.unnest($%d),"
					" pg_catalog.unnest($%d), pg_catalog.unnest($%d),"
					" pg_catalog.unnest($%d)) AS u (tenant_id, retention_days,"
					" is_enabled, min_executions_to_keep))",
					first, first + 1, first + 2, first + 3);
}

/*
 * The statement that reads the policy of the tenant $1.
 */
RetentionStatement
retention_query_policy(Oid policy_relid)
{
	RetentionStatement statement = {0};

	statement.text =
		psprintf("SELECT retention_days, min_executions_to_keep, is_enabled"
				 " FROM %s WHERE tenant_id OPERATOR(pg_catalog.=) $1",
				 policy_table(policy_relid));
	add_argument(&statement, UUIDOID);
	return statement;
}

/*
 * The statement that reads the policies of the tenants $1, each with the
 * number of the tenant in $1.
 */
RetentionStatement
retention_query_policies_of(Oid policy_relid)
{
	RetentionStatement statement = {0};

	statement.text =
		psprintf("SELECT p.retention_days, p.min_executions_to_keep,"
				 " p.is_enabled, d.n"
				 " FROM pg_catalog.unnest($1) WITH ORDINALITY AS d (tenant, n)"
				 " JOIN %s AS p ON p.tenant_id OPERATOR(pg_catalog.=) d.tenant",
				 policy_table(policy_relid));
	add_argument(&statement, UUIDARRAYOID);
	return statement;
}

/*
 * The statement that lists the policies: of the tenant $1, or all for NULL.
 */
RetentionStatement
retention_query_policies(Oid policy_relid)
{
	RetentionStatement statement = {0};

	statement.text =
		psprintf("SELECT retention_days, min_executions_to_keep, is_enabled,"
				 " tenant_id FROM %s WHERE $1 IS NULL"
				 " OR tenant_id OPERATOR(pg_catalog.=) $1 ORDER BY tenant_id",
				 policy_table(policy_relid));
	add_argument(&statement, UUIDOID);
	return statement;
}

/*
 * The statement that records in the policy of the tenant $1 that a cleanup at
 * $2 deleted $3 rows.
 */
RetentionStatement
retention_query_record(Oid policy_relid)
{
	RetentionStatement statement = {0};

	statement.text =
		psprintf("UPDATE %s SET last_cleanup_at = $2,"
				 " last_cleanup_deleted_count = $3"
				 " WHERE tenant_id OPERATOR(pg_catalog.=) $1",
				 policy_table(policy_relid));
	add_argument(&statement, UUIDOID);
	add_argument(&statement, TIMESTAMPTZOID);
	add_argument(&statement, INT8OID);
	return statement;
}

/*
 * The statement that does so for the tenants $1, of whom $3 has the numbers;
 * with `around`, for those whose policy nobody holds, and it then returns how
 * many others there are, and one of them.
 */
RetentionStatement
retention_query_record_many(Oid policy_relid, bool around)
{
	RetentionStatement statement = {0};
	const char *table = policy_table(policy_relid);
	const char *given =
	"ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($3))"
	" AS d (tenant, deleted)";
	const char *set = "SET last_cleanup_at = $2,"
	" last_cleanup_deleted_count = d.deleted";

	if (around)
		statement.text =
			psprintf("WITH free AS (SELECT f.tenant_id, d.deleted FROM %s AS f,"
					 " %s WHERE f.tenant_id OPERATOR(pg_catalog.=) d.tenant"
					 " FOR NO KEY UPDATE OF f SKIP LOCKED),"
					 " noted AS (UPDATE %s AS p %s FROM free AS d"
					 " WHERE p.tenant_id OPERATOR(pg_catalog.=) d.tenant_id)"
					 " SELECT pg_catalog.count(*),"
					 " pg_catalog.min(h.tenant_id::pg_catalog.text)"
					 " FROM %s AS h, %s"
					 " WHERE h.tenant_id OPERATOR(pg_catalog.=) d.tenant"
					 " AND NOT EXISTS (SELECT FROM free"
					 " WHERE free.tenant_id OPERATOR(pg_catalog.=) h.tenant_id)",
					 table, given, table, set, table, given);
	else
		statement.text =
			psprintf("UPDATE %s AS p %s FROM %s"
					 " WHERE p.tenant_id OPERATOR(pg_catalog.=) d.tenant",
					 table, set, given);
	add_argument(&statement, UUIDARRAYOID);
	add_argument(&statement, TIMESTAMPTZOID);
	add_argument(&statement, INT8ARRAYOID);
	return statement;
}

/*
 * A cutoff of type timestamptz as a value of the leg's type.
 */
static char *
cutoff_for_leg(const RetentionLeg *leg, const char *cutoff)
{
	if (leg->type == TIMESTAMPTZOID)
		return psprintf("%s", cutoff);
	return psprintf("pg_catalog.timezone('UTC', %s)", cutoff);
}

/*
 * Adds a query for the tenants of the table, found by skipping from one to the
 * next through each leg's index.
 */
static void
append_tenants(StringInfo text, const RetentionTarget *target,
			   const char *relation)
{
	const char *tenant = quote_identifier(target->tenant_column);

	for (int legno = 0; legno < target->nlegs; legno++)
	{
		const RetentionLeg *leg = &target->legs[legno];
		StringInfoData rows;

		/* the rows of the leg, in the order of its index */
		initStringInfo(&rows);
		appendStringInfo(&rows, "SELECT e.%s FROM %s AS e WHERE", tenant,
						 relation);
		if (leg->null_column != NULL)
			appendStringInfo(&rows, " e.%s IS NULL AND",
							 quote_identifier(leg->null_column));
		appendStringInfo(&rows, " e.%s OPERATOR(pg_catalog.>=) '-infinity'",
						 quote_identifier(leg->column));

		appendStringInfo(text, "%sSELECT tenant_id FROM ("
						 "WITH RECURSIVE t(tenant_id) AS ((%s ORDER BY e.%s LIMIT 1)"
						 " UNION ALL SELECT (%s"
						 " AND e.%s OPERATOR(pg_catalog.>) t.tenant_id"
						 " ORDER BY e.%s LIMIT 1)"
						 " FROM t WHERE t.tenant_id IS NOT NULL)"
						 " SELECT tenant_id FROM t WHERE tenant_id IS NOT NULL"
						 ") AS leg%d", legno == 0 ? "" : " UNION ",
						 rows.data, tenant, rows.data, tenant, tenant, legno);
		pfree(rows.data);
	}
}

/*
 * Joins to policies p and their cutoffs c the oldest row of each leg that is
 * older than the cutoff, and makes `oldest` a list of their times.
 */
static void
append_oldest(RetentionStatement *statement, StringInfo text,
			  StringInfo oldest, const RetentionTarget *target,
			  const char *relation)
{
	for (int legno = 0; legno < target->nlegs; legno++)
	{
		const RetentionLeg *leg = &target->legs[legno];
		const char *column = quote_identifier(leg->column);

		statement->indexes[statement->nindexes++] = leg->index;
		appendStringInfo(text, " LEFT JOIN LATERAL (SELECT e.%s AS oldest"
						 " FROM %s AS e WHERE e.%s"
						 " OPERATOR(pg_catalog.=) p.tenant_id AND e.%s"
						 " OPERATOR(pg_catalog.<) %s", column, relation,
						 quote_identifier(target->tenant_column), column,
						 cutoff_for_leg(leg, "c.cutoff"));
		if (leg->null_column != NULL)
			appendStringInfo(text, " AND e.%s IS NULL",
							 quote_identifier(leg->null_column));
		appendStringInfo(text, " ORDER BY e.%s LIMIT 1) AS leg%d ON true",
						 column, legno);
		appendStringInfo(oldest, leg->type == TIMESTAMPTZOID ?
						 "%sleg%d.oldest" :
						 "%spg_catalog.timezone('UTC', leg%d.oldest)",
						 legno == 0 ? "" : ", ", legno);
	}
}

/*
 * The statement that lists the tenants for whom something is older than the
 * cutoff, and their oldest time, the one that waits longest first: those whose
 * policy is enabled, or all with a policy if $3, and, if `without_policy`,
 * those without one, for whom $4 days count.  $1 is the clock; $2 names one
 * tenant, or is NULL.  The policies may be `passed` as arguments.  Costs one
 * index probe a leg and a tenant.
 */
RetentionStatement
retention_query_due(const RetentionTarget *target, Oid policy_relid,
					bool passed, bool without_policy)
{
	const char *relation = quote_qualified_identifier(target->nspname,
													  target->relname);
	const char *policies;
	RetentionStatement statement = {0};
	StringInfoData text;
	StringInfoData oldest;

	add_argument(&statement, TIMESTAMPTZOID);
	add_argument(&statement, UUIDOID);
	add_argument(&statement, BOOLOID);
	add_argument(&statement, INT4OID);
	policies = policy_source(&statement, policy_relid, passed);

	initStringInfo(&text);
	initStringInfo(&oldest);
	appendStringInfo(&text, " FROM ("
					 "SELECT tenant_id, retention_days FROM %s AS f"
					 " WHERE (is_enabled OR $3) AND ($2 IS NULL"
					 " OR tenant_id OPERATOR(pg_catalog.=) $2)", policies);
	if (without_policy)
	{
		appendStringInfoString(&text, " UNION ALL SELECT d.tenant_id, $4 FROM (");
		append_tenants(&text, target, relation);
		appendStringInfo(&text, ") AS d WHERE ($2 IS NULL"
						 " OR d.tenant_id OPERATOR(pg_catalog.=) $2)"
						 " AND NOT EXISTS (SELECT FROM %s AS q"
						 " WHERE q.tenant_id OPERATOR(pg_catalog.=) d.tenant_id)",
						 policies);
	}
	else
		appendStringInfoString(&text, " AND $4 IS NOT NULL");
	/* a policy without days counts as due, so that it fails for all to see */
	appendStringInfoString(&text, ") AS p CROSS JOIN LATERAL"
						   " (SELECT COALESCE(retention.cutoff($1,"
						   " p.retention_days), 'infinity') AS cutoff) AS c");

	append_oldest(&statement, &text, &oldest, target, relation);
	appendStringInfo(&text, " WHERE LEAST(%s) IS NOT NULL"
					 " ORDER BY LEAST(%s), p.tenant_id",
					 oldest.data, oldest.data);
	statement.text = psprintf("SELECT p.tenant_id, LEAST(%s)%s", oldest.data,
							  text.data);

	return statement;
}

/*
 * The statement that lists the tenants whose policy is enabled and for whom
 * something is due at $1, the longest overdue first, the time of their oldest
 * row, which is then the first to go, and whether it was past the cutoff at
 * $2 already; policies may be `passed`.  Costs an index probe a leg and a
 * tenant.  The walk over the rows that the minimum keeps comes after the sort,
 * so that a caller who takes the first rows alone pays for no others.
 */
RetentionStatement
retention_query_oldest(const RetentionTarget *target, Oid policy_relid,
					   bool passed)
{
	const char *relation = quote_qualified_identifier(target->nspname,
													  target->relname);
	RetentionStatement statement = {0};
	StringInfoData text;
	StringInfoData joins;
	StringInfoData oldest;

	add_argument(&statement, TIMESTAMPTZOID);
	add_argument(&statement, TIMESTAMPTZOID);
	initStringInfo(&text);
	initStringInfo(&joins);
	initStringInfo(&oldest);
	append_oldest(&statement, &joins, &oldest, target, relation);
	appendStringInfo(&text, "SELECT p.tenant_id, p.oldest,"
					 " p.oldest OPERATOR(pg_catalog.<)"
					 " retention.cutoff($2, p.retention_days) FROM ("
					 "SELECT p.tenant_id, p.retention_days,"
					 " p.min_executions_to_keep, o.oldest FROM %s AS p"
					 " CROSS JOIN LATERAL (SELECT retention.cutoff($1,"
					 " p.retention_days) AS cutoff) AS c%s"
					 " CROSS JOIN LATERAL (SELECT LEAST(%s) AS oldest) AS o"
					 " WHERE p.is_enabled AND o.oldest IS NOT NULL"
					 " ORDER BY CASE WHEN pg_catalog.isfinite(o.oldest)"
					 " THEN c.cutoff OPERATOR(pg_catalog.-) o.oldest END"
					 " DESC NULLS FIRST, p.tenant_id OFFSET 0) AS p WHERE",
					 policy_source(&statement, policy_relid, passed),
					 joins.data, oldest.data);
	for (int legno = 0; legno < target->nlegs; legno++)
	{
		const RetentionLeg *leg = &target->legs[legno];
		const char *column = quote_identifier(leg->column);

		appendStringInfo(&text, "%s (SELECT pg_catalog.count(*) FROM"
						 " (SELECT FROM %s AS e WHERE e.%s"
						 " OPERATOR(pg_catalog.=) p.tenant_id",
						 legno == 0 ? "" : " OPERATOR(pg_catalog.+)", relation,
						 quote_identifier(target->tenant_column));
		if (leg->null_column != NULL)
			appendStringInfo(&text, " AND e.%s IS NULL",
							 quote_identifier(leg->null_column));
		appendStringInfo(&text, " AND e.%s OPERATOR(pg_catalog.>=) '-infinity'"
						 " ORDER BY e.%s DESC LIMIT pg_catalog.int8("
						 "p.min_executions_to_keep) OPERATOR(pg_catalog.+) 1"
						 ") AS newest)", column, column);
	}
	appendStringInfoString(&text, " OPERATOR(pg_catalog.>)"
						   " p.min_executions_to_keep");
	statement.text = text.data;

	return statement;
}

/*
 * The statement that counts, in a sample of $1 percent of the table, the rows
 * that policies, enabled or not if $3, make due at $2.
 */
RetentionStatement
retention_query_estimate(const RetentionTarget *target, Oid policy_relid,
						 bool passed)
{
	RetentionStatement statement = {0};
	StringInfoData text;

	add_argument(&statement, FLOAT4OID);
	add_argument(&statement, TIMESTAMPTZOID);
	add_argument(&statement, BOOLOID);
	initStringInfo(&text);
	appendStringInfo(&text, "SELECT pg_catalog.count(*) FROM %s AS e"
					 " TABLESAMPLE pg_catalog.system ($1) JOIN %s AS p"
					 " ON p.tenant_id OPERATOR(pg_catalog.=) e.%s"
					 " AND (p.is_enabled OR $3) WHERE",
					 quote_qualified_identifier(target->nspname,
												target->relname),
					 policy_source(&statement, policy_relid, passed),
					 quote_identifier(target->tenant_column));
	for (int legno = 0; legno < target->nlegs; legno++)
	{
		const RetentionLeg *leg = &target->legs[legno];

		appendStringInfoString(&text, legno == 0 ? " (" : " OR (");
		if (leg->null_column != NULL)
			appendStringInfo(&text, "e.%s IS NULL AND ",
							 quote_identifier(leg->null_column));
		appendStringInfo(&text, "e.%s OPERATOR(pg_catalog.<) %s)",
						 quote_identifier(leg->column),
						 cutoff_for_leg(leg, "retention.cutoff($2, p.retention_days)"));
	}
	statement.text = text.data;

	return statement;
}

/*
 * The search path under which the table's rows are deleted: triggers may name
 * what stands beside the table without its schema.
 */
char *
retention_query_search_path(const RetentionTarget *target)
{
	return psprintf("pg_catalog, %s, pg_temp",
					quote_identifier(target->nspname));
}

/*
 * The command that builds the index of a leg.
 */
char *
retention_query_create_index(const RetentionTarget *target, int legno,
							 bool concurrently)
{
	const RetentionLeg *leg = &target->legs[legno];
	const char *condition_column = leg->null_column ? leg->null_column :
	leg->column;

	return psprintf("CREATE INDEX %s%s ON %s (%s, %s) WHERE %s %s",
					concurrently ? "CONCURRENTLY " : "",
					quote_identifier(leg->index_name),
					quote_qualified_identifier(target->nspname,
											   target->relname),
					quote_identifier(target->tenant_column),
					quote_identifier(leg->column),
					quote_identifier(condition_column),
					leg->null_column ? "IS NULL" : "IS NOT NULL");
}
