/*
 * retention.h
 *	  Names, limits and the few types that every module shares.
 *
 * Owns the names of the SQL contract and the description of a table to clean
 * (RetentionTarget).  Holds no code.
 */
#ifndef RETENTION_H
#define RETENTION_H

#include "postgres.h"

#include "datatype/timestamp.h"

#define RETENTION_EXTENSION "retention"
#define RETENTION_SCHEMA "retention"
#define RETENTION_TARGET_TABLE "target"
#define RETENTION_HISTORY_TABLE "run_history"

/* the SQL contract: names that never change */
#define RETENTION_TABLE "executions"
#define RETENTION_POLICY_TABLE "execution_retention_policies"
#define RETENTION_TENANT_COLUMN "tenant_id"
#define RETENTION_STARTED_COLUMN "started_at"
#define RETENTION_CREATED_COLUMN "created_at"
#define RETENTION_STARTED_INDEX "idx_executions_retention_cleanup"
#define RETENTION_CREATED_INDEX "idx_executions_null_started_at"

#define RETENTION_MAX_BATCH_SIZE 1000000

/* with what the activity of a run begins in pg_stat_activity */
#define RETENTION_ACTIVITY "retention: "

/* how long one batch waits for a row lock before it goes around the row */
#define RETENTION_ROW_LOCK_PATIENCE_MS 100

/*
 * A row has one effective time, taken from the first of its time columns that
 * is not NULL.  Each such column is a leg: the rows whose effective time comes
 * from it, served by an index of its own on (tenant, column).
 */
#define RETENTION_MAX_LEGS 2

typedef struct RetentionLeg
{
	const char *column;			/* where the effective time stands */
	Oid			type;			/* timestamptz, or timestamp meaning UTC */
	const char *null_column;	/* NULL in every row of this leg, or none */
	const char *index_name;		/* the index that the SQL contract gives it */
	Oid			index;			/* an index that serves it, or InvalidOid */
} RetentionLeg;

/* Everything that the engine knows about a table. */
typedef struct RetentionTarget
{
	Oid			relid;
	Oid			owner;
	const char *nspname;
	const char *relname;
	const char *tenant_column;
	Oid			tenant_type;
	Oid			tenant_collation;
	const char *time_columns;	/* the columns of the legs, for people */
	bool		may_keep;		/* a trigger or RLS may keep rows */
	bool		is_plain;		/* a heap of its own, all rows to be seen */
	Oid			file;			/* changes when the table is rewritten */
	int			nlegs;
	RetentionLeg legs[RETENTION_MAX_LEGS];
} RetentionTarget;

#endif							/* RETENTION_H */
