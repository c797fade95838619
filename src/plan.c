/*
 * plan.c
 *	  What may go of one tenant, batch by batch.
 *
 * Finds the range of times of each batch, the oldest first, below the boundary
 * that the minimum draws.  Reads only; each look at the table is under one
 * snapshot.  Must not delete, commit or read settings.
 *
 * The course of a plan: ranges of times up to the limit; where more rows than
 * fit into a batch share one instant, those by their places; then the rows of
 * the very instant of the boundary, but for those that the minimum keeps; at
 * last, once more, the ranges in which others held rows.
 */
#include "postgres.h"

#include <limits.h>

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "boundary.h"
#include "clock.h"
#include "place.h"
#include "plan.h"
#include "query.h"
#include "spi_util.h"

/* how many times are looked up at once, if a batch needs no more */
#define WINDOW_BATCHES 16
#define WINDOW_MOST 65536

/* how old they may be, in microseconds: rows may have come between them */
#define WINDOW_MOST_AGE (1000 * 1000)

/* how many rows of one instant are looked up at once */
#define TIES_MOST 65536

/* how old the boundary may be, in microseconds, if it was cheap to find */
#define BOUNDARY_MOST_AGE (100 * 1000)

/* up to which cost, in microseconds, it is found again before each batch */
#define CHEAP_BOUNDARY 1000

/* up to how many rows of an instant that stay are found again before each batch */
#define FEW_KEPT 1000

/* The oldest times of one leg from the plan's position on. */
typedef struct Window
{
	TimestampTz *times;
	int			allocated;
	int			count;
	int			next;
	bool		complete;		/* there are no more up to window_end */
} Window;

/* Rows of one instant, by their places. */
typedef struct Ties
{
	bool		active;
	bool		is_retry;
	TimestampTz time;
	int64		keep[RETENTION_MAX_LEGS];
	int64		passed[RETENTION_MAX_LEGS]; /* not deleted though tried */
	bool		complete[RETENTION_MAX_LEGS];
	bool		to_verify;

	RetentionPlace *places;
	int			count;
	int			next;
} Ties;

/* A range in which others held rows. */
typedef struct Retry
{
	TimestampTz from;
	TimestampTz to;
	int64		planned[RETENTION_MAX_LEGS];
} Retry;

/* What batches that took too long have not come to, by their places. */
typedef struct Rest
{
	TimestampTz from;
	TimestampTz to;
	bool		is_retry;
	RetentionPlace *places;
	int			count;
	int			next;
} Rest;

struct RetentionPlan
{
	const RetentionTarget *target;
	Datum		tenant;
	RetentionPlanOptions options;
	MemoryContext context;

	bool		nothing_due;
	bool		is_empty;
	RetentionBoundary boundary;
	bool		has_boundary;
	int64		since_boundary; /* rows deleted since it was found ... */
	int64		boundary_at;	/* ... which was then, by our clock ... */
	int64		boundary_cost;	/* ... and took so many microseconds */

	TimestampTz position;		/* older rows are dealt with */
	TimestampTz window_end;
	Window		windows[RETENTION_MAX_LEGS];
	int64		windows_at;		/* when they were filled, by our clock ... */
	int			window_batches; /* ... and next time, for so many batches */
	Ties		ties;
	Rest		rest;
	Retry	   *retries;
	int			nretries;
	int			next_retry;
	int64		retry_left;		/* of the time for retries, in microseconds */
	int64		asked_at;		/* when a batch was found, by
								 * retention_clock() */
	bool		has_waited;		/* for the rows of the retry that is next */
};

/*
 * Makes the snapshot active under which the plan looks at the table until
 * PopActiveSnapshot().
 */
static void
look(RetentionPlan *plan)
{
	PushActiveSnapshot(plan->options.snapshot != NULL ?
					   plan->options.snapshot : GetTransactionSnapshot());
}

/*
 * Takes a time into a window.
 */
static bool
take_time(TupleTableSlot *slot, void *arg)
{
	Window	   *window = arg;
	bool		isnull;

	window->times[window->count++] =
		DatumGetTimestampTz(slot_getattr(slot, 2, &isnull));
	return true;
}

/*
 * Runs TIMES for a leg into its window.
 */
