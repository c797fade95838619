/*
 * plan.c
 *	  What may go of one tenant, batch by batch.
 *
 * Finds the cutoff, the boundary that the minimum draws, and the range of
 * times of each batch, the oldest first.  Reads only; each look at the table
 * is under one snapshot.  Must not delete, commit or read settings.
 *
 * The course of a plan: ranges of times up to the limit; where more rows than
 * fit into a batch share one instant, those by their places; then the rows of
 * the very instant of the boundary, but for those that the minimum keeps; at
 * last, once more, the ranges in which others held rows.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "plan.h"
#include "query.h"
#include "spi_util.h"

/* how many times are looked up at once, if a batch needs no more */
#define WINDOW_BATCHES 16
#define WINDOW_MOST 65536

/* how many rows of one instant are looked up at once */
#define TIES_MOST 65536

/* how old the boundary may be, in microseconds, if it was cheap to find */
#define BOUNDARY_MOST_AGE (100 * 1000)

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
	TimestampTz boundary_at;	/* ... which was then ... */
	TimestampTz boundary_cost;	/* ... and took so many microseconds */

	TimestampTz position;		/* older rows are dealt with */
	TimestampTz window_end;
	Window		windows[RETENTION_MAX_LEGS];
	Ties		ties;
	Retry	   *retries;
	int			nretries;
	int			next_retry;
	TimestampTz retry_deadline;
};

/* The walk back over the newest rows. */
typedef struct Walk
{
	RetentionPlan *plan;
	TimestampTz *others;		/* times of the second leg, newest first */
	int64		nothers;
	int64		allocated;
	int64		next_other;
	int64		seen;
	int64		due;
	TimestampTz last;
	int64		alike[RETENTION_MAX_LEGS];	/* rows of that time, by leg */
	bool		found;
	TimestampTz boundary;
} Walk;

/* A list of places that a query fills. */
typedef struct Collection
{
	RetentionPlace *places;
	int			count;
	int			allocated;
	int16		leg;
} Collection;

/*
 * The clock minus so many days of 24 hours; -infinity where that is earlier
 * than any timestamp, so that nothing is due.
 */
TimestampTz
retention_plan_cutoff(TimestampTz now, int32 days)
{
	TimestampTz cutoff;

	if (pg_mul_s64_overflow((int64) days, USECS_PER_DAY, &cutoff) ||
		pg_sub_s64_overflow(now, cutoff, &cutoff) ||
		cutoff < MIN_TIMESTAMP)
		TIMESTAMP_NOBEGIN(cutoff);
	return cutoff;
}

/*
 * The first instant after this one.
 */
TimestampTz
retention_plan_instant_after(TimestampTz time)
{
	return TIMESTAMP_IS_NOBEGIN(time) ? MIN_TIMESTAMP : time + 1;
}

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
 * Reads the one column of a row that holds a time.
 */
static TimestampTz
slot_time(TupleTableSlot *slot)
{
	bool		isnull;

	return DatumGetTimestampTz(slot_getattr(slot, 1, &isnull));
}

/*
 * Counts one more of the newest rows; returns false once the boundary is
 * found, which is the first row that the minimum leaves over.
 */
static bool
walk_over(Walk *walk, TimestampTz time, int leg)
{
	if (walk->seen == walk->plan->options.min_to_keep)
	{
		walk->found = true;
		walk->boundary = time;
		return false;
	}
	if (walk->seen == 0 || time != walk->last)
		memset(walk->alike, 0, sizeof(walk->alike));
	walk->last = time;
	walk->alike[leg]++;
	walk->seen++;
	if (time < walk->plan->options.cutoff)
		walk->due++;
	return true;
}

static bool
take_walked(TupleTableSlot *slot, void *arg)
{
	Walk	   *walk = arg;
	TimestampTz time = slot_time(slot);

	while (walk->next_other < walk->nothers &&
		   walk->others[walk->next_other] > time)
	{
		if (!walk_over(walk, walk->others[walk->next_other++], 1))
			return false;
	}
	return walk_over(walk, time, 0);
}

static bool
take_other(TupleTableSlot *slot, void *arg)
{
	Walk	   *walk = arg;

	if (walk->nothers == walk->allocated)
	{
		walk->allocated *= 2;
		walk->others = repalloc_huge(walk->others,
									 walk->allocated * sizeof(TimestampTz));
	}
	walk->others[walk->nothers++] = slot_time(slot);
	return true;
}

