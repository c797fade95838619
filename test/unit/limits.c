/*
 * limits.c
 *	  The cutoff, the throttle's decision, and lists of places.
 *
 * Edge values, and random ones against the same rule written with 128-bit
 * numbers or in the plainest way.
 */
#include "harness.h"

#include "utils/timestamp.h"

#include "boundary.h"
#include "place.h"
#include "throttle.h"

typedef __int128 int128_t;

/* further than a run may be told to wait; see interval_microseconds() in run.c */
#define MOST_LIMIT (100 * 365 * USECS_PER_DAY)

static TimestampTz
random_time(void)
{
	TimestampTz span = (TimestampTz) unit_random(0);

	switch (unit_random(4))
	{
		case 0:
			return MIN_TIMESTAMP + (TimestampTz) unit_random(10);
		case 1:
			return END_TIMESTAMP - 1 - (TimestampTz) unit_random(10);
		case 2:
			return span % (100 * 365 * USECS_PER_DAY);
		default:
			return (TimestampTz) ((uint64) MIN_TIMESTAMP +
								  unit_random((uint64) END_TIMESTAMP - (uint64) MIN_TIMESTAMP));
	}
}

static void
test_cutoff(void)
{
	UnitProperty property = {"cutoff: exact, or -infinity where no timestamp is that early"};
	TimestampTz now = INT64CONST(800000000) * USECS_PER_SEC;

	unit_ok(retention_cutoff_before(now, 0) == now, "cutoff: no days");
	unit_ok(retention_cutoff_before(now, 1) == now - USECS_PER_DAY,
			"cutoff: a day has 24 hours");
	unit_ok(TIMESTAMP_IS_NOBEGIN(retention_cutoff_before(now, PG_INT32_MAX)),
			"cutoff: more days than there were");
	unit_ok(retention_cutoff_before(MIN_TIMESTAMP, 0) == MIN_TIMESTAMP,
			"cutoff: the first instant");
	unit_ok(TIMESTAMP_IS_NOBEGIN(retention_cutoff_before(MIN_TIMESTAMP, 1)),
			"cutoff: before the first instant");
	unit_ok(retention_cutoff_before(MIN_TIMESTAMP + USECS_PER_DAY, 1) == MIN_TIMESTAMP,
			"cutoff: just the first instant");

	unit_ok(retention_cutoff_before(DT_NOEND, 1) == DT_NOEND &&
			retention_cutoff_before(DT_NOBEGIN, -1) == DT_NOBEGIN,
			"cutoff: before infinity is infinity");
	unit_ok(retention_cutoff_before(now, PG_INT32_MIN) == DT_NOEND &&
			retention_cutoff_before(END_TIMESTAMP - 1, -1) == DT_NOEND,
			"cutoff: after the last instant");

	for (int i = 0; i < 200000; i++)
	{
		TimestampTz at = random_time();
		int32		days = unit_random(2) ? (int32) unit_random(4000) :
			(int32) unit_random((uint64) PG_INT32_MAX + 1);
		int128_t	exact = (int128_t) at - (int128_t) days * USECS_PER_DAY;
		TimestampTz got = retention_cutoff_before(at, days);
		bool		early = exact < MIN_TIMESTAMP;

		/* nor after the year 290,000, from where nothing would be due either */
		early = early || (int128_t) days * USECS_PER_DAY > PG_INT64_MAX;
		unit_hold(&property, early ? TIMESTAMP_IS_NOBEGIN(got) : got == exact,
				  INT64_FORMAT " minus %d days gave " INT64_FORMAT, at, days, got);
	}
	unit_end(&property);

	unit_ok(retention_instant_after(DT_NOBEGIN) == MIN_TIMESTAMP,
			"instant after -infinity");
	unit_ok(retention_instant_after(MIN_TIMESTAMP) == MIN_TIMESTAMP + 1 &&
			retention_instant_after(END_TIMESTAMP - 1) == END_TIMESTAMP,
			"instant after the first and the last");
}

/*
 * The rule of retention_throttle_decide(), from its description: stop when the
 * longest transaction so far would not fit any more; else wait for the standby, the
 * pace, the pause and others, in this order, but not past the end.
 */