static void
query_times(RetentionPlan *plan, int leg, TimestampTz from, TimestampTz to,
			int count)
{
	Window	   *window = &plan->windows[leg];
	Datum		values[4];

	if (window->allocated < count)
	{
		if (window->times != NULL)
			pfree(window->times);
		window->times = MemoryContextAllocHuge(plan->context,
											   count * sizeof(TimestampTz));
		window->allocated = count;
	}
	window->count = 0;
	window->next = 0;

	values[0] = plan->tenant;
	values[1] = TimestampTzGetDatum(from);
	values[2] = TimestampTzGetDatum(to);
	values[3] = Int64GetDatum(count);
	retention_spi_execute(retention_query_plan(plan->target,
											   RETENTION_QUERY_TIMES, leg),
						  SPI_OK_SELECT, values, NULL, true,
						  take_time, window);
	window->complete = window->count < count;
}

/*
 * Finds the boundary as it is now.
 */
static void
find_boundary(RetentionPlan *plan)
{
	plan->boundary_at = retention_clock();
	plan->boundary = retention_boundary_find(plan->target, plan->tenant,
											 plan->options.cutoff,
											 plan->options.min_to_keep);
	plan->boundary_cost = retention_clock() - plan->boundary_at;
	plan->since_boundary = 0;
	plan->has_boundary = true;
	plan->ties.to_verify = true;
}

/*
 * How many times a window still has before `before`.
 */
static int
count_before(const Window *window, TimestampTz before)
{
	int			low = window->next;
	int			high = window->count;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (window->times[middle] < before)
			low = middle + 1;
		else
			high = middle;
	}
	return low - window->next;
}

/*
 * Are more rows known to be due than the minimum and the next batch come to?
 * The boundary is then that far away.
 */
static bool
boundary_is_far(RetentionPlan *plan)
{
	int64		ahead = 0;

	if (plan->ties.active || plan->position >= plan->boundary.limit)
		return false;
	for (int leg = 0; leg < plan->target->nlegs; leg++)
		ahead += count_before(&plan->windows[leg], plan->boundary.limit);
	return ahead > plan->options.min_to_keep + plan->options.batch_size;
}

/*
 * Finds the boundary again when so many rows have been deleted, or so much
 * time has passed, that the walk costs little beside it: what goes is settled
 * by what the table is now, even if the application deletes its newest rows
 * meanwhile.  Far from the boundary, where it would have to delete more of
 * them than the minimum for that to matter, time alone counts.
 */
static void
refresh_boundary(RetentionPlan *plan)
{
	int64		enough = Max(plan->options.min_to_keep,
							 plan->options.batch_size);

	if (plan->boundary_cost < CHEAP_BOUNDARY)
		enough = 1;
	if (!plan->has_boundary ||
		(plan->since_boundary >= enough && !boundary_is_far(plan)) ||
		retention_clock() - plan->boundary_at >
		BOUNDARY_MOST_AGE + 20 * plan->boundary_cost)
		find_boundary(plan);
}

/*
 * Makes the windows know no time from the position on.
 */
static void
empty_windows(RetentionPlan *plan)
{
	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		Window	   *window = &plan->windows[leg];

		window->count = 0;
		window->next = 0;
		window->complete = true;
	}
	plan->window_end = plan->position;
}

/*
 * Starts the plan for one tenant, in a child of the current memory context.
 * Looks whether anything is older than the cutoff.
 *
 * The caller is connected to SPI, inside a scope, and holds a lock on the
 * table and the lock of the tenant.
 */
RetentionPlan *
retention_plan_begin(const RetentionTarget *target, Datum tenant,
					 const RetentionPlanOptions *options)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "retention plan",
												  ALLOCSET_DEFAULT_SIZES);
	RetentionPlan *plan = MemoryContextAllocZero(context, sizeof(*plan));
	TimestampTz from;

	plan->target = target;
	plan->tenant = tenant;
	plan->options = *options;
	plan->context = context;
	plan->nothing_due = true;
	plan->is_empty = true;
	plan->position = options->cutoff;
	plan->window_batches = WINDOW_BATCHES;
	plan->retry_left = options->lock_timeout_ms * INT64CONST(1000);
	TIMESTAMP_NOBEGIN(from);

	look(plan);
	for (int leg = 0; leg < target->nlegs; leg++)
	{
		Window	   *window = &plan->windows[leg];

		query_times(plan, leg, from, options->cutoff, 1);
		if (window->count > 0)
		{
			plan->nothing_due = false;
			plan->position = Min(plan->position, window->times[0]);
		}
	}
	empty_windows(plan);

	for (int leg = 0; plan->nothing_due && leg < target->nlegs; leg++)
	{
		if (retention_boundary_has_rows(target, leg, tenant))
			plan->is_empty = false;
	}
	PopActiveSnapshot();
	return plan;
}