static bool
take_time(TupleTableSlot *slot, void *arg)
{
	Window	   *window = arg;

	window->times[window->count++] = slot_time(slot);
	return true;
}

/*
 * Runs WALK for a leg.
 */
static uint64
query_walk(RetentionPlan *plan, int leg, int64 count,
		   RetentionRowFunction row, void *arg)
{
	TimestampTz from;
	Datum		values[3];

	TIMESTAMP_NOBEGIN(from);
	values[0] = plan->tenant;
	values[1] = TimestampTzGetDatum(from);
	values[2] = Int64GetDatum(count);
	return retention_spi_execute(retention_query_plan(plan->target,
													  RETENTION_QUERY_WALK,
													  leg),
								 SPI_OK_SELECT, values, NULL, true, row, arg);
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
 * Finds the boundary anew.  Walks back over the newest rows of both legs at
 * once, the second one held in memory; never reads more than the minimum plus
 * one row of each.
 */
static void
find_boundary(RetentionPlan *plan)
{
	RetentionBoundary *boundary = &plan->boundary;
	int64		minimum = plan->options.min_to_keep;
	Walk		walk = {0};

	memset(boundary, 0, sizeof(*boundary));
	plan->has_boundary = true;
	plan->since_boundary = 0;
	plan->boundary_at = GetCurrentTimestamp();
	boundary->limit = plan->options.cutoff;
	if (minimum == 0)
		return;

	walk.plan = plan;
	if (plan->target->nlegs > 1)
	{
		walk.allocated = 64;
		walk.others = palloc(walk.allocated * sizeof(TimestampTz));
		query_walk(plan, 1, minimum + 1, take_other, &walk);
	}
	query_walk(plan, 0, minimum + 1, take_walked, &walk);
	while (!walk.found && walk.next_other < walk.nothers)
		(void) walk_over(&walk, walk.others[walk.next_other++], 1);
	if (walk.others != NULL)
		pfree(walk.others);

	if (!walk.found)
	{
		/* the tenant has no more rows than it keeps */
		TIMESTAMP_NOBEGIN(boundary->limit);
		boundary->protected = walk.due;
	}
	else if (walk.boundary < plan->options.cutoff)
	{
		boundary->limit = walk.boundary;
		boundary->ties = true;
		boundary->protected = walk.due;
		if (walk.last == walk.boundary)
			memcpy(boundary->keep, walk.alike, sizeof(boundary->keep));
	}
	plan->boundary_cost = GetCurrentTimestamp() - plan->boundary_at;
}

/*
 * Finds the boundary again when so many rows have been deleted, or so much
 * time has passed, that the walk costs little beside it: what goes is settled
 * by what the table is now, even if the application deletes its newest rows
 * meanwhile.
 */
static void
refresh_boundary(RetentionPlan *plan)
{
	if (!plan->has_boundary ||
		plan->since_boundary >= Max(plan->options.min_to_keep,
									plan->options.batch_size) ||
		GetCurrentTimestamp() - plan->boundary_at >
		BOUNDARY_MOST_AGE + 20 * plan->boundary_cost)
		find_boundary(plan);
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
		window->count = 0;
		window->complete = true;
	}
	plan->window_end = plan->position;

	for (int leg = 0; plan->nothing_due && leg < target->nlegs; leg++)
	{
		if (query_walk(plan, leg, 1, NULL, NULL) > 0)
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
	int			count = Min(plan->options.batch_size * WINDOW_BATCHES,
							WINDOW_MOST);

	/* one more than a batch, so that the end of the batch is among them */
	count = Max(count, plan->options.batch_size) + 1;
	for (int leg = 0; leg < plan->target->nlegs; leg++)
		query_times(plan, leg, plan->position, plan->boundary.limit, count);
	plan->window_end = plan->boundary.limit;
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
 * The leg whose next time in the windows is the oldest and before `before`, or
 * -1 when there is none.  `at` holds the place in each window.
 */
static int
oldest_leg(RetentionPlan *plan, const int *at, TimestampTz before)
{
	int			oldest = -1;

	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		Window	   *window = &plan->windows[leg];

		if (at[leg] < window->count && window->times[at[leg]] < before &&
			(oldest < 0 || window->times[at[leg]] <
			 plan->windows[oldest].times[at[oldest]]))
			oldest = leg;
	}
	return oldest;
}

/*
 * Moves the position to this time, past the rows before it.
 */
static void
move_to(RetentionPlan *plan, TimestampTz time)
{
	plan->position = time;
	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		Window	   *window = &plan->windows[leg];

		while (window->next < window->count &&
			   window->times[window->next] < time)
			window->next++;
	}
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
	int			at[RETENTION_MAX_LEGS];

	while (plan->position < plan->boundary.limit)
	{
		TimestampTz until = known_until(plan);
		TimestampTz first;
		TimestampTz to = Min(plan->window_end, plan->boundary.limit);
		int			leg;
		int			rows;

		memset(batch, 0, sizeof(*batch));
		for (leg = 0; leg < plan->target->nlegs; leg++)
			at[leg] = plan->windows[leg].next;

		/* walk over a batch of rows, to the one that is not in it */
		leg = oldest_leg(plan, at, to);
		first = leg < 0 ? to : plan->windows[leg].times[at[leg]];
		for (rows = 0; leg >= 0 && rows < plan->options.batch_size; rows++)
		{
			at[leg]++;
			leg = oldest_leg(plan, at, to);
		}
		if (leg >= 0)
			to = plan->windows[leg].times[at[leg]];

		if (to > until)
		{
			/* the windows end before the batch does */
			fill_windows(plan);
			continue;
		}
		if (leg < 0 && rows == 0)
		{
			/* nothing is left in the windows, which end at `to` */
			move_to(plan, to);
			if (to < plan->boundary.limit)
				fill_windows(plan);
			continue;
		}
		if (to <= first)
		{
			start_ties(plan, first, false);
			return false;
		}

		for (leg = 0; leg < plan->target->nlegs; leg++)
		{
			Window	   *window = &plan->windows[leg];

			for (int i = window->next;
				 i < window->count && window->times[i] < to; i++)
				batch->planned[leg]++;
		}
		batch->from = plan->position;
		batch->to = to;
		return true;
	}
	return false;
}

