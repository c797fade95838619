/*
 * plan.c
 *	  The boundary and the batches of a plan, over tables in memory.
 *
 * Small random tables, with two legs or one, many rows of equal times, several
 * partitions, rows that others hold and rows that foreign keys protect.  The plan is
 * followed batch by batch as a cleanup would, and what went is compared with
 * the rule in its plainest form: a row goes if it is older than the cutoff and not among
 * the newest N.
 */
#include "harness.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "boundary.h"
#include "plan.h"

#define MOST_ROWS 400

static UnitProperty boundary_exact = {"boundary: limit, ties and protected rows are those of a count"};
static UnitProperty exactly_due = {"plan: exactly the due rows go, the oldest ones"};
static UnitProperty never_young = {"plan: no row at or after the cutoff goes, ever"};
static UnitProperty minimum_stays = {"plan: the minimum stays at each batch, whatever others do"};
static UnitProperty batches_fit = {"plan: no batch is larger than asked"};
static UnitProperty well_planned = {"plan: the rows, the oldest and the newest of a batch are as planned"};
static UnitProperty comes_back = {"plan: rows that others held go when they are free at the second look"};
static UnitProperty ends = {"plan: ends, with its memory freed"};

/* What a round is about. */
typedef struct Round
{
	RetentionTarget target;
	RetentionPlanOptions options;
	bool		others;			/* others write meanwhile */
	int64		deletes;		/* delete, too: so many rows at most */
	bool		slow;			/* batches are an hour apart */
	bool		holds;			/* others hold rows */
	bool		frees;			/* and let go of them before the second look */
	bool		keys;			/* foreign keys protect rows */
	int			span;			/* of times */
	uint32		next_block;
} Round;

static int
count_rows(void)
{
	int			n = 0;

	for (int i = 0; i < unit_nrows; i++)
		n += !unit_rows[i].gone;
	return n;
}

static int
count_older(TimestampTz cutoff)
{
	int			n = 0;

	for (int i = 0; i < unit_nrows; i++)
		n += !unit_rows[i].gone && unit_rows[i].time < cutoff;
	return n;
}

static void
add_row(Round *round, TimestampTz time)
{
	UnitRow    *row;

	if (unit_nrows == MOST_ROWS)
		return;
	row = &unit_rows[unit_nrows++];
	memset(row, 0, sizeof(*row));
	row->time = time;
	row->leg = unit_random(round->target.nlegs);
	row->tableoid = 16384 + unit_random(3);
	ItemPointerSet(&row->tid, round->next_block++, 1 + unit_random(3));
	row->locked = round->holds && unit_random(6) == 0;
	row->protected = round->keys && unit_random(6) == 0;
}

static void
make_round(Round *round)
{
	int			n = unit_random(4) ? unit_random(MOST_ROWS / 2) : unit_random(5);

	memset(round, 0, sizeof(*round));
	round->target.nlegs = 1 + unit_random(RETENTION_MAX_LEGS);
	round->target.is_plain = unit_random(2) == 0;
	round->others = unit_random(3) == 0;
	round->holds = unit_random(3) == 0;
	round->frees = unit_random(2);
	round->keys = unit_random(4) == 0;
	round->span = unit_random(2) ? 1 + unit_random(5) : 1 + unit_random(500);

	unit_nrows = 0;
	for (int i = 0; i < n; i++)
		add_row(round, unit_random(40) == 0 ? DT_NOBEGIN : unit_random(40) == 0 ? MIN_TIMESTAMP :
				(TimestampTz) unit_random(round->span));
	unit_table_sort();

	round->options.cutoff = unit_random(10) == 0 ? DT_NOBEGIN :
		(TimestampTz) unit_random(round->span + 2);
	round->options.min_to_keep = unit_random(3) ? unit_random(n + 2) : unit_random(3);
	round->options.batch_size = unit_random(3) ? 1 + unit_random(10) : 1 + unit_random(2 * MOST_ROWS);
	round->options.lock_timeout_ms = 1 + unit_random(2000);
	round->options.skip_protected = true;

	/* now and then so slow that the boundary is found again at each look */
	unit_clock = INT64CONST(800000000) * USECS_PER_SEC;
	unit_clock_step = unit_random(2) ? unit_random(10) : unit_random(10 * USECS_PER_SEC);

	/*
	 * Any number of the newest rows may go if each look is older than a look
	 * may be; as many as the minimum if looks are cheap.
	 */
	round->slow = unit_random(2);
	if (round->others && round->slow)
		round->deletes = unit_random(2) ? MOST_ROWS : 0;
	else if (round->others && unit_clock_step < 1000)
		round->deletes = round->options.min_to_keep;
}

/*
 * The boundary against a count over the sorted rows.
 */
