/*
 * boundary.c
 *	  The line between the rows that may go and those that stay.
 *
 * The cutoff comes from the clock, the boundary from the minimum: it is the
 * newest row that the minimum does not protect.  Reads only.  Must not settle
 * batches.
 */
#include "postgres.h"

#include "common/int.h"
#include "executor/spi.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "boundary.h"
#include "query.h"
#include "scan.h"
#include "spi_util.h"

/* The walk back over the newest rows. */
typedef struct Walk
{
	int64		minimum;
	TimestampTz cutoff;
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
	TimestampTz *oldest;		/* those of the RetentionBoundary */
} Walk;

/*
 * The clock minus so many days of 24 hours; -infinity where that is earlier
 * than any timestamp, so that nothing is due, and infinity where it is later.
 */
TimestampTz
retention_cutoff_before(TimestampTz now, int32 days)
{
	TimestampTz cutoff;

	if (TIMESTAMP_NOT_FINITE(now))
		return now;
	if (pg_mul_s64_overflow((int64) days, USECS_PER_DAY, &cutoff) ||
		pg_sub_s64_overflow(now, cutoff, &cutoff) ||
		!IS_VALID_TIMESTAMP(cutoff))
		cutoff = days > 0 ? DT_NOBEGIN : DT_NOEND;
	return cutoff;
}

/*
 * The first instant after this one.
 */
TimestampTz
retention_instant_after(TimestampTz time)
{
	return TIMESTAMP_IS_NOBEGIN(time) ? MIN_TIMESTAMP : time + 1;
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
	if (walk->seen == walk->minimum)
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
	if (time < walk->cutoff)
		walk->due++;
	return true;
}

/*
 * Takes a row of the first leg, after the newer ones of the second.
 */
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

/*
 * Takes a row of the second leg.
 */
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

/*
 * Runs WALK for a leg.
 */
static uint64
query_walk(const RetentionTarget *target, int leg, Datum tenant, int64 count,
		   RetentionRowFunction row, void *arg)
{
	TimestampTz from;
	Datum		values[3];

	TIMESTAMP_NOBEGIN(from);
	values[0] = tenant;
	values[1] = TimestampTzGetDatum(from);
	values[2] = Int64GetDatum(count);
	return retention_spi_execute(retention_query_plan(target,
													  RETENTION_QUERY_WALK,
													  leg),
								 SPI_OK_SELECT, values, NULL, true, row, arg);
}

/*
 * Walks back over the newest rows of both legs at once, the second one held in
 * memory; never reads more than the minimum plus one row of each.
 */
static void
walk_by_query(const RetentionTarget *target, Datum tenant, Walk *walk)
{
	if (target->nlegs > 1)
	{
		walk->allocated = 64;
		walk->others = palloc(walk->allocated * sizeof(TimestampTz));
		query_walk(target, 1, tenant, walk->minimum + 1, take_other, walk);
	}
	query_walk(target, 0, tenant, walk->minimum + 1, take_walked, walk);
	while (!walk->found && walk->next_other < walk->nothers)
		(void) walk_over(walk, walk->others[walk->next_other++], 1);
	if (walk->others != NULL)
		pfree(walk->others);
}

/*
 * Does the same by reading the indexes.
 */
static void
walk_by_scans(const RetentionTarget *target, RetentionScans *scans,
			  Datum tenant, Walk *walk)
{
	TimestampTz times[RETENTION_MAX_LEGS];
	bool		have[RETENTION_MAX_LEGS] = {false};
	int			leg;

	for (leg = 0; leg < target->nlegs; leg++)
	{
		TIMESTAMP_NOEND(walk->oldest[leg]);
		retention_scan_newest(scans, leg, tenant);
		have[leg] = retention_scan_next(scans, leg, &times[leg]);
	}
	while (have[0] || have[1])
	{
		leg = have[1] && (!have[0] || times[1] > times[0]) ? 1 : 0;
		if (!walk_over(walk, times[leg], leg))
			break;
		walk->oldest[leg] = times[leg];
		have[leg] = retention_scan_next(scans, leg, &times[leg]);
	}
	for (leg = 0; leg < target->nlegs; leg++)
		if (have[leg])
			TIMESTAMP_NOBEGIN(walk->oldest[leg]);
}

/*
 * Finds the boundary for a tenant, through `scans` of the table or, without
 * them, by statements.  The caller is connected to SPI, inside a scope, holds
 * a lock on the table, and has set the snapshot to look under.
 */
RetentionBoundary
retention_boundary_look(const RetentionTarget *target, RetentionScans *scans,
						Datum tenant, TimestampTz cutoff, int64 minimum)
{
	RetentionBoundary boundary = {0};
	Walk		walk = {0};

	boundary.limit = cutoff;
	for (int leg = 0; leg < RETENTION_MAX_LEGS; leg++)
		TIMESTAMP_NOBEGIN(boundary.oldest[leg]);
	if (minimum == 0)
		return boundary;

	walk.minimum = minimum;
	walk.cutoff = cutoff;
	walk.oldest = boundary.oldest;
	if (scans != NULL)
		walk_by_scans(target, scans, tenant, &walk);
	else
		walk_by_query(target, tenant, &walk);

	if (!walk.found)
	{
		/* the tenant has no more rows than it keeps */
		TIMESTAMP_NOBEGIN(boundary.limit);
		boundary.protected = walk.due;
	}
	else if (walk.boundary < cutoff)
	{
		boundary.protected = walk.due;
		if (walk.last == walk.boundary)
		{
			boundary.limit = walk.boundary;
			boundary.ties = true;
			memcpy(boundary.keep, walk.alike, sizeof(boundary.keep));
		}
		else
			boundary.limit = retention_instant_after(walk.boundary);
	}
	return boundary;
}

/*
 * Finds the boundary for a tenant, as retention_boundary_look() does.
 */
RetentionBoundary
retention_boundary_find(const RetentionTarget *target, Datum tenant,
						TimestampTz cutoff, int64 minimum)
{
	RetentionScans *scans = NULL;
	RetentionBoundary boundary;

	if (minimum > 0)
		scans = retention_scans_open(target);
	boundary = retention_boundary_look(target, scans, tenant, cutoff, minimum);
	if (scans != NULL)
		retention_scans_close(scans);
	return boundary;
}

/*
 * Has the tenant any row in this leg?
 */
bool
retention_boundary_has_rows(const RetentionTarget *target, int leg,
							Datum tenant)
{
	return query_walk(target, leg, tenant, 1, NULL, NULL) > 0;
}