static bool
take_place(TupleTableSlot *slot, void *arg)
{
	Collection *collection = arg;
	RetentionPlace *place;
	bool		isnull;

	if (collection->count == collection->allocated)
	{
		collection->allocated = Max(collection->allocated * 2, 1024);
		if (collection->places == NULL)
			collection->places = palloc(collection->allocated *
										sizeof(RetentionPlace));
		else
			collection->places = repalloc_huge(collection->places,
											   collection->allocated *
											   sizeof(RetentionPlace));
	}
	place = &collection->places[collection->count++];
	place->tableoid = DatumGetObjectId(slot_getattr(slot, 1, &isnull));
	place->tid = *(ItemPointer) DatumGetPointer(slot_getattr(slot, 2,
															 &isnull));
	place->leg = collection->leg;
	return true;
}

/*
 * Adds to `places`, in the current memory context, where the rows of a leg in
 * a range of times are: `count` of them at most, without the first `skip`.
 * Returns how many were added.
 */
int64
retention_plan_collect(const RetentionTarget *target, int leg, Datum tenant,
					   TimestampTz from, TimestampTz to, int64 skip,
					   int64 count, RetentionPlace **places, int *nplaces)
{
	Collection	collection = {*places, *nplaces, *nplaces, leg};
	Datum		values[5];
	int64		added;

	values[0] = tenant;
	values[1] = TimestampTzGetDatum(from);
	values[2] = TimestampTzGetDatum(to);
	values[3] = Int64GetDatum(skip);
	values[4] = Int64GetDatum(count);
	retention_spi_execute(retention_query_plan(target,
											   RETENTION_QUERY_COLLECT, leg),
						  SPI_OK_SELECT, values, NULL, true,
						  take_place, &collection);
	added = collection.count - *nplaces;
	*places = collection.places;
	*nplaces = collection.count;
	return added;
}

static int
compare_places(const void *a, const void *b)
{
	const RetentionPlace *left = a;
	const RetentionPlace *right = b;

	if (left->leg != right->leg)
		return left->leg < right->leg ? -1 : 1;
	if (left->tableoid != right->tableoid)
		return left->tableoid < right->tableoid ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &left->tid,
							  (ItemPointer) &right->tid);
}

/*
 * Sorts places by leg, table and position in it.
 */
void
retention_plan_sort_places(RetentionPlace *places, int nplaces)
{
	qsort(places, nplaces, sizeof(RetentionPlace), compare_places);
}

/*
 * How many of the sorted places, at most `most`, are of the leg and the table
 * of the first one.
 */
int
retention_plan_count_alike(const RetentionPlace *places, int nplaces, int most)
{
	int			count = 0;

	while (count < nplaces && count < most &&
		   places[count].leg == places[0].leg &&
		   places[count].tableoid == places[0].tableoid)
		count++;
	return count;
}

