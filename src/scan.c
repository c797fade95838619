/*
 * scan.c
 *	  Times of a tenant's rows, from the indexes themselves.
 *
 * What an index-only scan of the executor reads, without the executor: a run
 * looks at the newest rows of each tenant that is due, a hundred of them by
 * default, and starting and stepping a plan costs several times what reading
 * the index does.  For plain tables alone; where this cannot be used, callers
 * run the statements of query.c instead.  Reads only.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "compat.h"
#include "scan.h"

typedef struct LegScan
{
	Relation	index;
	IndexScanDesc desc;
	ScanDirection direction;
	Buffer		visibility;		/* of the heap's visibility map */
} LegScan;

struct RetentionScans
{
	const RetentionTarget *target;
	Relation	heap;
	Snapshot	snapshot;
	TupleTableSlot *slot;
	FmgrInfo	equal;			/* of tenants */
	LegScan		legs[RETENTION_MAX_LEGS];
};

/*
 * May this index be read under the current snapshot?  Right after it was built
 * it may not have the rows that older transactions see; the planner looks at
 * the same.
 */
static bool
index_is_ripe(Relation index)
{
	return !index->rd_index->indcheckxmin ||
		TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							  TransactionXmin);
}

/*
 * Gets ready to read a table's indexes under the active snapshot.  Returns
 * NULL when the current user may not read the table, or when the indexes
 * cannot be read like this.
 *
 * The caller holds a lock on the table.  To be closed before the snapshot is
 * popped; an error closes it by itself.
 */
RetentionScans *
retention_scans_open(const RetentionTarget *target)
{
	RetentionScans *scans;
	TypeCacheEntry *type;

	if (!target->is_plain ||
		pg_class_aclcheck(target->relid, GetUserId(),
						  ACL_SELECT) != ACLCHECK_OK)
		return NULL;

	scans = palloc0(sizeof(RetentionScans));
	scans->target = target;
	scans->snapshot = GetActiveSnapshot();
	scans->heap = table_open(target->relid, AccessShareLock);
	scans->slot = table_slot_create(scans->heap, NULL);
	type = lookup_type_cache(target->tenant_type, TYPECACHE_EQ_OPR_FINFO);
	fmgr_info_copy(&scans->equal, &type->eq_opr_finfo, CurrentMemoryContext);

	for (int i = 0; i < target->nlegs; i++)
		scans->legs[i].visibility = InvalidBuffer;
	for (int i = 0; i < target->nlegs; i++)
	{
		LegScan    *leg = &scans->legs[i];

		leg->index = index_open(target->legs[i].index, AccessShareLock);
		if (!index_is_ripe(leg->index))
		{
			retention_scans_close(scans);
			return NULL;
		}
		leg->desc = retention_compat_index_beginscan(scans->heap, leg->index,
													 scans->snapshot, 2);
		leg->desc->xs_want_itup = true;
	}
	return scans;
}

/*
 * Starts over with a condition on the time, which implies that it is not NULL.
 */
static void
start(RetentionScans *scans, int legno, Datum tenant, StrategyNumber strategy,
	  RegProcedure comparison, TimestampTz time, ScanDirection direction)
{
	LegScan    *leg = &scans->legs[legno];
	ScanKeyData keys[2];

	/* an index that a DBA has built may have the newest in front */
	if (leg->index->rd_indoption[1] & INDOPTION_DESC)
		direction = -direction;

	ScanKeyEntryInitializeWithInfo(&keys[0], 0, 1, BTEqualStrategyNumber,
								   InvalidOid,
								   leg->index->rd_indcollation[0],
								   &scans->equal, tenant);
	ScanKeyInit(&keys[1], 2, strategy, comparison, TimestampTzGetDatum(time));
	leg->direction = direction;
	index_rescan(leg->desc, keys, 2, NULL, 0);
}

/*
 * Starts to read the tenant's rows of a leg, the newest first.
 */
void
retention_scan_newest(RetentionScans *scans, int leg, Datum tenant)
{
	TimestampTz from;

	TIMESTAMP_NOBEGIN(from);
	start(scans, leg, tenant, BTGreaterEqualStrategyNumber,
		  scans->target->legs[leg].type == TIMESTAMPTZOID ?
		  F_TIMESTAMPTZ_GE : F_TIMESTAMP_GE, from, BackwardScanDirection);
}

/*
 * Starts to read the tenant's rows of a leg before this time, the oldest
 * first.
 */
void
retention_scan_before(RetentionScans *scans, int leg, Datum tenant,
					  TimestampTz before)
{
	start(scans, leg, tenant, BTLessStrategyNumber,
		  scans->target->legs[leg].type == TIMESTAMPTZOID ?
		  F_TIMESTAMPTZ_LT : F_TIMESTAMP_LT, before, ForwardScanDirection);
}

/*
 * The next row's time.  Returns false when there is none.
 */
bool
retention_scan_next(RetentionScans *scans, int legno, TimestampTz *time)
{
	LegScan    *leg = &scans->legs[legno];
	ItemPointer tid;

	while ((tid = index_getnext_tid(leg->desc, leg->direction)) != NULL)
	{
		BlockNumber block = ItemPointerGetBlockNumber(tid);
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (VM_ALL_VISIBLE(scans->heap, block, &leg->visibility))
			PredicateLockPage(scans->heap, block, scans->snapshot);
		else
		{
			bool		visible = index_fetch_heap(leg->desc, scans->slot);

			ExecClearTuple(scans->slot);
			if (!visible)
				continue;
		}
		*time = DatumGetTimestampTz(index_getattr(leg->desc->xs_itup, 2,
												  leg->desc->xs_itupdesc,
												  &isnull));
		return true;
	}
	return false;
}

/*
 * Closes everything.
 */
void
retention_scans_close(RetentionScans *scans)
{
	for (int i = 0; i < scans->target->nlegs; i++)
	{
		LegScan    *leg = &scans->legs[i];

		if (leg->desc != NULL)
			index_endscan(leg->desc);
		if (BufferIsValid(leg->visibility))
			ReleaseBuffer(leg->visibility);
		if (leg->index != NULL)
			index_close(leg->index, AccessShareLock);
	}
	ExecDropSingleTupleTableSlot(scans->slot);
	table_close(scans->heap, AccessShareLock);
	pfree(scans);
}
