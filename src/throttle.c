/*
 * throttle.c
 *	  Whether a run may go on, has to wait, or has to stop.
 *
 * Probes of the server, and a decision that depends on nothing but them and
 * the limits.  Must not sleep or commit.
 */
#include "postgres.h"

#include "access/transam.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "retention.h"
#include "spi_util.h"
#include "throttle.h"

/* how often to look again at a standby that is behind */
#define LAG_INTERVAL (200 * 1000)

/* how long to wait at once for anything else */
#define MOST_WAIT (10 * USECS_PER_SEC)

/*
 * How long to rest for the sake of other sessions: so many times as long as the
 * transaction took, but at least and at most so long.
 */
#define YIELD_FACTOR 4
#define LEAST_YIELD 2000
#define MOST_YIELD USECS_PER_SEC

/* how many processes to look at in a millisecond */
#define LOOK_PROCESSES 100

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
	else if (probe->yields_until > probe->now)
	{
		verdict.wait = probe->yields_until - probe->now;
		verdict.reason = "other sessions";
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
 * Until when a run whose transaction began then and ended now rests for the
 * sake of other sessions that are at work; 0 when its limits say how it rests.
 */
int64
retention_throttle_yield(const RetentionLimits *limits, int64 began, int64 now)
{
	if (limits->max_rows_per_second > 0 || limits->pause > 0)
		return 0;
	return now + Min(Max(LEAST_YIELD, YIELD_FACTOR * (now - began)), MOST_YIELD);
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

/*
 * Is this process, at this moment, carrying out a client's statement?  Not so
 * when it waits for a lock, for its client or for time to pass, nor when it
 * vacuums.
 */
static bool
is_at_work(const volatile PGPROC *proc)
{
	if (proc->pid == 0 || proc->pid == MyProcPid ||
		!OidIsValid(proc->databaseId) ||
		(proc->statusFlags & (PROC_IS_AUTOVACUUM | PROC_IN_VACUUM)) != 0 ||
		!(TransactionIdIsValid(proc->xmin) || TransactionIdIsValid(proc->xid)) ||
		!retention_compat_is_client(proc))
		return false;
	switch (proc->wait_event_info & 0xFF000000)
	{
		case PG_WAIT_LOCK:
		case PG_WAIT_CLIENT:
		case PG_WAIT_ACTIVITY:
		case PG_WAIT_EXTENSION:
		case PG_WAIT_TIMEOUT:
			return false;
		default:
			return true;
	}
}

/*
 * Does any other session carry out a statement at this moment?  Other runs do
 * not count: they would rest for each other.
 *
 * A look without locks: what it sees may be over, and a session that is at work
 * half of the time is seen half of the time.
 */
bool
retention_throttle_sees_others(void)
{
	bool		seen = false;

	for (uint32 i = 0; !seen && i < ProcGlobal->allProcCount; i++)
	{
		const volatile PGPROC *proc = &ProcGlobal->allProcs[i];
		const char *activity;

		if (!is_at_work(proc))
			continue;
		/* a copy that cannot be freed: it may be a constant */
		activity = pgstat_get_backend_current_activity(proc->pid, false);
		seen = strncmp(activity, RETENTION_ACTIVITY,
					   strlen(RETENTION_ACTIVITY)) != 0;
	}
	return seen;
}

/*
 * How long to go on without another look, so that looking costs next to
 * nothing however many processes there may be.
 */
int64
retention_throttle_look_interval(void)
{
	return 1000 * (1 + (int64) ProcGlobal->allProcCount / LOOK_PROCESSES);
}