static RetentionAction
naive_action(const RetentionLimits *limits, const RetentionProbe *probe,
			 const char **reason)
{
	int128_t	now = probe->now;

	*reason = "max_runtime";
	if (limits->max_runtime > 0 &&
		now + probe->longest >= (int128_t) probe->started + limits->max_runtime)
		return RETENTION_STOP;
	*reason = "statement_timeout";
	if (probe->deadline != 0)
	{
		int128_t	reserve = ((int128_t) probe->deadline - probe->started) / 10;

		if (reserve > USECS_PER_SEC)
			reserve = USECS_PER_SEC;
		if (now + reserve + 2 * (int128_t) probe->longest >= probe->deadline)
			return RETENTION_STOP;
	}
	*reason = probe->laggard;
	if (limits->max_lag_bytes > 0 && probe->lag_bytes > limits->max_lag_bytes)
		return RETENTION_WAIT;
	*reason = "max_rows_per_second";
	if (probe->paced_until > probe->now)
		return RETENTION_WAIT;
	*reason = "pause_between_batches";
	if (probe->rested_until > probe->now)
		return RETENTION_WAIT;
	*reason = "other sessions";
	if (probe->yields_until > probe->now)
		return RETENTION_WAIT;
	*reason = NULL;
	return RETENTION_GO_ON;
}

/* mostly small, sometimes the most that can be asked for */
static int64
random_limit(int64 most)
{
	switch (unit_random(4))
	{
		case 0:
			return 0;
		case 1:
			return most - (int64) unit_random(3);
		case 2:
			return unit_random(5);
		default:
			return unit_random(20 * USECS_PER_SEC);
	}
}

static void
test_throttle(void)
{
	UnitProperty action = {"throttle: the action and its reason follow the rule"};
	UnitProperty bounded = {"throttle: a wait is positive, at most 10 s, and ends by the limit"};
	UnitProperty yield = {"throttle: a rest for others is four times the work, 2 ms to 1 s, unless there is a pace or a pause"};
	UnitProperty pace = {"throttle: the pace is exact and unused time is not saved up"};
	int			seen[3] = {0, 0, 0};

	for (int i = 0; i < 300000; i++)
	{
		RetentionLimits limits = {0};
		RetentionProbe probe = {0};
		RetentionVerdict verdict;
		const char *reason;
		RetentionAction expected;

		limits.max_runtime = random_limit(MOST_LIMIT);
		limits.max_lag_bytes = random_limit(PG_INT32_MAX * INT64CONST(1024));
		limits.pause = random_limit(MOST_LIMIT);
		probe.started = INT64CONST(800000000) * USECS_PER_SEC + (int64) unit_random(USECS_PER_DAY);
		/* the clock may have been set back */
		probe.now = probe.started + (int64) unit_random(10 * USECS_PER_SEC) - (unit_random(8) ? 0 : USECS_PER_HOUR);
		probe.longest = random_limit(USECS_PER_DAY);
		if (unit_random(2))
			probe.deadline = probe.started + (int64) unit_random(30 * USECS_PER_SEC);
		if (unit_random(2))
			probe.paced_until = probe.now + random_limit(MOST_LIMIT) - 2;
		if (unit_random(2))
			probe.rested_until = probe.now + limits.pause;
		if (unit_random(2))
			probe.yields_until = probe.now + random_limit(MOST_LIMIT) - 2;
		probe.lag_bytes = random_limit(PG_INT64_MAX);
		strcpy(probe.laggard, "standby");

		verdict = retention_throttle_decide(&limits, &probe);
		expected = naive_action(&limits, &probe, &reason);
		seen[verdict.action]++;
		unit_hold(&action, verdict.action == expected &&
				  (reason == NULL ? verdict.reason == NULL :
				   verdict.reason != NULL && strcmp(reason, verdict.reason) == 0),
				  "action %d, expected %d", verdict.action, expected);
		if (verdict.action == RETENTION_WAIT)
		{
			/* 1 ms is the least of a wait that a limit cuts short */
			unit_hold(&bounded, verdict.wait > 0 &&
					  verdict.wait <= 10 * USECS_PER_SEC &&
					  (limits.max_runtime == 0 || verdict.wait <= 1000 ||
					   probe.now + verdict.wait <= probe.started + limits.max_runtime) &&
					  (probe.deadline == 0 || verdict.wait <= 1000 ||
					   probe.now + verdict.wait <= probe.deadline),
					  "waits " INT64_FORMAT, verdict.wait);
		}
	}
	unit_end(&action);
	unit_end(&bounded);
	unit_ok(seen[0] > 1000 && seen[1] > 1000 && seen[2] > 1000,
			"throttle: each action was taken often (%d, %d, %d)", seen[0], seen[1], seen[2]);

	for (int i = 0; i < 100000; i++)
	{
		RetentionLimits limits = {0};
		TimestampTz began = INT64CONST(800000000) * USECS_PER_SEC;
		TimestampTz until = unit_random(3) ? began + random_limit(USECS_PER_DAY) - USECS_PER_SEC : 0;
		int64		rows = unit_random(2) ? unit_random(RETENTION_MAX_BATCH_SIZE * 2) : unit_random(3);
		TimestampTz got;
		int128_t	expected;

		limits.max_rows_per_second = unit_random(4) == 0 ? 0 :
			unit_random(2) ? 1 + unit_random(PG_INT32_MAX) : 1 + unit_random(100);
		got = retention_throttle_pace(&limits, until, began, rows);
		expected = Max(until, began);
		if (limits.max_rows_per_second > 0)
			expected += (int128_t) rows * USECS_PER_SEC / limits.max_rows_per_second;
		else
			expected = until;
		unit_hold(&pace, got == expected, "got " INT64_FORMAT, got);
	}
	unit_end(&pace);

	for (int i = 0; i < 100000; i++)
	{
		RetentionLimits limits = {0};
		int64		began = INT64CONST(800000000) * USECS_PER_SEC;
		int64		took = unit_random(2) ? unit_random(3000) : unit_random(USECS_PER_DAY);
		int64		rest = took < 500 ? 2000 : took > 250000 ? 1000000 : 4 * took;

		limits.max_rows_per_second = unit_random(4) == 0;
		limits.pause = unit_random(4) == 0;
		if (limits.max_rows_per_second > 0 || limits.pause > 0)
			rest = -(began + took);
		unit_hold(&yield, retention_throttle_yield(&limits, began, began + took) == began + took + rest,
				  "took " INT64_FORMAT, took);
	}
	unit_end(&yield);
}

