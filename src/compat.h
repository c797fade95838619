/*
 * compat.h
 *	  The differences between the supported PostgreSQL versions.
 *
 * The only file that looks at PG_VERSION_NUM.  Gives the other modules one
 * spelling of whatever the server spells in several ways.
 */
#ifndef RETENTION_COMPAT_H
#define RETENTION_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/pathnodes.h"
#include "optimizer/pathnode.h"
#include "optimizer/plancat.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/timeout.h"

#if PG_VERSION_NUM < 150000
#error "retention needs PostgreSQL 15 or later"
#endif

/*
 * The hook in which an extension may change what the planner has found out
 * about a relation: its type, its variable, the parameters of a function for
 * it and what that passes on.
 */
#if PG_VERSION_NUM >= 190000
typedef build_simple_rel_hook_type RetentionRelHook;
#define retention_compat_rel_hook build_simple_rel_hook
#define RETENTION_REL_HOOK_PARAMS \
	PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte
#define RETENTION_REL_HOOK_ARGS root, rel, rte
#else
typedef get_relation_info_hook_type RetentionRelHook;
#define retention_compat_rel_hook get_relation_info_hook
#define RETENTION_REL_HOOK_PARAMS \
	PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel
#define RETENTION_REL_HOOK_ARGS root, relid, inhparent, rel
#endif

/*
 * Is the current user an owner of this relation?
 */
static inline bool
retention_compat_owns_relation(Oid relid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relid, GetUserId());
#else
	return pg_class_ownercheck(relid, GetUserId());
#endif
}

/*
 * Is the column computed when it is read, so that no index can have it?
 */
static inline bool
retention_compat_is_virtual(Form_pg_attribute attribute)
{
#if PG_VERSION_NUM >= 180000
	return attribute->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL;
#else
	return false;
#endif
}

/*
 * Does this session hold the lock in this very mode?
 */
static inline bool
retention_compat_lock_held_by_me(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/*
 * Is this the process of a client's session?
 */
static inline bool
retention_compat_is_client(const volatile PGPROC *proc)
{
#if PG_VERSION_NUM >= 190000
	return proc->backendType == B_BACKEND;
#elif PG_VERSION_NUM >= 180000
	return proc->isRegularBackend;
#else
	return !proc->isBackgroundWorker;
#endif
}

/*
 * What the server knows about a setting.
 */
static inline struct config_generic *
retention_compat_setting(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return find_option(name, false, true, ERROR);
#else
	struct config_generic **all = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
	{
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	}
	return NULL;
#endif
}

/*
 * The value that a setting had before the innermost nest level (a CREATE
 * EXTENSION, say) changed it; NULL when nothing has.
 */
static inline const char *
retention_compat_prior_setting(const char *name)
{
	struct config_generic *record = retention_compat_setting(name);

	if (record == NULL || record->stack == NULL)
		return NULL;
	if (record->vartype == PGC_STRING)
		return record->stack->prior.val.stringval;
	if (record->vartype == PGC_ENUM)
#if PG_VERSION_NUM >= 190000
		return config_enum_lookup_by_value(record,
										   record->stack->prior.val.enumval);
#else
		return config_enum_lookup_by_value((struct config_enum *) record,
										   record->stack->prior.val.enumval);
#endif
	return NULL;
}

/*
 * Begins to read an index.
 */
static inline IndexScanDesc
retention_compat_index_beginscan(Relation heap, Relation index,
								 Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0, 0);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/*
 * When the statement will be cancelled for taking too long, or 0 when it has no
 * time limit.
 */
static inline TimestampTz
retention_compat_statement_deadline(void)
{
	return get_timeout_active(STATEMENT_TIMEOUT) ?
		get_timeout_finish_time(STATEMENT_TIMEOUT) : 0;
}

/*
 * When the statement will be cancelled, or the session ended, because the
 * statement or the transaction takes too long, or 0 when neither has a time
 * limit.
 */
static inline TimestampTz
retention_compat_deadline(void)
{
	TimestampTz deadline = retention_compat_statement_deadline();

#if PG_VERSION_NUM >= 170000
	if (get_timeout_active(TRANSACTION_TIMEOUT))
	{
		TimestampTz other = get_timeout_finish_time(TRANSACTION_TIMEOUT);

		if (deadline == 0 || other < deadline)
			deadline = other;
	}
#endif
	return deadline;
}

/*
 * How long a transaction may take, in microseconds, or 0 for any time.
 */
static inline int64
retention_compat_transaction_limit(void)
{
#if PG_VERSION_NUM >= 170000
	return TransactionTimeout * INT64CONST(1000);
#else
	return 0;
#endif
}

#endif							/* RETENTION_COMPAT_H */
