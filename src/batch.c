/*
 * batch.c
 *	  Carries out one batch of a plan.
 *
 * The batch is one DELETE by range in a subtransaction.  When it runs into a
 * row that somebody else holds, it is undone and done again around the row.
 * Must not commit, read settings or decide what goes: the statements repeat
 * every condition of the plan.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "clock.h"
#include "query.h"
#include "spi_util.h"

/*
 * How long to wait for rows that others are known to hold.  A cancel that comes
 * in the very moment of the timeout is taken for it, so not all too often.
 */
#define IMPATIENCE_MS 10

/*
 * How long a batch may go around them by trial, in microseconds.  It holds what
 * it has deleted meanwhile, and what stays is not looked at again: the rest is
 * left to another batch.
 */
#define AROUND_MOST (200 * 1000)

/* What the steps of one batch share. */
typedef struct Work
{
	const RetentionTarget *target;
	Datum		tenant;
	const RetentionBatch *batch;
	RetentionResult *result;	/* of the whole batch */
	int64		around_until;	/* when it has taken long, by our clock */
	int			ndone;			/* how many of its places are dealt with */

	/* of the step that is under way, which may still fail */
	RetentionPlace *places;
	int			nplaces;
	int			patience_ms;
	RetentionResult step;
} Work;

typedef enum Outcome
{
	STEP_DONE,
	STEP_LOCKED,				/* a lock was in the way */
	STEP_PROTECTED				/* a foreign key was */
} Outcome;

/* The places that LOCK returns. */
typedef struct Locked
{
	RetentionPlace *places;
	int			count;
	int16		leg;
} Locked;

/*
 * Adds one result to the sum of several.
 */
void
retention_result_add(RetentionResult *sum, const RetentionResult *step)
{
	if (step->deleted > 0)
	{
		if (sum->deleted == 0 || step->oldest < sum->oldest)
			sum->oldest = step->oldest;
		if (sum->deleted == 0 || step->newest > sum->newest)
			sum->newest = step->newest;
	}
	sum->deleted += step->deleted;
	sum->skipped_locked += step->skipped_locked;
	sum->skipped_protected += step->skipped_protected;
	sum->kept += step->kept;
}

/*
 * Counts a deleted row.
 */
static bool
take_deleted(TupleTableSlot *slot, void *arg)
{
	bool		isnull;
	RetentionResult row = {0};

	row.deleted = 1;
	row.oldest = DatumGetTimestampTz(slot_getattr(slot, 1, &isnull));
	row.newest = row.oldest;
	retention_result_add(arg, &row);
	return true;
}

/*
 * Takes the place of a row that LOCK has locked.
 */
static bool
take_locked(TupleTableSlot *slot, void *arg)
{
	Locked	   *locked = arg;
	RetentionPlace *place = &locked->places[locked->count++];
	bool		isnull;

	place->tableoid = DatumGetObjectId(slot_getattr(slot, 1, &isnull));
	place->tid = *(ItemPointer) DatumGetPointer(slot_getattr(slot, 2,
															 &isnull));
	place->leg = locked->leg;
	return true;
}

/*
 * Runs LOCK or DELETE_TIDS for the places of a step, all of one leg and one
 * table.
 */
static void
execute_places(Work *work, RetentionQuery query, int expected,
			   RetentionRowFunction row, void *arg)
{
	Datum	   *tids = palloc(work->nplaces * sizeof(Datum));
	ArrayType  *array;
	Datum		values[5];

	for (int i = 0; i < work->nplaces; i++)
		tids[i] = PointerGetDatum(&work->places[i].tid);
	array = construct_array(tids, work->nplaces, TIDOID,
							sizeof(ItemPointerData), false, TYPALIGN_SHORT);

	values[0] = work->tenant;
	values[1] = TimestampTzGetDatum(work->batch->from);
	values[2] = TimestampTzGetDatum(work->batch->to);
	values[3] = ObjectIdGetDatum(work->places[0].tableoid);
	values[4] = PointerGetDatum(array);
	retention_spi_execute(retention_query_plan(work->target, query,
											   work->places[0].leg),
						  expected, values, NULL, false, row, arg);
	pfree(array);
	pfree(tids);
}