/*
 * Looks up the next times of every leg, from the position to the limit.
 */
static void
fill_windows(RetentionPlan *plan)
{
	int			count = Min(plan->options.batch_size * plan->window_batches,
							WINDOW_MOST);

	/* one more than a batch, so that the end of the batch is among them */
	count = Max(count, plan->options.batch_size) + 1;
	plan->window_batches = Min(2 * plan->window_batches, WINDOW_BATCHES);
	plan->windows_at = retention_clock();
	for (int leg = 0; leg < plan->target->nlegs; leg++)
		query_times(plan, leg, plan->position, plan->boundary.limit, count);
	plan->window_end = plan->boundary.limit;
}

/*
 * Forgets times that were looked up long ago, in which a batch may have become
 * larger than it should be.
 */
static void
forget_old_windows(RetentionPlan *plan)
{
	if (plan->window_end <= plan->position ||
		retention_clock() - plan->windows_at <= WINDOW_MOST_AGE)
		return;
	empty_windows(plan);
	plan->window_batches = 1;
}

/*
 * Up to and including which time all rows are in the windows, except that
 * there may be more rows of this very time.
 */
static TimestampTz
known_until(RetentionPlan *plan)
{
	TimestampTz until = plan->window_end;

	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		Window	   *window = &plan->windows[leg];

		if (!window->complete)
			until = Min(until, window->times[window->count - 1]);
	}
	return until;
}

/*
 * The first `size` times of both windows before *to: sets the oldest of them,
 * and *to to the one that follows if there is one.  Returns how many there
 * are, and sets `at_end` if none follows.
 */
static int
first_times(RetentionPlan *plan, int size, TimestampTz *to,
			TimestampTz *oldest, bool *at_end)
{
	const TimestampTz *times[RETENTION_MAX_LEGS] = {NULL, NULL};
	int			have[RETENTION_MAX_LEGS] = {0, 0};
	int			low;
	int			high;
	int			other;

	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		have[leg] = count_before(&plan->windows[leg], *to);
		if (have[leg] > 0)
			times[leg] = &plan->windows[leg].times[plan->windows[leg].next];
	}
	*at_end = have[0] + have[1] <= size;
	size = Min(size, have[0] + have[1]);

	/* how many of them are in the first window: the two are sorted */
	low = Max(0, size - have[1]);
	high = Min(size, have[0]);
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (times[0][middle] < times[1][size - middle - 1])
			low = middle + 1;
		else
			high = middle;
	}
	other = size - low;

	*oldest = DT_NOEND;
	if (have[0] > 0)
		*oldest = times[0][0];
	if (have[1] > 0)
		*oldest = Min(*oldest, times[1][0]);
	if (low < have[0])
		*to = times[0][low];
	if (other < have[1])
		*to = Min(*to, times[1][other]);
	return size;
}

/*
 * The newest time in the windows before `before`, from the next ones on.
 */
static TimestampTz
newest_before(RetentionPlan *plan, TimestampTz before)
{
	TimestampTz newest = DT_NOBEGIN;

	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		Window	   *window = &plan->windows[leg];
		int			count = count_before(window, before);

		if (count > 0)
			newest = Max(newest, window->times[window->next + count - 1]);
	}
	return newest;
}

/*
 * Moves the position to this time, past the rows before it.
 */
static void
move_to(RetentionPlan *plan, TimestampTz time)
{
	plan->position = time;
	/* windows that were forgotten end before it */
	plan->window_end = Max(plan->window_end, time);
	for (int leg = 0; leg < plan->target->nlegs; leg++)
		plan->windows[leg].next += count_before(&plan->windows[leg], time);
}

/*
 * Begins with the rows of one instant.
 */
static void
start_ties(RetentionPlan *plan, TimestampTz time, bool is_retry)
{
	Ties	   *ties = &plan->ties;

	if (ties->places != NULL)
		pfree(ties->places);
	memset(ties, 0, sizeof(*ties));
	ties->active = true;
	ties->time = time;
	ties->is_retry = is_retry;
}

/*
 * The next range of times below the limit that holds at most a batch of rows.
 * Returns false when there is none, or when one instant has more rows than a
 * batch: then plan->ties is active.
 */