static void
check_boundary(Round *round)
{
	int64		minimum = round->options.min_to_keep;
	TimestampTz cutoff = round->options.cutoff;
	RetentionBoundary got = retention_boundary_find(&round->target, 0, cutoff, minimum);
	int			n = count_rows();
	int64		protected = 0;
	int64		may_go = 0;
	int64		expected = Min(count_older(cutoff), Max(0, n - minimum));

	for (int i = 0; i < unit_nrows; i++)
	{
		UnitRow    *row = &unit_rows[i];

		if (row->gone)
			continue;
		if (i >= n - minimum && row->time < cutoff)
			protected++;
		if (row->time < got.limit || (got.ties && row->time == got.limit))
			may_go++;
	}
	if (got.ties)
		may_go -= got.keep[0] + got.keep[1];
	unit_hold(&boundary_exact, may_go == expected && got.protected == (minimum == 0 ? 0 : protected) &&
			  got.limit <= cutoff,
			  "%d rows, minimum " INT64_FORMAT ": " INT64_FORMAT " may go instead of " INT64_FORMAT
			  ", " INT64_FORMAT " protected instead of " INT64_FORMAT,
			  n, minimum, may_go, expected, got.protected, protected);
}

/*
 * Deletes what a batch says, as batch.c does; now and then it waits instead, or
 * comes to some of the rows only.
 */
static void
carry_out(Round *round, const RetentionBatch *batch, RetentionResult *result)
{
	int64		planned[RETENTION_MAX_LEGS] = {0};
	TimestampTz oldest = DT_NOEND;
	TimestampTz newest = DT_NOBEGIN;
	TimestampTz newest_gone = DT_NOBEGIN;
	int64		stay = 0;
	RetentionPlace *places = batch->places;
	int			nplaces = batch->nplaces;

	memset(result, 0, sizeof(*result));
	unit_hold(&comes_back, batch->is_retry || !batch->wait_first, "a wait for nothing");
	if (batch->wait_first && unit_random(4))
	{
		result->waited = true;
		return;
	}
	if (places == NULL)
	{
		static RetentionPlace found[MOST_ROWS];

		for (int i = 0; i < unit_nrows; i++)
		{
			UnitRow    *row = &unit_rows[i];

			if (row->gone || row->time < batch->from || row->time >= batch->to)
				continue;
			Assert(nplaces < MOST_ROWS);
			found[nplaces].leg = row->leg;
			found[nplaces].tableoid = row->tableoid;
			found[nplaces++].tid = row->tid;
		}
		retention_places_sort(found, nplaces);
		places = found;
	}
	if (nplaces > 1 && unit_random(4) == 0)
	{
		result->nrest = unit_random(nplaces);
		nplaces -= result->nrest;
		result->rest = places + nplaces;
	}
	for (int i = 0; i < unit_nrows; i++)
	{
		UnitRow    *row = &unit_rows[i];
		bool		named = false;

		if (row->gone || row->time < batch->from || row->time >= batch->to)
			continue;
		for (int p = 0; p < nplaces; p++)
			named = named || (places[p].leg == row->leg &&
							  places[p].tableoid == row->tableoid &&
							  ItemPointerEquals(&places[p].tid, &row->tid));
		if (!named)
			continue;
		row->tried = true;
		planned[row->leg]++;
		oldest = Min(oldest, row->time);
		newest = Max(newest, row->time);
		if (row->locked)
			result->skipped_locked++;
		else if (row->protected)
			result->skipped_protected++;
		else
		{
			row->gone = true;
			result->deleted++;
			newest_gone = Max(newest_gone, row->time);
			unit_hold(&never_young, row->time < round->options.cutoff,
					  INT64_FORMAT " is not before " INT64_FORMAT, row->time, round->options.cutoff);
		}
	}
	result->oldest = oldest;
	result->newest = newest;

	/* as many as the minimum are left that are no older than any that went */
	for (int i = 0; i < unit_nrows; i++)
		stay += !unit_rows[i].gone && unit_rows[i].time >= newest_gone;
	unit_hold(&minimum_stays, result->deleted == 0 || stay >= round->options.min_to_keep,
			  INT64_FORMAT " newer rows stay, the minimum is " INT64_FORMAT,
			  stay, round->options.min_to_keep);
	if (round->others)
		return;
	if (!batch->is_retry)
		unit_hold(&batches_fit, planned[0] + planned[1] <= round->options.batch_size,
				  INT64_FORMAT " rows, %d asked", planned[0] + planned[1], round->options.batch_size);
	if (batch->is_retry || result->nrest > 0)
		return;
	for (int leg = 0; leg < round->target.nlegs; leg++)
		unit_hold(&well_planned, planned[leg] == batch->planned[leg],
				  "leg %d has " INT64_FORMAT " rows, planned were " INT64_FORMAT,
				  leg, planned[leg], batch->planned[leg]);
	if (batch->places == NULL)
		unit_hold(&well_planned, oldest == batch->oldest && newest == batch->newest, "its times");
}

