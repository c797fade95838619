/*
 * transaction.c
 *	  The transactions of a run.
 *
 * Owns when to commit, rest or stop, and what is held meanwhile.  The only
 * place that commits.  Must not know what is deleted.
 *
 * A transaction holds about one batch: part of the rows of a large tenant, or
 * all that is due of several small ones.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "clock.h"
#include "compat.h"
#include "install.h"
#include "lock.h"
#include "policy.h"
#include "spi_util.h"
#include "target.h"
#include "transaction.h"
#include "unit.h"

/* how long a transaction goes on to collect small tenants, in microseconds */
#define MOST_TRANSACTION_AGE USECS_PER_SEC

/* how long to rest when the table is locked, in microseconds */
#define BLOCKED_INTERVAL (500 * 1000)

/* how often, and in which intervals, to try for a tenant that was given up */
#define REGAIN_ATTEMPTS 5
#define REGAIN_INTERVAL (20 * 1000)

/*
 * While other sessions are at work, a transaction holds no more rows than this:
 * who needs the processor, or has to write the log, waits less behind a few rows
 * than behind many.  Others count as at work for YIELDING_TIME after they were
 * seen twice, GLIMPSE or more apart: within YIELDING_TIME, or, where transactions
 * take longer than that, at two looks in a row.  A session that begins, or asks
 * one thing, is no load.
 */
#define YIELDING_BATCH 100
#define YIELDING_TIME USECS_PER_SEC
#define GLIMPSE (10 * 1000)

/* how often to look whether somebody waits while a walk rests, in microseconds */
#define WALK_REST (20 * 1000)

/* how old what is known about who is behind may be, in microseconds */
#define PROBE_MOST_AGE (100 * 1000)

/* a wait from this long on is announced in history, in microseconds */
#define LONG_WAIT USECS_PER_SEC

/* how often a wait that goes on is put on record, in microseconds */
#define WAIT_NOTE_INTERVAL (5 * USECS_PER_SEC)

/*
 * Shows in ps and pg_stat_activity what the run is at.
 */
void
retention_transaction_show(RetentionRun *run)
{
	RetentionRunRecord *record = &run->record;
	char		activity[128];
	char	   *tenant;

	if (record->waiting_for != NULL)
		snprintf(activity, sizeof(activity), RETENTION_ACTIVITY "waiting for %s, "
				 INT64_FORMAT " rows deleted",
				 record->waiting_for, record->deleted);
	else if (record->current_tenant != NULL)
	{
		tenant = DatumGetCString(DirectFunctionCall1(uuid_out,
													 *record->current_tenant));
		snprintf(activity, sizeof(activity), RETENTION_ACTIVITY "tenant %s (%d of %d), "
				 INT64_FORMAT " rows deleted", tenant,
				 record->tenants + 1, record->tenants_due, record->deleted);
		pfree(tenant);
	}
	else if (record->tenants_due > 0)
		snprintf(activity, sizeof(activity), RETENTION_ACTIVITY "many tenants (%d of %d done), "
				 INT64_FORMAT " rows deleted",
				 record->tenants, record->tenants_due, record->deleted);
	else
		snprintf(activity, sizeof(activity), RETENTION_ACTIVITY "looking for what is due");
	set_ps_display(activity);
	pgstat_report_activity(STATE_RUNNING, activity);
}

/*
 * Records how far the run is, in the current transaction.
 */
void
retention_transaction_record(RetentionRun *run)
{
	run->record.wal_bytes = pgWalUsage.wal_bytes - run->wal_before;
	retention_history_update(run->history, run->writer, &run->record);
}

/*
 * A step: locks the table and describes it as it is now.
 */
static void
step_open(void *arg)
{
	RetentionRun *run = arg;
	RetentionScope scope;
	MemoryContext caller;

	retention_step_begin(&scope, "pg_catalog, pg_temp", InvalidOid);

	/* to know the table takes locks, which who holds it may want */
	retention_pin_giving_in();
	MemoryContextReset(run->target_context);
	caller = MemoryContextSwitchTo(run->target_context);
	run->target = *retention_installed_open(RowExclusiveLock);
	MemoryContextSwitchTo(caller);

	/* only now: whoever held the table may have made it anew */
	if (run->policies != retention_policy_relid())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" has been created anew during the run",
						RETENTION_EXTENSION)));
	if (run->target.relid != run->relid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("another table has been attached during the run")));
	retention_scope_end(&scope);
}

/*
 * Keeps other cleanups of a tenant out until the transaction ends, or longer.
 * Returns false when one is under way.
 */
bool
retention_transaction_lock(RetentionRun *run, Datum tenant)
{
	Assert(run->nheld < RETENTION_MOST_TENANTS);
	if (!retention_try_lock_tenant(run->relid, tenant,
								   run->target.tenant_type,
								   run->target.tenant_collation,
								   &run->held[run->nheld]))
		return false;
	run->nheld++;
	return true;
}