static void
random_place(RetentionPlace *place)
{
	place->leg = unit_random(RETENTION_MAX_LEGS);
	place->tableoid = unit_random(5) ? 16384 + unit_random(3) : PG_UINT32_MAX - unit_random(2);
	ItemPointerSet(&place->tid, unit_random(5) ? unit_random(4) : MaxBlockNumber - unit_random(2),
				   1 + unit_random(4));
}

/*
 * A place as one number, most significant part first.
 */
static int128_t
place_number(const RetentionPlace *place)
{
	int128_t	number = place->leg;

	number = (number << 32) | place->tableoid;
	number = (number << 32) | ItemPointerGetBlockNumberNoCheck(&place->tid);
	return (number << 16) | ItemPointerGetOffsetNumberNoCheck(&place->tid);
}

static void
test_places(void)
{
	UnitProperty sorted = {"places: sorted by leg, table, block and offset, and none lost"};
	UnitProperty alike = {"places: the first run of one leg and table, and no more than asked"};

	for (int i = 0; i < 20000; i++)
	{
		int			n = unit_random(40);
		int			most = unit_random(20);
		int			expected = 0;
		RetentionPlace *places = malloc(n * sizeof(RetentionPlace));
		int128_t	before = 0;
		int128_t	after = 0;
		bool		ordered = true;

		for (int p = 0; p < n; p++)
		{
			random_place(&places[p]);
			before += place_number(&places[p]) * (place_number(&places[p]) % 1000003);
		}
		retention_places_sort(places, n);
		for (int p = 0; p < n; p++)
		{
			after += place_number(&places[p]) * (place_number(&places[p]) % 1000003);
			if (p > 0 && place_number(&places[p - 1]) > place_number(&places[p]))
				ordered = false;
		}
		unit_hold(&sorted, ordered && before == after, "%d places", n);

		for (int p = 0; p < n; p++)
		{
			if (places[p].leg != places[0].leg || places[p].tableoid != places[0].tableoid)
				break;
			expected++;
		}
		unit_hold(&alike, retention_places_count_alike(places, n, most) == Min(expected, most),
				  "%d places, at most %d", n, most);
		free(places);
	}
	unit_end(&sorted);
	unit_end(&alike);
}

int
main(void)
{
	unit_seed(20);
	test_cutoff();
	test_throttle();
	test_places();
	return unit_done();
}