/*
 * Others: new rows, old ones too.  And they delete the newest ones.
 */
static void
write_something(Round *round)
{
	int			n = unit_random(3);

	while (n-- > 0)
		add_row(round, (TimestampTz) unit_random(round->span * 2));
	unit_table_sort();
	if (round->slow)
		unit_clock += USECS_PER_HOUR;
	for (int i = unit_nrows - 1; i >= 0 && round->deletes > 0; i--)
	{
		if (unit_random(4) == 0)
			break;
		if (unit_rows[i].gone)
			continue;
		unit_rows[i].gone = true;
		round->deletes--;
	}
}

static void
follow(Round *round)
{
	int64		chunks = unit_chunks();
	int			n = count_rows();
	int			older = count_older(round->options.cutoff);
	int64		expected = Min(older, Max(0, n - round->options.min_to_keep));
	RetentionPlan *plan = retention_plan_begin(&round->target, 0, &round->options);
	RetentionBatch batch;
	int64		deleted = 0;
	int64		tried = 0;
	int			nbatches = 0;
	bool		freed = false;
	bool		found;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "scratch", ALLOCSET_DEFAULT_SIZES);

	unit_hold(&exactly_due, retention_plan_nothing_due(plan) == (older == 0), "nothing_due");
	unit_hold(&exactly_due, retention_plan_is_empty(plan) == (n == 0), "is_empty");
	while (nbatches < 10 * MOST_ROWS)
	{
		RetentionResult result;

		/* as callers do, so that a batch that lived there would be seen */
		MemoryContextSwitchTo(scratch);
		found = retention_plan_next(plan, &batch);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(scratch);
		if (!found)
			break;

		nbatches++;
		if (batch.is_retry && round->frees && !freed)
		{
			for (int i = 0; i < unit_nrows; i++)
				unit_rows[i].locked = false;
			freed = true;
		}
		carry_out(round, &batch, &result);
		deleted += result.deleted;
		retention_plan_advance(plan, &batch, &result);
		if (unit_random(2))
			retention_plan_committed(plan);
		if (round->others)
			write_something(round);
	}
	unit_hold(&ends, nbatches < 10 * MOST_ROWS, "%d batches and no end", nbatches);
	retention_plan_end(plan);
	MemoryContextDelete(scratch);
	unit_hold(&ends, unit_chunks() == chunks, INT64_FORMAT " chunks are left",
			  unit_chunks() - chunks);

	if (round->others)
		return;

	/* those that are in the way were tried, too */
	for (int i = 0; i < unit_nrows; i++)
		tried += unit_rows[i].tried;
	unit_hold(&exactly_due, tried == expected,
			  INT64_FORMAT " were tried, " INT64_FORMAT " were due", tried, expected);
	if (!round->holds && !round->keys)
		unit_hold(&exactly_due, deleted == expected,
				  INT64_FORMAT " went instead of " INT64_FORMAT, deleted, expected);
	else if (!round->keys && round->frees)
		unit_hold(&comes_back, deleted == expected,
				  INT64_FORMAT " went instead of " INT64_FORMAT, deleted, expected);
	for (int i = 1; i < unit_nrows; i++)
	{
		UnitRow    *before = &unit_rows[i - 1];

		/* nothing stays before what goes, but for what is in the way */
		if (unit_rows[i].gone && !before->gone && before->time < unit_rows[i].time)
			unit_hold(&exactly_due, before->locked || before->protected,
					  "a row of " INT64_FORMAT " stays, one of " INT64_FORMAT " went",
					  before->time, unit_rows[i].time);
	}
}

int
main(void)
{
	static UnitRow rows[MOST_ROWS];
	uint64		seed = getenv("UNIT_SEED") ? strtoull(getenv("UNIT_SEED"), NULL, 10) : 7;
	int			rounds = getenv("UNIT_ROUNDS") ? atoi(getenv("UNIT_ROUNDS")) : 20000;

	unit_rows = rows;
	for (int i = 0; i < rounds; i++)
	{
		Round		round;

		unit_seed(seed + i);
		make_round(&round);
		check_boundary(&round);
		follow(&round);
	}
	unit_end(&boundary_exact);
	unit_end(&exactly_due);
	unit_end(&never_young);
	unit_end(&minimum_stays);
	unit_end(&batches_fit);
	unit_end(&well_planned);
	unit_end(&comes_back);
	unit_end(&ends);
	return unit_done();
}