static bool
next_range(RetentionPlan *plan, RetentionBatch *batch)
{
	while (plan->position < plan->boundary.limit)
	{
		TimestampTz to = Min(plan->window_end, plan->boundary.limit);
		int			rows;
		bool		at_end;

		memset(batch, 0, sizeof(*batch));
		rows = first_times(plan, plan->options.batch_size, &to,
						   &batch->oldest, &at_end);

		if (to > known_until(plan))
		{
			/* the windows end before the batch does */
			fill_windows(plan);
			continue;
		}
		if (rows == 0)
		{
			/* nothing is left in the windows, which end at `to` */
			move_to(plan, to);
			if (to < plan->boundary.limit)
				fill_windows(plan);
			continue;
		}
		if (!at_end && to <= batch->oldest)
		{
			start_ties(plan, batch->oldest, false);
			return false;
		}

		for (int leg = 0; leg < plan->target->nlegs; leg++)
			batch->planned[leg] = count_before(&plan->windows[leg], to);
		batch->newest = newest_before(plan, to);
		batch->from = plan->position;
		batch->to = to;
		return true;
	}
	return false;
}

/*
 * Takes out of the places known those of rows that stay: as many of the instant
 * as the minimum keeps now, whichever those are.  A row may have gone, or moved,
 * and where one was there can be another by now.  Where many stay, only after
 * a look or a commit.
 */
static void
spare_kept(RetentionPlan *plan)
{
	Ties	   *ties = &plan->ties;
	int			count = ties->count;

	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		if (ties->next < ties->count && ties->keep[leg] > 0 &&
			(ties->to_verify || ties->keep[leg] <= FEW_KEPT))
			ties->count = ties->next +
				retention_places_spare(plan->target, leg, plan->tenant,
									   ties->time,
									   retention_instant_after(ties->time),
									   ties->keep[leg],
									   &ties->places[ties->next],
									   ties->count - ties->next);
	}
	ties->to_verify = false;

	/* others may go instead of them */
	if (ties->count < count)
		memset(ties->complete, false, sizeof(ties->complete));
}

/*
 * Looks up the next rows of one leg of the ties' instant, up to `most`.
 */
static void
collect_leg(RetentionPlan *plan, int leg, int64 most)
{
	Ties	   *ties = &plan->ties;
	int64		added;

	added = retention_places_collect(plan->target, leg, plan->tenant,
									 ties->time,
									 retention_instant_after(ties->time),
									 ties->keep[leg] + ties->passed[leg], most,
									 &ties->places, &ties->count);
	ties->complete[leg] = added < most;
}

/*
 * Fits the ties to the boundary as it is now.  Newer rows that have come let
 * more rows of the instant go; newer rows that have gone protect more.
 */
static void
revise_ties(RetentionPlan *plan)
{
	const RetentionBoundary *boundary = &plan->boundary;
	Ties	   *ties = &plan->ties;
	bool		discard = false;

	if (boundary->limit < ties->time ||
		(boundary->limit == ties->time && !boundary->ties))
	{
		/* none of them may go any more */
		memset(ties->complete, true, sizeof(ties->complete));
		ties->count = ties->next = 0;
		return;
	}

	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		int64		keep = 0;

		if (boundary->limit == ties->time)
			keep = boundary->keep[leg];
		if (keep > ties->keep[leg])
			discard = true;
		else if (keep < ties->keep[leg])
			ties->complete[leg] = false;
		ties->keep[leg] = keep;
	}
	if (discard)
	{
		memset(ties->complete, false, sizeof(ties->complete));
		ties->count = ties->next = 0;
	}
	else
		spare_kept(plan);
}

/*
 * Looks up the next rows of the ties' instant.
 */
static void
collect_ties(RetentionPlan *plan)
{
	Ties	   *ties = &plan->ties;
	int64		most = Max(plan->options.batch_size, TIES_MOST);
	MemoryContext caller = MemoryContextSwitchTo(plan->context);

	if (ties->places != NULL)
		pfree(ties->places);
	ties->places = NULL;
	ties->count = 0;
	ties->next = 0;
	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		if (!ties->complete[leg])
			collect_leg(plan, leg, most);
	}
	MemoryContextSwitchTo(caller);
	if (ties->count > 0)
		retention_places_sort(ties->places, ties->count);
}

/*
 * Is everything known about the ties' instant dealt with?
 */
static bool
ties_are_complete(RetentionPlan *plan)
{
	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		if (!plan->ties.complete[leg])
			return false;
	}
	return true;
}

/*
 * Makes a batch of the first of these places, as many as go together.
 */
static void
take_places(RetentionPlan *plan, RetentionBatch *batch,
			RetentionPlace *places, int nplaces)
{
	memset(batch, 0, sizeof(*batch));
	batch->places = places;
	batch->nplaces = retention_places_count_alike(places, nplaces,
												  plan->options.batch_size);
	batch->planned[places[0].leg] = batch->nplaces;
}

