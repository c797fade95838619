/*
 * history.h
 *	  Rows about runs.
 */
#ifndef RETENTION_HISTORY_H
#define RETENTION_HISTORY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/itemptr.h"

/* What retention.run_history holds about a run. */
typedef struct RetentionRunRecord
{
	int64		id;
	TimestampTz started;
	TimestampTz finished;		/* 0: it is running */
	const char *status;
	const Datum *only_tenant;	/* NULL: all */
	const Datum *current_tenant;	/* NULL: none */
	int32		tenants_due;
	int32		tenants;
	int32		tenants_busy;
	int32		tenants_failed;
	int64		batches;
	int64		deleted;
	int64		estimated;		/* -1: unknown */
	int64		skipped_locked;
	int64		skipped_protected;
	int64		wal_bytes;
	int64		waited_us;
	const char *waited_for;		/* NULL: nothing */
	const char *waiting_for;	/* NULL: nothing */
	const char *stop_reason;	/* NULL: it has not stopped */
	const char *message;		/* the error that ended it, or NULL */
	ItemPointerData place;		/* of its row, as last written; or invalid */
} RetentionRunRecord;

/* What retention.run_tenant holds about a tenant of a run. */
typedef struct RetentionTenantRecord
{
	Datum		tenant;
	int64		deleted;
	int64		batches;
	int64		skipped_locked;
	int64		skipped_protected;
	int64		kept;			/* by a trigger or RLS, or gone meanwhile */
	int			sqlerrcode;		/* 0: no error */
	const char *message;		/* NULL: no error */
	ItemPointerData place;		/* of its row, as last written; or invalid */
} RetentionTenantRecord;

extern void retention_history_start(Oid history, Oid writer,
									RetentionRunRecord *run);
extern void retention_history_update(Oid history, Oid writer,
									 RetentionRunRecord *run);
extern void retention_history_tenant(Oid history, Oid writer, int64 run_id,
									 RetentionTenantRecord *tenant);
extern void retention_history_tenants(Oid history, Oid writer, int64 run_id,
									  Datum *tenants, Datum *deleted,
									  Datum *batches, int count);
extern int64 retention_history_interrupt(Oid history, Oid writer);
extern void retention_history_prune(Oid history, Oid writer,
									TimestampTz before);

#endif							/* RETENTION_HISTORY_H */