/*
 * Gives back the locks of tenants but for the last `keep`.
 */
void
retention_transaction_unlock(RetentionRun *run, int keep)
{
	for (int i = 0; i < run->nheld - keep; i++)
		retention_unlock_tenant(&run->held[i]);
	if (keep > 0 && run->nheld > keep)
		memmove(run->held, &run->held[run->nheld - keep],
				keep * sizeof(LOCKTAG));
	run->nheld = Min(run->nheld, keep);
}

/*
 * Keeps out who wants a tenant, whichever, or wants to change a policy, as long
 * as the run does not rest.  Returns false when somebody is at it.
 */
bool
retention_transaction_lock_walk(RetentionRun *run)
{
	if (!run->holds_walk)
		run->holds_walk = retention_try_lock_walk();
	return run->holds_walk;
}

/*
 * Gives that lock back, after a commit.
 */
void
retention_transaction_unlock_walk(RetentionRun *run)
{
	if (run->holds_walk)
		retention_unlock_walk();
	run->holds_walk = false;
}

/*
 * The segment of this number in a set of them.
 */
static uint64
segment_bit(uint32 segment)
{
	Assert(segment < RETENTION_MOST_SEGMENTS);
	return UINT64CONST(1) << segment;
}

/*
 * Keeps other runs from walking over a part of the table.  Returns false when
 * one does, or, unless `again`, when one has done so in a walk that goes on.
 */
bool
retention_transaction_lock_segment(RetentionRun *run, uint32 segment,
								   bool again)
{
	if (!retention_try_lock_segment(run->relid, segment, again))
		return false;
	run->segments |= segment_bit(segment);
	return true;
}

/*
 * Notes that a part of the table is done: others may have it after the commit,
 * not before (what is deleted there is in their way until then).
 */
void
retention_transaction_leave_segment(RetentionRun *run, uint32 segment)
{
	run->walked |= segment_bit(segment);
}

/*
 * After a commit: lets others walk over the parts of the table that are done,
 * and marks these, so that who finds others goes there first.
 */
static void
leave_segments(RetentionRun *run)
{
	for (uint32 i = 0; run->walked != 0 && i < RETENTION_MOST_SEGMENTS; i++)
	{
		uint64		bit = segment_bit(i);

		if ((run->walked & bit) == 0)
			continue;
		retention_mark_segment(run->relid, i);
		run->marked |= bit;
		retention_unlock_segment(run->relid, i);
		run->segments &= ~bit;
		run->walked &= ~bit;
	}
}

/*
 * Gives back all parts of the table, and what marks them.
 */
void
retention_transaction_unlock_segments(RetentionRun *run)
{
	for (uint32 i = 0; i < RETENTION_MOST_SEGMENTS; i++)
	{
		if (run->segments & segment_bit(i))
			retention_unlock_segment(run->relid, i);
		if (run->marked & segment_bit(i))
			retention_unmark_segment(run->relid, i);
	}
	run->segments = run->walked = run->marked = 0;
}

/*
 * Gives back one of the locks, of a tenant for whom nothing was done; those
 * that were taken later move up.
 */
void
retention_transaction_unlock_one(RetentionRun *run, int number)
{
	retention_unlock_tenant(&run->held[number]);
	run->nheld--;
	memmove(&run->held[number], &run->held[number + 1],
			(run->nheld - number) * sizeof(LOCKTAG));
}

/*
 * Gives back the locks that were taken last, of tenants for whom nothing was
 * done, until so many are left.
 */
void
retention_transaction_unlock_down(RetentionRun *run, int most)
{
	while (run->nheld > most)
		retention_unlock_tenant(&run->held[--run->nheld]);
}

/*
 * At the very start of a transaction: rows that others change, in history and
 * in policies too, are to be gone around or waited for, not an error, whatever
 * the session's default is.
 */
static void
go_around(void)
{
	XactIsoLevel = XACT_READ_COMMITTED;
}

/*
 * To be called after the last commit: what the caller does next in its block
 * is at the session's level again.
 */
void
retention_transaction_hand_back(void)
{
	if (!FirstSnapshotSet)
		XactIsoLevel = DefaultXactIsoLevel;
}

/*
 * Commits without waiting for the disk.  A crash of the server may then undo
 * the latest transactions of a run, each with what history says about it: the
 * log keeps their order, and the next run deletes again.  A run waits for the
 * disk at its beginning and its end, with retention_transaction_flush().
 */
static void
commit_soon(RetentionRun *run)
{
	if (synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
								 false);
	SPI_commit();
	go_around();
	run->committed = run->record;
}

/*
 * Gives back the lock of a walk if somebody waits for it.
 */