/*
 * The next batch of rows of one instant; false, and ties no longer active,
 * when none is left.
 */
static bool
next_ties(RetentionPlan *plan, RetentionBatch *batch)
{
	Ties	   *ties = &plan->ties;

	revise_ties(plan);
	if (ties->next == ties->count && !ties_are_complete(plan))
		collect_ties(plan);

	if (ties->next == ties->count)
	{
		ties->active = false;
		if (!ties->is_retry && plan->position <= ties->time)
			move_to(plan, retention_instant_after(ties->time));
		return false;
	}

	take_places(plan, batch, &ties->places[ties->next],
				ties->count - ties->next);
	batch->from = ties->time;
	batch->to = retention_instant_after(ties->time);
	batch->is_retry = ties->is_retry;
	return true;
}

/*
 * The next places of the rest, as far as they are still below the limit.
 * Returns false, and the rest is forgotten, when none is.
 */
static bool
next_rest(RetentionPlan *plan, RetentionBatch *batch)
{
	Rest	   *rest = &plan->rest;

	if (plan->boundary.limit <= rest->from)
	{
		rest->next = rest->count;
		return false;
	}
	take_places(plan, batch, &rest->places[rest->next],
				rest->count - rest->next);
	batch->from = rest->from;
	batch->to = Min(rest->to, plan->boundary.limit);
	batch->is_retry = rest->is_retry;
	batch->is_rest = true;
	return true;
}

/*
 * Keeps what a batch of a range has not come to.
 */
static void
keep_rest(RetentionPlan *plan, const RetentionBatch *batch,
		  const RetentionResult *result)
{
	Rest	   *rest = &plan->rest;
	Size		size = result->nrest * sizeof(RetentionPlace);

	if (rest->places != NULL)
		pfree(rest->places);
	rest->places = MemoryContextAllocHuge(plan->context, size);
	memcpy(rest->places, result->rest, size);
	rest->count = result->nrest;
	rest->next = 0;
	rest->from = batch->from;
	rest->to = batch->to;
	rest->is_retry = batch->is_retry;
}

/*
 * The next range in which rows were locked, as far as it is still below the
 * limit.  Returns false when there is none, or when it is the boundary's
 * instant: then plan->ties is active.
 */
static bool
next_retry(RetentionPlan *plan, RetentionBatch *batch)
{
	while (plan->next_retry < plan->nretries)
	{
		Retry	   *retry = &plan->retries[plan->next_retry];

		/* those who held the rows may have changed what stays */
		if (plan->next_retry == 0)
			find_boundary(plan);
		if (plan->boundary.ties && plan->boundary.limit == retry->from)
		{
			plan->next_retry++;
			start_ties(plan, retry->from, true);
			return false;
		}
		if (plan->boundary.limit <= retry->from)
		{
			plan->next_retry++;
			continue;
		}
		memset(batch, 0, sizeof(*batch));
		batch->from = retry->from;
		batch->to = Min(retry->to, plan->boundary.limit);
		memcpy(batch->planned, retry->planned, sizeof(batch->planned));
		batch->is_retry = true;
		return true;
	}
	return false;
}

/*
 * How long the batch may wait for a row lock, in milliseconds: briefly in the
 * first place; the rows that are left then share a longer wait, after which
 * what stays is looked at again.
 */
static int
patience(RetentionPlan *plan, const RetentionBatch *batch)
{
	int			most = RETENTION_ROW_LOCK_PATIENCE_MS;

	if (batch->is_rest)
		return 1;
	if (!batch->is_retry)
		return Min(most, plan->options.lock_timeout_ms);
	if (batch->wait_first)
		most = INT_MAX;
	return Max(1, Min(most, plan->retry_left / 1000));
}

/*
 * Finds the next batch.  Returns false when nothing is left to do.  The
 * batch's places, if it has any, are valid until the next call.
 */
