/*
 * throttle.c
 *	  Whether a run may go on, has to wait, or has to stop.
 *
 * Probes of the server, and a decision that depends on nothing but them and
 * the limits.  Must not sleep or commit.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "spi_util.h"
#include "throttle.h"

/* how often to look again at a standby that is behind */
#define LAG_INTERVAL (200 * 1000)

/* how long to wait at once for anything else */
#define MOST_WAIT (10 * USECS_PER_SEC)

/*
 * Who is furthest behind: a standby by what it has replayed, a logical slot by
 * what its consumer has confirmed.
 */
static const RetentionStatement lag_statement = {
	.text = "SELECT who, lag FROM ("
	"SELECT pg_catalog.format('standby \"%s\"', application_name) AS who,"
	" pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn)"
	"::pg_catalog.int8 AS lag FROM pg_catalog.pg_stat_replication"
	" WHERE state OPERATOR(pg_catalog.=)"
	" ANY (ARRAY['streaming', 'catchup']::pg_catalog.text[])"
	" UNION ALL "
	"SELECT pg_catalog.format('logical slot \"%s\"', slot_name),"
	" pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(),"
	" confirmed_flush_lsn)::pg_catalog.int8"
	" FROM pg_catalog.pg_replication_slots"
	" WHERE slot_type OPERATOR(pg_catalog.=) 'logical'"
	") AS behind WHERE lag IS NOT NULL ORDER BY lag DESC LIMIT 1"
};

/*
 * Decides by the limits what the run does next.
 */
RetentionVerdict
retention_throttle_decide(const RetentionLimits *limits,
						  const RetentionProbe *probe)
{
	RetentionVerdict verdict = {RETENTION_GO_ON, 0, NULL};
	int64		ahead = 2 * probe->longest;
	int64		end = 0;

	if (limits->max_runtime > 0)
	{
		end = probe->started + limits->max_runtime;
		if (probe->now + probe->longest >= end)
		{
			verdict.action = RETENTION_STOP;
			verdict.reason = "max_runtime";
			return verdict;
		}
	}
	if (probe->deadline != 0)
	{
		/* better a little early than cancelled */
		int64		reserve = (probe->deadline - probe->started) / 10;

		reserve = Min(reserve, USECS_PER_SEC) + ahead;
		if (probe->now + reserve >= probe->deadline)
		{
			verdict.action = RETENTION_STOP;
			verdict.reason = "statement_timeout";
			return verdict;
		}
		if (end == 0 || probe->deadline - reserve < end)
			end = probe->deadline - reserve;
	}

	if (limits->max_lag_bytes > 0 && probe->lag_bytes > limits->max_lag_bytes)
	{
		verdict.wait = LAG_INTERVAL;
		verdict.reason = probe->laggard;
	}
	else if (probe->paced_until > probe->now)
	{
		verdict.wait = probe->paced_until - probe->now;
		verdict.reason = "max_rows_per_second";
	}
	else if (probe->rested_until > probe->now)
	{
		verdict.wait = probe->rested_until - probe->now;
		verdict.reason = "pause_between_batches";
	}

	if (verdict.reason != NULL)
	{
		verdict.action = RETENTION_WAIT;
		verdict.wait = Min(verdict.wait, MOST_WAIT);
		if (end != 0)
			verdict.wait = Min(verdict.wait, Max(1000, end - probe->now));
	}
	return verdict;
}

/*
 * Until when a run that deleted so many rows in a transaction that began then
 * has to rest.  Time that passes unused is not saved up.
 */
int64
retention_throttle_pace(const RetentionLimits *limits, int64 paced_until,
						int64 began, int64 rows)
{
	if (limits->max_rows_per_second <= 0)
		return paced_until;
	return Max(paced_until, began) +
		rows * USECS_PER_SEC / limits->max_rows_per_second;
}

/*
 * Takes who is furthest behind.
 */
static bool
take_lag(TupleTableSlot *slot, void *arg)
{
	RetentionProbe *probe = arg;
	bool		isnull;

	text_to_cstring_buffer(DatumGetTextPP(slot_getattr(slot, 1, &isnull)),
						   probe->laggard, sizeof(probe->laggard));
	probe->lag_bytes = DatumGetInt64(slot_getattr(slot, 2, &isnull));
	return false;
}

/*
 * Looks who is behind, and how far, with the rights of `reader`: the views
 * hide it from common users.
 */
void
retention_throttle_probe_lag(Oid reader, RetentionProbe *probe)
{
	RetentionScope scope;

	probe->lag_bytes = 0;
	probe->laggard[0] = '\0';
	retention_scope_begin_as(&scope, reader);
	PushActiveSnapshot(GetTransactionSnapshot());
	retention_spi_execute(retention_spi_plan(InvalidOid, 0, &lag_statement),
						  SPI_OK_SELECT, NULL, NULL, true, take_lag, probe);
	PopActiveSnapshot();
	retention_scope_end(&scope);
}