/*
 * Does the minimum keep any row of the ties' instant?
 */
static bool
ties_keep_some(const Ties *ties)
{
	for (int leg = 0; leg < RETENTION_MAX_LEGS; leg++)
	{
		if (ties->keep[leg] > 0)
			return true;
	}
	return false;
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
}

/*
 * Looks up the next rows of the ties' instant.
 */
static void
collect_ties(RetentionPlan *plan)
{
	Ties	   *ties = &plan->ties;
	int64		most = Max(plan->options.batch_size, TIES_MOST);

	/*
	 * Of the boundary's rows a fixed number has to stay, whichever.  Within a
	 * transaction a place found remains that of the same row; past a commit
	 * it may be that of a row that was to stay.
	 */
	if (plan->options.commits && ties_keep_some(ties))
		most = plan->options.batch_size;

	if (ties->places != NULL)
		pfree(ties->places);
	ties->places = NULL;
	ties->count = 0;
	ties->next = 0;
	for (int leg = 0; leg < plan->target->nlegs; leg++)
	{
		MemoryContext caller;
		int64		added;

		if (ties->complete[leg])
			continue;
		caller = MemoryContextSwitchTo(plan->context);
		added = retention_plan_collect(plan->target, leg, plan->tenant,
									   ties->time, retention_plan_instant_after(ties->time),
									   ties->keep[leg] + ties->passed[leg],
									   most, &ties->places, &ties->count);
		MemoryContextSwitchTo(caller);
		ties->complete[leg] = added < most;
	}
	retention_plan_sort_places(ties->places, ties->count);
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
			move_to(plan, retention_plan_instant_after(ties->time));
		return false;
	}

	memset(batch, 0, sizeof(*batch));
	batch->from = ties->time;
	batch->to = retention_plan_instant_after(ties->time);
	batch->places = &ties->places[ties->next];
	batch->nplaces = retention_plan_count_alike(batch->places,
												ties->count - ties->next,
												plan->options.batch_size);
	batch->planned[batch->places[0].leg] = batch->nplaces;
	batch->is_retry = ties->is_retry;
	return true;
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
 * How long the batch may wait for row locks, in milliseconds: briefly in the
 * first place; the rows that are left then share a longer wait.
 */
static int
patience(RetentionPlan *plan, const RetentionBatch *batch)
{
	TimestampTz now;

	if (!batch->is_retry)
		return Min(RETENTION_ROW_LOCK_PATIENCE_MS,
				   plan->options.lock_timeout_ms);
	now = GetCurrentTimestamp();
	if (plan->retry_deadline == 0)
		plan->retry_deadline =
			TimestampTzPlusMilliseconds(now, plan->options.lock_timeout_ms);
	return Max(1, (plan->retry_deadline - now) / 1000);
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

	look(plan);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		refresh_boundary(plan);

		if (plan->ties.active)
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
		batch->patience_ms = patience(plan, batch);
	return found;
}

/*
 * Remembers that rows of a batch were left because others held them.
 */
static void
remember_retry(RetentionPlan *plan, const RetentionBatch *batch)
{
	Retry	   *retry;

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
 * Goes past a batch that was carried out with this result.
 */
void
retention_plan_advance(RetentionPlan *plan, const RetentionBatch *batch,
					   const RetentionResult *result)
{
	plan->since_boundary += result->deleted;
	if (result->skipped_locked > 0 && !batch->is_retry)
		remember_retry(plan, batch);

	if (batch->places != NULL)
	{
		plan->ties.next += batch->nplaces;
		plan->ties.passed[batch->places[0].leg] +=
			Max(0, batch->nplaces - result->deleted);
	}
	else if (batch->is_retry)
		plan->next_retry++;
	else
		move_to(plan, batch->to);
}

/*
 * Tells the plan that the transaction in which it found its next batch is
 * over.  The batch must be asked for again.
 */
void
retention_plan_committed(RetentionPlan *plan)
{
	Ties	   *ties = &plan->ties;

	if (ties->active && ties_keep_some(ties))
	{
		memset(ties->complete, false, sizeof(ties->complete));
		ties->count = ties->next = 0;
	}
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
 * The effective time of the oldest row that is older than the cutoff when the
 * plan began.  Only to be asked if there is one.
 */
TimestampTz
retention_plan_oldest(RetentionPlan *plan)
{
	return plan->position;
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