/*
 * A step: deletes every row of the batch's range.  RETURNING reads each row
 * once more, so it is left out where the plan knows what goes.
 */
static void
delete_range(void *arg)
{
	Work	   *work = arg;
	int64		planned = 0;
	bool		returning = work->target->may_keep || work->batch->is_retry;
	Datum		values[3];

	retention_pin_lock_timeout(work->patience_ms);
	values[0] = work->tenant;
	values[1] = TimestampTzGetDatum(work->batch->from);
	values[2] = TimestampTzGetDatum(work->batch->to);
	for (int leg = 0; leg < work->target->nlegs; leg++)
	{
		if (work->batch->planned[leg] == 0)
			continue;
		planned += work->batch->planned[leg];
		if (returning)
			retention_spi_execute(retention_query_plan(work->target,
													   RETENTION_QUERY_DELETE_RANGE_RETURNING,
													   leg),
								  SPI_OK_DELETE_RETURNING, values, NULL,
								  false, take_deleted, &work->step);
		else
			work->step.deleted +=
				retention_spi_execute(retention_query_plan(work->target,
														   RETENTION_QUERY_DELETE_RANGE,
														   leg),
									  SPI_OK_DELETE, values, NULL, false,
									  NULL, NULL);
	}
	if (!returning)
	{
		work->step.oldest = work->batch->oldest;
		work->step.newest = work->batch->newest;
	}
	work->step.kept = Max(0, planned - work->step.deleted);
}

/*
 * A step: deletes the rows at certain places.
 */
static void
delete_places(void *arg)
{
	Work	   *work = arg;

	retention_pin_lock_timeout(work->patience_ms);
	execute_places(work, RETENTION_QUERY_DELETE_TIDS, SPI_OK_DELETE_RETURNING,
				   take_deleted, &work->step);
	work->step.kept = Max(0, work->nplaces - work->step.deleted);
}

/*
 * A step: deletes those of the rows at certain places that nobody holds.
 */
static void
delete_unlocked_places(void *arg)
{
	Work	   *work = arg;
	Locked		locked = {0};
	int			asked = work->nplaces;

	retention_pin_lock_timeout(work->patience_ms);
	locked.places = palloc(asked * sizeof(RetentionPlace));
	locked.leg = work->places[0].leg;
	execute_places(work, RETENTION_QUERY_LOCK, SPI_OK_SELECT, take_locked,
				   &locked);

	work->places = locked.places;
	work->nplaces = locked.count;
	if (locked.count > 0)
		delete_places(work);
	work->step.skipped_locked = asked - locked.count;
}

/*
 * A step: deletes all of the batch and undoes it, to wait until nobody holds
 * its rows or patience ends.  Needs no other privilege than to delete.
 */
static void
wait_for_rows(void *arg)
{
	Work	   *work = arg;

	if (work->places != NULL)
		delete_places(work);
	else
		delete_range(work);
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg_internal("the wait is over")));
}

/*
 * Takes one step for some places in a subtransaction.  Unless it is done, it
 * has changed nothing.
 */
static Outcome
try_step(Work *work, void (*step) (void *arg), RetentionPlace *places,
		 int nplaces, int patience_ms)
{
	ErrorData  *error;
	Outcome		outcome;

	work->places = places;
	work->nplaces = nplaces;
	work->patience_ms = patience_ms;
	memset(&work->step, 0, sizeof(work->step));

	error = retention_try(step, work);
	if (error == NULL)
	{
		retention_result_add(work->result, &work->step);
		return STEP_DONE;
	}
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		outcome = STEP_LOCKED;
	else if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE &&
			 !IsolationUsesXactSnapshot())
	{
		/* while it was waited for, a row moved to another partition */
		outcome = STEP_LOCKED;
	}
	else if (work->batch->skip_protected &&
			 (error->sqlerrcode == ERRCODE_FOREIGN_KEY_VIOLATION ||
			  error->sqlerrcode == ERRCODE_RESTRICT_VIOLATION))
		outcome = STEP_PROTECTED;
	else
		ReThrowError(error);
	FreeErrorData(error);
	return outcome;
}

