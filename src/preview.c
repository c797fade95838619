/*
 * preview.c
 *	  What a cleanup would do, counted.
 *
 * Takes the cutoff and the boundary from the plan that a cleanup would follow
 * and counts the rows on either side.  Everything is under the snapshot of the
 * calling statement.  Must not write.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "plan.h"
#include "preview.h"
#include "query.h"
#include "spi_util.h"

/*
 * Takes a count.
 */
static bool
take_count(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(int64 *) arg = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	return false;
}

/*
 * Runs one of the counting statements for a leg.
 */
static int64
count_rows(const RetentionTarget *target, RetentionQuery query, int leg,
		   Datum tenant, TimestampTz from, TimestampTz to)
{
	Datum		values[3];
	int64		count = 0;

	values[0] = tenant;
	values[1] = TimestampTzGetDatum(from);
	values[2] = TimestampTzGetDatum(to);
	retention_spi_execute(retention_query_plan(target, query, leg),
						  SPI_OK_SELECT, values, NULL, true,
						  take_count, &count);
	return count;
}

/*
 * The plan that a cleanup would follow, under the active snapshot.
 */
static RetentionPlan *
begin_plan(const RetentionTarget *target, Datum tenant, TimestampTz cutoff,
		   int64 min_to_keep)
{
	RetentionPlanOptions options = {0};

	options.cutoff = cutoff;
	options.min_to_keep = min_to_keep;
	options.batch_size = 1;
	options.lock_timeout_ms = 1;
	options.snapshot = GetActiveSnapshot();
	return retention_plan_begin(target, tenant, &options);
}

/*
 * Counts the rows of a tenant: all, those older than the cutoff, and those
 * that a cleanup would delete.  The caller is connected to SPI, inside a
 * scope, and holds a lock on the table.
 */
RetentionPreview
retention_preview_tenant(const RetentionTarget *target, Datum tenant,
						 TimestampTz cutoff, int64 min_to_keep)
{
	RetentionPlan *plan = begin_plan(target, tenant, cutoff, min_to_keep);
	const RetentionBoundary *boundary = retention_plan_boundary(plan);
	RetentionPreview preview = {0};
	TimestampTz first;

	TIMESTAMP_NOBEGIN(first);
	for (int leg = 0; leg < target->nlegs; leg++)
	{
		preview.total += count_rows(target, RETENTION_QUERY_COUNT, leg,
									tenant, first, 0);
		preview.old += count_rows(target, RETENTION_QUERY_COUNT_RANGE, leg,
								  tenant, first, cutoff);
		if (retention_plan_nothing_due(plan))
			continue;
		preview.due += count_rows(target, RETENTION_QUERY_COUNT_RANGE, leg,
								  tenant, first, boundary->limit);
		if (boundary->ties)
			preview.due +=
				count_rows(target, RETENTION_QUERY_COUNT_RANGE, leg, tenant,
						   boundary->limit,
						   retention_instant_after(boundary->limit)) -
				boundary->keep[leg];
	}
	preview.total += count_rows(target, RETENTION_QUERY_COUNT_UNKNOWN,
								target->nlegs - 1, tenant, 0, 0);
	return preview;
}

/*
 * Finds the effective time of the oldest row that a cleanup would delete.
 * Returns false when there is none.  Costs a few index probes and the walk
 * over the rows that the minimum keeps.
 */
bool
retention_preview_oldest_due(const RetentionTarget *target, Datum tenant,
							 TimestampTz cutoff, int64 min_to_keep,
							 TimestampTz *oldest)
{
	RetentionPlan *plan = begin_plan(target, tenant, cutoff, min_to_keep);
	RetentionBatch batch;

	if (!retention_plan_next(plan, &batch))
		return false;
	*oldest = batch.from;
	return true;
}