static void
make_way(RetentionRun *run)
{
	if (run->holds_walk && retention_walk_is_waited_for())
		retention_transaction_unlock_walk(run);
}

/*
 * Commits, and gives back the locks of tenants but for that of the one that is
 * not done, and of the parts of the table that are; that on all tenants at
 * once, if somebody waits for it.
 */
void
retention_transaction_commit(RetentionRun *run, bool keep_last)
{
	commit_soon(run);
	retention_transaction_unlock(run, keep_last ? 1 : 0);
	leave_segments(run);
	make_way(run);
	run->longest = Max(run->longest, retention_clock() - run->began);
}

/*
 * Commits as the session's synchronous_commit says, and gives back all locks
 * of tenants.
 */
void
retention_transaction_flush(RetentionRun *run)
{
	SPI_commit();
	go_around();
	run->committed = run->record;
	retention_transaction_unlock(run, 0);
}

/*
 * Undoes the transaction that is under way, and gives back all locks of
 * tenants.
 */
void
retention_transaction_undo(RetentionRun *run)
{
	SPI_rollback();
	go_around();
	retention_transaction_unlock(run, 0);
}

/*
 * Adds a reason to the list of those that the run has waited for.
 */
static void
note_wait(RetentionRun *run, const char *reason)
{
	RetentionRunRecord *record = &run->record;

	if (record->waited_for == NULL)
		record->waited_for = MemoryContextStrdup(run->context, reason);
	else if (strstr(record->waited_for, reason) == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(run->context);

		record->waited_for = psprintf("%s, %s", record->waited_for, reason);
		MemoryContextSwitchTo(caller);
	}
}

/*
 * Sleeps, with no snapshot, and notices a cancel at once.
 */