/*
 * Has the batch taken long, and come to some of its rows?
 */
static bool
is_late(const Work *work)
{
	return work->ndone > 0 && retention_clock() >= work->around_until;
}

/*
 * Deletes what can be deleted of the rows at these places, by halves: for
 * callers who may not lock rows, and where what is in the way is not a lock on
 * the rows themselves but concerns what goes with them (a foreign key, a
 * cascade, a trigger).  In their order, until it is late.
 */
static void
delete_by_halves(Work *work, RetentionPlace *places, int nplaces)
{
	Outcome		outcome;

	CHECK_FOR_INTERRUPTS();
	if (is_late(work))
		return;
	outcome = try_step(work, delete_places, places, nplaces,
					   Min(IMPATIENCE_MS, work->batch->patience_ms));
	if (outcome != STEP_DONE && nplaces > 1)
	{
		delete_by_halves(work, places, nplaces / 2);
		delete_by_halves(work, places + nplaces / 2, nplaces - nplaces / 2);
		return;
	}
	work->ndone += nplaces;
	if (outcome == STEP_LOCKED)
		work->result->skipped_locked++;
	else if (outcome == STEP_PROTECTED)
		work->result->skipped_protected++;
}

/*
 * Deletes the rows at these sorted places but for those that others hold or
 * that a foreign key protects, until it is late.
 */
static void
delete_around(Work *work, Outcome obstacle, RetentionPlace *places,
			  int nplaces)
{
	bool		may_lock;

	work->around_until = retention_clock() + AROUND_MOST;
	may_lock = obstacle == STEP_LOCKED &&
		pg_class_aclcheck(work->target->relid, GetUserId(),
						  ACL_UPDATE) == ACLCHECK_OK;
	while (work->ndone < nplaces && !is_late(work))
	{
		RetentionPlace *next = places + work->ndone;
		int			count;

		count = retention_places_count_alike(next, nplaces - work->ndone,
											 nplaces);
		if (may_lock &&
			try_step(work, delete_unlocked_places, next, count,
					 Min(IMPATIENCE_MS,
						 work->batch->patience_ms)) == STEP_DONE)
			work->ndone += count;
		else
			delete_by_halves(work, next, count);
	}
}

/*
 * Carries out a batch and says what became of it.  All of it is done when this
 * returns, except for rows that others hold (skipped_locked), that a foreign
 * key protects (skipped_protected) or that a trigger kept; or nothing of it is,
 * when this has waited for others, who may have changed what stays (waited);
 * or, when that took long, not what is left of its places (rest).  An error is thrown, with nothing of the batch done, once the caller's
 * transaction or subtransaction is rolled back.
 *
 * The caller is connected to SPI, inside a scope, and holds ROW EXCLUSIVE on
 * the table.  Memory that it uses is in the current context, which the caller
 * resets.
 */
void
retention_batch_execute(const RetentionTarget *target, Datum tenant,
						const RetentionBatch *batch, RetentionResult *result)
{
	Work		work = {0};
	RetentionPlace *places = batch->places;
	int			nplaces = batch->nplaces;
	Outcome		obstacle;

	memset(result, 0, sizeof(*result));
	work.target = target;
	work.tenant = tenant;
	work.batch = batch;
	work.result = result;

	if (batch->wait_first)
	{
		(void) try_step(&work, wait_for_rows, places, nplaces,
						batch->patience_ms);
		result->waited = true;
		return;
	}
	obstacle = try_step(&work, places != NULL ? delete_places : delete_range,
						places, nplaces, batch->patience_ms);
	if (obstacle == STEP_DONE)
		return;

	if (places == NULL)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		for (int leg = 0; leg < target->nlegs; leg++)
		{
			if (batch->planned[leg] > 0)
				retention_places_collect(target, leg, tenant, batch->from,
										 batch->to, 0, batch->planned[leg],
										 &places, &nplaces);
		}
		PopActiveSnapshot();
		retention_places_sort(places, nplaces);
	}
	delete_around(&work, obstacle, places, nplaces);
	result->rest = places + work.ndone;
	result->nrest = nplaces - work.ndone;
}
