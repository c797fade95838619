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
 * TIMES(tenant, from, to, n): the oldest n times of a range.
 * COLLECT(tenant, from, to, skip, n): the places (tableoid, ctid) of n rows of
 * a range, the oldest first, without the first `skip`.
 * LOCK(tenant, from, to, table, places): those of the places whose rows are
 * still in the range and not locked by others; locks them.
 * DELETE_RANGE(tenant, from, to), DELETE_TIDS(tenant, from, to, table,
 * places): delete; return the times of what they deleted.
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
			appendStringInfo(&text, "SELECT %s FROM %s", column, relation);
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
		case RETENTION_QUERY_DELETE_TIDS:
			appendStringInfo(&text, "DELETE FROM %s", relation);
			append_range(&text, target, leg, true);
			if (query == RETENTION_QUERY_DELETE_TIDS)
				append_places(&text);
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
	}
	if (query == RETENTION_QUERY_LOCK || query == RETENTION_QUERY_DELETE_TIDS)
	{
		add_argument(&statement, OIDOID);
		add_argument(&statement, TIDARRAYOID);
	}
	statement.text = text.data;

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
 * The statement that reads the settings of one tenant's policy.
 */
RetentionStatement
retention_query_policy(Oid policy_relid)
{
	RetentionStatement statement = {0};
	char	   *schema = get_namespace_name(get_rel_namespace(policy_relid));
	char	   *name = get_rel_name(policy_relid);

	statement.text =
		psprintf("SELECT retention_days, min_executions_to_keep FROM %s"
				 " WHERE tenant_id OPERATOR(pg_catalog.=) $1",
				 quote_qualified_identifier(schema, name));
	add_argument(&statement, UUIDOID);
	return statement;
}

/*
 * The statement that lists the policies: of the tenant $1, or all for NULL.
 */
RetentionStatement
retention_query_policies(Oid policy_relid)
{
	RetentionStatement statement = {0};
	char	   *schema = get_namespace_name(get_rel_namespace(policy_relid));
	char	   *name = get_rel_name(policy_relid);

	statement.text =
		psprintf("SELECT retention_days, min_executions_to_keep, tenant_id,"
				 " is_enabled FROM %s WHERE $1 IS NULL"
				 " OR tenant_id OPERATOR(pg_catalog.=) $1 ORDER BY tenant_id",
				 quote_qualified_identifier(schema, name));
	add_argument(&statement, UUIDOID);
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