bool
retention_plan_next(RetentionPlan *plan, RetentionBatch *batch)
{
	bool		found = false;

	if (plan->nothing_due)
		return false;

	forget_old_windows(plan);
	look(plan);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		refresh_boundary(plan);

		if (plan->rest.next < plan->rest.count)
			found = next_rest(plan, batch);
		else if (plan->ties.active)
			found = next_ties(plan, batch);
		else if (plan->position < plan->boundary.limit)
			found = next_range(plan, batch);
		else if (plan->boundary.ties && plan->position == plan->boundary.limit)
			start_ties(plan, plan->boundary.limit, false);
		else if (plan->next_retry < plan->nretries)
			found = next_retry(plan, batch);
		else
			break;
		if (found)
			break;
	}
	PopActiveSnapshot();
	if (found)
	{
		batch->wait_first = batch->is_retry && !plan->has_waited;
		batch->patience_ms = patience(plan, batch);
		batch->skip_protected = plan->options.skip_protected;
		plan->asked_at = retention_clock();
	}
	return found;
}

/*
 * Remembers that rows of a batch were left because others held them.
 */
static void
remember_retry(RetentionPlan *plan, const RetentionBatch *batch)
{
	Retry	   *retry = plan->nretries > 0 ?
	&plan->retries[plan->nretries - 1] : NULL;

	if (retry != NULL && retry->from == batch->from && retry->to == batch->to)
	{
		/* another batch of the same instant */
		for (int leg = 0; leg < RETENTION_MAX_LEGS; leg++)
			retry->planned[leg] += batch->planned[leg];
		return;
	}

	/* room for 8, and twice as much whenever it is used up */
	if (plan->nretries == 0)
		plan->retries = MemoryContextAlloc(plan->context, 8 * sizeof(Retry));
	else if (plan->nretries >= 8 &&
			 (plan->nretries & (plan->nretries - 1)) == 0)
		plan->retries = repalloc_huge(plan->retries,
									  2 * plan->nretries * sizeof(Retry));

	retry = &plan->retries[plan->nretries++];
	retry->from = batch->from;
	retry->to = batch->to;
	memcpy(retry->planned, batch->planned, sizeof(retry->planned));
}

/*
 * Goes past a batch that was carried out with this result; one that has waited
 * for others is asked for again, and the rest of one that took long comes next.
 */
void
retention_plan_advance(RetentionPlan *plan, const RetentionBatch *batch,
					   const RetentionResult *result)
{
	int			done = batch->nplaces - result->nrest;

	/* what the caller does before it asks again is no wait */
	if (batch->is_retry)
		plan->retry_left -= retention_clock() - plan->asked_at;

	/* what comes after a rest is, if a retry, the same one */
	plan->has_waited = result->waited || result->nrest > 0;
	if (result->waited)
	{
		/* whoever held the rows may have changed what stays */
		plan->has_boundary = false;
		return;
	}

	/* one that found all its rows locked took time, too */
	plan->since_boundary += Max(result->deleted, 1);
	if (result->skipped_locked > 0 && !batch->is_retry)
		remember_retry(plan, batch);

	if (batch->is_rest)
	{
		plan->rest.next += done;
		return;
	}
	if (batch->places != NULL)
	{
		plan->ties.next += done;
		plan->ties.passed[batch->places[0].leg] +=
			Max(0, done - result->deleted);
		return;
	}
	if (result->nrest > 0)
		keep_rest(plan, batch, result);
	if (batch->is_retry)
	{
		/* what the boundary cut off the range comes next */
		plan->retries[plan->next_retry].from = batch->to;
		if (batch->to >= plan->retries[plan->next_retry].to)
			plan->next_retry++;
	}
	else
		move_to(plan, batch->to);
}

/*
 * How many rows the next batches hold at most.
 */
void
retention_plan_set_batch_size(RetentionPlan *plan, int batch_size)
{
	plan->options.batch_size = batch_size;
}

/*
 * Frees a plan.
 */
void
retention_plan_end(RetentionPlan *plan)
{
	MemoryContextDelete(plan->context);
}

/*
 * Tells the plan that the transaction in which it found its next batch is
 * over.  The batch must be asked for again.
 */
void
retention_plan_committed(RetentionPlan *plan)
{
	plan->ties.to_verify = true;
}

/*
 * The boundary as it was found last; found now if it never was.
 */
const RetentionBoundary *
retention_plan_boundary(RetentionPlan *plan)
{
	if (!plan->has_boundary && !plan->nothing_due)
	{
		look(plan);
		find_boundary(plan);
		PopActiveSnapshot();
	}
	return &plan->boundary;
}

/*
 * Was no row older than the cutoff when the plan began?
 */
bool
retention_plan_nothing_due(const RetentionPlan *plan)
{
	return plan->nothing_due;
}

/*
 * Had the tenant no row of known age when the plan began?
 */
bool
retention_plan_is_empty(const RetentionPlan *plan)
{
	return plan->nothing_due && plan->is_empty;
}