static void
nap(RetentionRun *run, int64 microseconds)
{
	int64		until = retention_clock() + microseconds;

	for (;;)
	{
		int64		left = until - retention_clock();

		CHECK_FOR_INTERRUPTS();
		make_way(run);
		if (left <= 0)
			return;
		if (run->holds_walk)
			left = Min(left, WALK_REST);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (left + 999) / 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * Takes the lock of a tenant again that was given up while others locked the
 * table.  They may give back the table a moment before the tenant.
 */
bool
retention_transaction_lock_again(RetentionRun *run, Datum tenant)
{
	for (int attempts = 1; !retention_transaction_lock(run, tenant); attempts++)
	{
		if (attempts >= REGAIN_ATTEMPTS)
			return false;
		nap(run, REGAIN_INTERVAL);
	}
	return true;
}

/*
 * A step: looks who is behind.
 */
static void
step_probe_lag(void *arg)
{
	RetentionRun *run = arg;

	retention_throttle_probe_lag(run->writer, &run->probe);
}

/*
 * Waits for this reason, after a commit, and says so in history if that may
 * take long, now and then again as long as it does: a run that waits is none
 * that is stuck.  Where transactions are timed, waits only a part of the time
 * that one may take, and begins another.
 */
static void
wait_for(RetentionRun *run, const char *reason, int64 microseconds, bool is_long)
{
	RetentionRunRecord *record = &run->record;
	int64		limit = retention_compat_transaction_limit();
	int64		before = retention_clock();

	note_wait(run, reason);
	if (is_long && (record->waiting_for == NULL ||
					before - run->wait_noted_at >= WAIT_NOTE_INTERVAL))
	{
		if (record->waiting_for == NULL)
			record->waiting_for = MemoryContextStrdup(run->context, reason);
		run->wait_noted_at = before;
		retention_transaction_record(run);
		commit_soon(run);
	}
	retention_transaction_show(run);
	before = retention_clock();
	nap(run, limit > 0 ? Min(microseconds, limit / 2) : microseconds);
	record->waited_us += retention_clock() - before;
	if (limit > 0)
		commit_soon(run);
}

/*
 * Notes that the run waits no longer.
 */
static void
end_wait(RetentionRun *run)
{
	if (run->record.waiting_for != NULL)
		pfree((char *) run->record.waiting_for);
	run->record.waiting_for = NULL;
	run->committed.waiting_for = NULL;
	retention_transaction_show(run);
}

/*
 * Looks, now and then, whether other sessions are at work, and settles how many
 * rows the next transactions hold.  Not fewer where a pause follows each.
 */
static bool
look_for_others(RetentionRun *run)
{
	int64		now = retention_clock();
	bool		others;

	if (now >= run->look_at)
	{
		bool		seen = retention_throttle_sees_others();

		run->look_at = now + retention_throttle_look_interval();
		if (seen && now - run->seen_at >= GLIMPSE)
		{
			/* after a slow transaction, the last look was long ago */
			if (run->saw_others || now - run->seen_at <= YIELDING_TIME)
				run->yields_until = now + YIELDING_TIME;
			run->seen_at = now;
		}
		run->saw_others = seen;
	}
	others = now < run->yields_until;
	run->batch_size = others && run->limits.pause == 0 ?
		Min(run->most_batch_size, YIELDING_BATCH) : run->most_batch_size;
	return others;
}

/*
 * After a commit: waits as long as the limits demand, and until then for the
 * sake of others.  Returns the reason to stop, or NULL to go on.  What is in
 * `scratch` may be gone then.
 */
static const char *
throttle(RetentionRun *run, int64 yields_until)
{
	MemoryContext caller = MemoryContextSwitchTo(run->scratch);
	RetentionProbe *probe = &run->probe;
	TimestampTz deadline = retention_compat_statement_deadline();
	int64		probed = 0;

	memset(probe, 0, sizeof(*probe));
	probe->started = run->start;
	if (deadline != 0)
		probe->deadline = retention_clock() + deadline - GetCurrentTimestamp();
	probe->longest = run->longest;
	probe->paced_until = run->paced_until;
	probe->rested_until = retention_clock() + run->limits.pause;
	probe->yields_until = yields_until;

	for (;;)
	{
		RetentionVerdict verdict;

		if (run->limits.max_lag_bytes > 0 &&
			(probed == 0 || retention_clock() - probed >= PROBE_MOST_AGE))
		{
			retention_must(step_probe_lag, run);
			commit_soon(run);
			probed = retention_clock();
		}
		probe->now = retention_clock();
		verdict = retention_throttle_decide(&run->limits, probe);
		if (verdict.action != RETENTION_WAIT)
		{
			end_wait(run);
			MemoryContextSwitchTo(caller);
			return verdict.action == RETENTION_STOP ? verdict.reason : NULL;
		}
		wait_for(run, verdict.reason, verdict.wait,
				 verdict.wait >= LONG_WAIT || verdict.reason == probe->laggard);
		/* who is behind may stay there for days */
		MemoryContextReset(run->scratch);
	}
}

/*
 * To be called before anything is deleted: settles how many rows the first
 * transaction holds.  Sleeps a moment if others seem to be at work.
 */
void
retention_transaction_look_around(RetentionRun *run)
{
	(void) look_for_others(run);
	if (run->saw_others)
	{
		nap(run, Max(GLIMPSE, run->look_at - retention_clock()));
		(void) look_for_others(run);
	}
}

/*
 * Begins a transaction's work.  While others lock the table, it waits, holding
 * nothing, not even the tenant (who locks the table may be waiting for that),
 * as long as the limits allow.  Returns the reason to stop, or NULL.
 */
const char *
retention_transaction_begin(RetentionRun *run)
{
	for (;;)
	{
		ErrorData  *error;
		const char *stop;

		/* a session that is busy would not notice, and keep others out */
		if (!PostmasterIsAlive())
			ereport(FATAL,
					(errcode(ERRCODE_ADMIN_SHUTDOWN),
					 errmsg("terminating connection due to unexpected postmaster exit")));

		run->began = retention_clock();
		run->rows = 0;

		error = retention_try(step_open, run);
		if (error == NULL)
			break;
		/* another session may hold the table and want our tenant */
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			ReThrowError(error);
		FreeErrorData(error);
		commit_soon(run);
		retention_transaction_unlock(run, 0);
		wait_for(run, "a lock on the table", BLOCKED_INTERVAL, true);
		stop = throttle(run, 0);
		if (stop != NULL)
			return stop;
	}

	/*
	 * A deferred constraint would fail at the commit, with the work of all
	 * the tenants in it, and deferred triggers would run as the caller.
	 */
	retention_spi_utility("SET CONSTRAINTS ALL IMMEDIATE");
	return NULL;
}

/*
 * Ends a transaction whose work is done: records progress, commits, rests, and
 * begins the next one.  Returns the reason to stop, or NULL.  The lock of the
 * last tenant may be lost on the way although it was to be kept: then
 * run->nheld is 0.
 */
const char *
retention_transaction_end(RetentionRun *run, bool keep_last)
{
	MemoryContext caller = MemoryContextSwitchTo(run->scratch);
	int64		yields_until = 0;
	const char *stop;

	retention_transaction_record(run);
	retention_transaction_commit(run, keep_last);
	if (look_for_others(run))
		yields_until = retention_throttle_yield(&run->limits, run->began,
												retention_clock());
	run->paced_until = retention_throttle_pace(&run->limits, run->paced_until,
											   run->began,
											   run->rows);
	stop = throttle(run, yields_until);
	if (stop == NULL)
		stop = retention_transaction_begin(run);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(run->scratch);
	return stop;
}

/*
 * Is it time to commit?
 */
bool
retention_transaction_is_full(RetentionRun *run)
{
	return run->rows >= run->batch_size ||
		run->nheld >= RETENTION_MOST_TENANTS ||
		retention_clock() - run->began > MOST_TRANSACTION_AGE;
}
