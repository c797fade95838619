/*
 * run.c
 *	  The procedure retention.run(): cleans every tenant that is due.
 *
 * Owns the course of a run: which tenant comes next, when to commit, when to
 * rest or stop, and what history says about it.  The only place that commits.
 * Must not build SQL or read catalogs.
 *
 * A transaction holds about one batch: part of the rows of a large tenant, or
 * all that is due of several small ones.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "common/int.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/ps_status.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "boundary.h"
#include "compat.h"
#include "guc.h"
#include "history.h"
#include "install.h"
#include "lock.h"
#include "policy.h"
#include "query.h"
#include "spi_util.h"
#include "target.h"
#include "throttle.h"
#include "unit.h"

/* how often a batch is tried again after a deadlock or the like */
#define MOST_ATTEMPTS 4

/* how long a transaction goes on to collect small tenants, in microseconds */
#define MOST_TRANSACTION_AGE USECS_PER_SEC

/* how many tenants are locked in a transaction; each takes a place in shared memory */
#define MOST_TENANTS 100

/* how long to rest when the table is locked, in microseconds */
#define BLOCKED_INTERVAL (500 * 1000)

/* how many blocks are read to estimate what is due */
#define SAMPLE_BLOCKS 300

/* a wait from this long on is announced in history, in microseconds */
#define LONG_WAIT USECS_PER_SEC

/* What a run knows.  Lives in `context`, which outlives commits. */
typedef struct Run
{
	MemoryContext context;
	RetentionRunRecord record;
	RetentionRunRecord committed;	/* as it was at the last commit */
	RetentionLimits limits;
	bool		force;
	int			batch_size;
	TimestampTz now;			/* the clock, read once */
	int64		wal_before;

	Oid			history;
	Oid			writer;			/* owner of history */
	Oid			policies;
	Oid			relid;
	RetentionTarget target;		/* of this transaction */
	MemoryContext target_context;
	MemoryContext scratch;		/* reset at each commit */

	LOCKTAG		held[MOST_TENANTS]; /* of tenants in this transaction */
	int			nheld;
	TimestampTz transaction_began;
	int64		transaction_rows;
	TimestampTz paced_until;
	int64		longest;		/* the longest transaction, in microseconds */
	RetentionProbe probe;
	List	   *tenants;		/* for whom something is due */
} Run;

PG_FUNCTION_INFO_V1(retention_run);

/*
 * Shows in ps and pg_stat_activity what the run is at.
 */
static void
show_activity(Run *run)
{
	RetentionRunRecord *record = &run->record;
	char		activity[128];
	char	   *tenant;

	if (record->waiting_for != NULL)
		snprintf(activity, sizeof(activity), "retention: waiting for %s, "
				 INT64_FORMAT " rows deleted",
				 record->waiting_for, record->deleted);
	else if (record->current_tenant != NULL)
	{
		tenant = DatumGetCString(DirectFunctionCall1(uuid_out,
													 *record->current_tenant));
		snprintf(activity, sizeof(activity), "retention: tenant %s (%d of %d), "
				 INT64_FORMAT " rows deleted", tenant,
				 record->tenants + 1, record->tenants_due, record->deleted);
		pfree(tenant);
	}
	else
		snprintf(activity, sizeof(activity), "retention: looking for what is due");
	set_ps_display(activity);
	pgstat_report_activity(STATE_RUNNING, activity);
}

/*
 * Records how far the run is, in the current transaction.
 */
static void
record_progress(Run *run)
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
	Run		   *run = arg;
	RetentionScope scope;
	MemoryContext caller;

	retention_step_begin(&scope, "pg_catalog, pg_temp", InvalidOid);
	if (run->policies != retention_policy_relid() ||
		run->history != retention_own_relid(RETENTION_HISTORY_TABLE))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" has been created anew during the run",
						RETENTION_EXTENSION)));
	MemoryContextReset(run->target_context);
	caller = MemoryContextSwitchTo(run->target_context);
	run->target = *retention_installed_open(RowExclusiveLock);
	MemoryContextSwitchTo(caller);
	if (run->target.relid != run->relid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("another table has been attached during the run")));
	retention_scope_end(&scope);
}

/*
 * Gives back the locks of tenants but for the last `keep`.
 */
static void
unlock_tenants(Run *run, int keep)
{
	for (int i = 0; i < run->nheld - keep; i++)
		retention_unlock_tenant(&run->held[i]);
	if (keep > 0 && run->nheld > keep)
		memmove(run->held, &run->held[run->nheld - keep],
				keep * sizeof(LOCKTAG));
	run->nheld = Min(run->nheld, keep);
}

/*
 * Commits, and gives back the locks of tenants but for that of the one that is
 * not done.
 */
static void
commit(Run *run, bool keep_last)
{
	SPI_commit();
	run->committed = run->record;
	unlock_tenants(run, keep_last ? 1 : 0);
	run->longest = Max(run->longest,
					   GetCurrentTimestamp() - run->transaction_began);
}

/*
 * Adds a reason to the list of those that the run has waited for.
 */
static void
note_wait(Run *run, const char *reason)
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
 * Sleeps, after a commit and with no snapshot, and notices a cancel at once.
 */
static void
nap(int64 microseconds)
{
	TimestampTz until = GetCurrentTimestamp() + microseconds;

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		if (now >= until)
			return;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (until - now + 999) / 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * A step: looks who is behind.
 */
static void
step_probe_lag(void *arg)
{
	Run		   *run = arg;

	retention_throttle_probe_lag(run->writer, &run->probe);
}

/*
 * Waits for this reason, after a commit, and says so in history if that may
 * take long.
 */
static void
wait_for(Run *run, const char *reason, int64 microseconds, bool is_long)
{
	RetentionRunRecord *record = &run->record;
	TimestampTz before;

	note_wait(run, reason);
	if (record->waiting_for == NULL && is_long)
	{
		record->waiting_for = MemoryContextStrdup(run->context, reason);
		record_progress(run);
		SPI_commit();
		run->committed = run->record;
	}
	show_activity(run);
	before = GetCurrentTimestamp();
	nap(microseconds);
	record->waited_us += GetCurrentTimestamp() - before;
}

/*
 * Notes that the run waits no longer.
 */
static void
end_wait(Run *run)
{
	if (run->record.waiting_for != NULL)
		pfree((char *) run->record.waiting_for);
	run->record.waiting_for = NULL;
	run->committed.waiting_for = NULL;
	show_activity(run);
}

/*
 * After a commit: waits as long as the limits demand.  Returns the reason to
 * stop, or NULL to go on.
 */
static const char *
throttle(Run *run)
{
	RetentionProbe *probe = &run->probe;

	memset(probe, 0, sizeof(*probe));
	probe->started = run->record.started;
	probe->deadline = retention_compat_deadline();
	probe->longest = run->longest;
	probe->paced_until = run->paced_until;
	probe->rested_until = GetCurrentTimestamp() + run->limits.pause;

	for (;;)
	{
		RetentionVerdict verdict;

		if (run->limits.max_lag_bytes > 0)
		{
			retention_must(step_probe_lag, run);
			SPI_commit();
		}
		probe->now = GetCurrentTimestamp();
		verdict = retention_throttle_decide(&run->limits, probe);
		if (verdict.action != RETENTION_WAIT)
		{
			end_wait(run);
			return verdict.action == RETENTION_STOP ? verdict.reason : NULL;
		}
		wait_for(run, verdict.reason, verdict.wait,
				 verdict.wait >= LONG_WAIT || verdict.reason == probe->laggard);
	}
}

/*
 * Begins a transaction's work.  While others lock the table, it waits, holding
 * nothing, as long as the limits allow.  Returns the reason to stop, or NULL.
 */
static const char *
begin_transaction(Run *run)
{
	for (;;)
	{
		ErrorData  *error;
		const char *stop;

		run->transaction_began = GetCurrentTimestamp();
		run->transaction_rows = 0;

		/* rows that others change are to be gone around, not an error */
		retention_spi_utility("SET TRANSACTION ISOLATION LEVEL READ COMMITTED");

		error = retention_try(step_open, run);
		if (error == NULL)
			break;
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
		SPI_commit();
		wait_for(run, "a lock on the table", BLOCKED_INTERVAL, true);
		stop = throttle(run);
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
 * begins the next one.  Returns the reason to stop, or NULL.
 */
static const char *
end_transaction(Run *run, bool keep_last)
{
	MemoryContext caller = MemoryContextSwitchTo(run->scratch);
	const char *stop;

	record_progress(run);
	commit(run, keep_last);
	run->paced_until = retention_throttle_pace(&run->limits, run->paced_until,
											   run->transaction_began,
											   run->transaction_rows);
	stop = throttle(run);
	if (stop == NULL)
		stop = begin_transaction(run);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(run->scratch);
	return stop;
}

/*
 * Is it time to commit?
 */
static bool
transaction_is_full(Run *run)
{
	return run->transaction_rows >= run->batch_size ||
		run->nheld >= MOST_TENANTS ||
		GetCurrentTimestamp() - run->transaction_began > MOST_TRANSACTION_AGE;
}

/*
 * Counts the batch that was carried out.
 */
static void
count_batch(Run *run, const RetentionUnit *unit)
{
	run->record.deleted += unit->result.deleted;
	run->record.batches++;
	run->record.skipped_protected += unit->result.skipped_protected;
	run->transaction_rows += unit->result.deleted;
}

/*
 * Writes down what was done for a tenant, in the current transaction.
 */
static void
record_tenant(Run *run, const RetentionUnit *unit)
{
	const RetentionTenantRecord *record = &unit->record;
	MemoryContext caller = MemoryContextSwitchTo(run->scratch);

	if (record->deleted > 0 || record->skipped_locked > 0 ||
		record->skipped_protected > 0 || record->message != NULL)
		retention_history_tenant(run->history, run->writer, run->record.id,
								 record);
	MemoryContextSwitchTo(caller);
}

/*
 * Carries out the batches of a unit until none is left, an error, or a reason
 * to stop, which it returns.
 */
static const char *
carry_out_unit(Run *run, RetentionUnit *unit)
{
	int			attempts = 1;
	bool		ok = retention_unit_begin(unit);

	for (;;)
	{
		const char *stop;

		CHECK_FOR_INTERRUPTS();
		if (ok && !unit->has_batch)
			return NULL;
		if (ok)
			ok = retention_unit_execute(unit);
		if (ok)
		{
			attempts = 1;
			count_batch(run, unit);
			ok = retention_unit_next(unit);
			if (ok && (!unit->has_batch || !transaction_is_full(run)))
				continue;
		}
		if (!ok && (!retention_unit_may_succeed(unit) ||
					attempts++ >= MOST_ATTEMPTS))
			return NULL;

		/* the rest in another transaction */
		record_tenant(run, unit);
		stop = end_transaction(run, true);
		if (stop != NULL)
			return stop;
		ok = retention_unit_begin(unit);
	}
}

/*
 * Cleans one tenant, unless another cleanup is at it.  Returns the reason to
 * stop, or NULL.
 */
static const char *
clean_tenant(Run *run, Datum tenant)
{
	RetentionRunRecord *record = &run->record;
	RetentionUnit unit = {0};
	const char *stop;
	MemoryContext caller;

	Assert(run->nheld < MOST_TENANTS);
	if (!retention_try_lock_tenant(run->relid, tenant,
								   run->target.tenant_type,
								   run->target.tenant_collation,
								   &run->held[run->nheld]))
	{
		record->tenants_busy++;
		return NULL;
	}
	run->nheld++;

	record->current_tenant = &tenant;
	show_activity(run);
	unit.context = AllocSetContextCreate(run->context, "retention unit",
										 ALLOCSET_SMALL_SIZES);
	unit.batch_context = AllocSetContextCreate(unit.context,
											   "retention batch",
											   ALLOCSET_DEFAULT_SIZES);
	unit.record.tenant = tenant;
	unit.target = &run->target;
	unit.policies = run->policies;
	unit.now = run->now;
	unit.force = run->force;
	unit.batch_size = run->batch_size;
	caller = MemoryContextSwitchTo(unit.context);

	stop = carry_out_unit(run, &unit);
	retention_unit_end(&unit, stop != NULL);
	record_tenant(run, &unit);

	record->skipped_locked += unit.record.skipped_locked;
	record->tenants++;
	if (unit.record.message != NULL)
	{
		record->tenants_failed++;
		ereport(WARNING,
				(errcode(unit.record.sqlerrcode),
				 errmsg("could not clean tenant %s",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															tenant))),
				 errdetail("%s (SQLSTATE %s)", unit.record.message,
						   unpack_sql_state(unit.record.sqlerrcode))));
	}
	record->current_tenant = NULL;

	/* nothing of it is uncommitted: its lock is not needed any more */
	if (unit.record.batches == 0 && run->nheld > 0)
		retention_unlock_tenant(&run->held[--run->nheld]);

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(unit.context);
	return stop;
}

/*
 * Estimates, from a sample, how many rows the run will delete.  `passed` is
 * the policies if the current role is not the one to read them.
 */
static int64
estimate_rows(Run *run, bool as_owner, const List *passed)
{
	BlockNumber blocks = retention_target_blocks(run->relid);
	RetentionStatement statement;
	float4		percent;

	if (run->record.only_tenant != NULL || retention_apply_default_policy ||
		blocks == 0)
		return -1;
	percent = Min(100.0, 100.0 * SAMPLE_BLOCKS / blocks);
	statement = retention_query_estimate(&run->target, run->policies,
										 as_owner);
	return (int64) (retention_policy_sample(run->policies, &statement, passed,
											percent, run->now, run->force) *
					100.0 / percent);
}

/*
 * A step: finds the tenants for whom something is due, in the run's memory
 * context.
 *
 * Planning alone evaluates functions that stand in index expressions and the
 * like: where batches run as the table's owner, so does this.  The owner need
 * not see the policies; they are read before.
 */
static void
step_find_tenants(void *arg)
{
	Run		   *run = arg;
	RetentionStatement statement;
	RetentionScope scope;
	RetentionScope inner;
	MemoryContext caller;
	bool		as_owner = retention_scope_switches(run->target.owner);
	List	   *passed = NIL;

	retention_step_begin(&scope, "pg_catalog, pg_temp", InvalidOid);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (as_owner)
	{
		statement = retention_query_policies(run->policies);
		passed = retention_policy_list(run->policies, &statement, NULL);
	}
	retention_scope_begin(&inner, "pg_catalog, pg_temp", run->target.owner);
	statement = retention_query_due(&run->target, run->policies, as_owner,
									retention_apply_default_policy);
	caller = MemoryContextSwitchTo(run->context);
	run->tenants = retention_policy_due(run->policies, &statement, passed,
										run->now, run->record.only_tenant,
										run->force,
										retention_apply_default_policy,
										retention_default_retention_days);
	MemoryContextSwitchTo(caller);
	if (run->tenants != NIL)
		run->record.estimated = estimate_rows(run, as_owner, passed);
	retention_scope_end(&inner);
	PopActiveSnapshot();
	retention_scope_end(&scope);
}

/*
 * A step: a single tenant that a run is asked for has to have a policy.
 */
static void
step_check_tenant(void *arg)
{
	Run		   *run = arg;
	RetentionPolicy policy = {0};
	bool		found;

	found = retention_step_load_policy(run->policies,
									   *run->record.only_tenant, &policy);
	if (!found && !retention_apply_default_policy)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tenant \"%s\" has no retention policy",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															*run->record.only_tenant))),
				 errhint("Make one with retention.set_policy().")));
	if (found && !policy.is_enabled && !run->force)
		ereport(NOTICE,
				(errmsg("the policy of tenant %s is disabled",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															*run->record.only_tenant))),
				 errhint("To clean the tenant all the same, pass force => true.")));
}

/*
 * Settles how the run ended.
 */
static void
settle_status(RetentionRunRecord *record, const char *stop)
{
	record->finished = GetCurrentTimestamp();
	record->stop_reason = stop != NULL ? stop : "done";
	if (record->tenants_failed > 0 && record->tenants_failed == record->tenants &&
		record->deleted == 0)
		record->status = "failed";
	else if (record->tenants_failed > 0 || stop != NULL)
		record->status = "partial";
	else
		record->status = "succeeded";
}

/*
 * A step: finds out where everything is.
 */
static void
step_look_up(void *arg)
{
	Run		   *run = arg;
	RetentionScope scope;

	retention_step_begin(&scope, "pg_catalog, pg_temp", InvalidOid);
	run->policies = retention_policy_relid();
	run->relid = retention_installed_relid();
	retention_scope_end(&scope);
}

/*
 * The work of a run between its first record and its last.
 */
static void
carry_out(Run *run)
{
	RetentionRunRecord *record = &run->record;
	const char *stop;
	ListCell   *lc;

	MemoryContextSwitchTo(run->scratch);
	retention_must(step_look_up, run);
	SPI_commit();
	stop = begin_transaction(run);
	if (stop == NULL)
	{
		if (record->only_tenant != NULL)
			retention_must(step_check_tenant, run);
		show_activity(run);
		retention_must(step_find_tenants, run);
		record->tenants_due = list_length(run->tenants);
	}
	MemoryContextSwitchTo(run->context);

	foreach(lc, run->tenants)
	{
		stop = clean_tenant(run, PointerGetDatum(lfirst(lc)));
		if (stop == NULL && transaction_is_full(run) &&
			lnext(run->tenants, lc) != NULL)
			stop = end_transaction(run, false);
		if (stop != NULL)
			break;
	}

	MemoryContextSwitchTo(run->scratch);
	settle_status(record, stop);
	record_progress(run);
	commit(run, false);

	retention_history_prune(run->history, run->writer,
							retention_cutoff_before(run->now,
													retention_history_days));
	SPI_commit();
	MemoryContextSwitchTo(run->context);
}

/*
 * After an error that ends the run: undoes the transaction that is under way
 * and records what had been committed, and the error.
 */
static void
record_failure(Run *run, const ErrorData *error)
{
	const char *stop = error->sqlerrcode == ERRCODE_QUERY_CANCELED ?
	"cancelled" : "failed";

	SPI_rollback();
	unlock_tenants(run, 0);
	if (run->history != retention_own_relid(RETENTION_HISTORY_TABLE))
		elog(ERROR, "history of the run is gone");
	run->committed.waited_us = run->record.waited_us;
	run->committed.waited_for = run->record.waited_for;
	run->record = run->committed;
	run->record.status = run->record.stop_reason = stop;
	run->record.message = error->message;
	run->record.finished = GetCurrentTimestamp();
	run->record.current_tenant = NULL;
	run->record.waiting_for = NULL;
	record_progress(run);
	SPI_commit();
}

/*
 * Does what record_failure() does; the error that ended the run is not lost
 * if that cannot be done.
 */
static void
try_to_record_failure(Run *run, const ErrorData *error)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		record_failure(run, error);
	}
	PG_CATCH();
	{
		ErrorData  *another;

		MemoryContextSwitchTo(context);
		another = CopyErrorData();
		FlushErrorState();
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("could not record the end of the run"),
				 errdetail("%s", another->message)));
	}
	PG_END_TRY();
}

/*
 * Carries out the run.  Returns the error that ended it, recorded as far as
 * that was possible, or NULL.
 */
static ErrorData *
carry_out_or_record(Run *run)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		SPI_commit();
		run->committed = run->record;
		carry_out(run);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(run->context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	if (error != NULL)
		try_to_record_failure(run, (ErrorData *) error);
	return (ErrorData *) error;
}

/*
 * Tells the caller, and the log, what the run did.
 */
static void
report(const Run *run)
{
	const RetentionRunRecord *record = &run->record;
	double		seconds = (record->finished - record->started) / 1000000.0;

	if (record->tenants_due > 0 &&
		record->tenants_busy == record->tenants_due)
		ereport(NOTICE,
				(errmsg("all tenants that are due are being cleaned by others")));
	else
		ereport(NOTICE,
				(errmsg("retention run %s after %.1f s: " INT64_FORMAT
						" rows deleted, tenants cleaned: %d, left to others: %d",
						record->status, seconds, record->deleted,
						record->tenants - record->tenants_failed,
						record->tenants_busy),
				 record->skipped_locked + record->skipped_protected == 0 ? 0 :
				 errdetail("Due rows that stay: " INT64_FORMAT
						   " held by others, " INT64_FORMAT
						   " protected by foreign keys.",
						   record->skipped_locked,
						   record->skipped_protected)));
	if (record->tenants_failed > 0)
		ereport(WARNING,
				(errmsg_plural("%d tenant could not be cleaned",
							   "%d tenants could not be cleaned",
							   record->tenants_failed,
							   record->tenants_failed),
				 errhint("See retention.run_tenant for run " INT64_FORMAT ".",
						 record->id)));

	if (retention_log_min_duration < 0 ||
		seconds * 1000 < retention_log_min_duration)
		return;
	ereport(LOG,
			(errmsg("retention run " INT64_FORMAT " %s (%s): " INT64_FORMAT
					" rows, %d tenants, " INT64_FORMAT " batches\n"
					"left: " INT64_FORMAT " rows locked, " INT64_FORMAT
					" rows protected by foreign keys, %d tenants to other runs, %d tenants with errors\n"
					"WAL: " INT64_FORMAT " bytes; waited: %.1f s (%s); elapsed: %.1f s",
					record->id, record->status, record->stop_reason,
					record->deleted, record->tenants, record->batches,
					record->skipped_locked, record->skipped_protected,
					record->tenants_busy, record->tenants_failed,
					record->wal_bytes, record->waited_us / 1000000.0,
					record->waited_for ? record->waited_for : "nothing",
					seconds),
			 errhidestmt(true)));
}

/*
 * The microseconds of an interval argument.
 */
static int64
interval_microseconds(FunctionCallInfo fcinfo, int argno, const char *name)
{
	Interval   *interval = PG_GETARG_INTERVAL_P(argno);
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		result;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, interval->time, &result) || result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be negative or infinite",
						name),
				 errhint("NULL means the setting retention.%s.", name)));
	/* further than anybody can see, and safe to add to a timestamp */
	return Min(result, 100 * 365 * USECS_PER_DAY);
}

/*
 * Reads the arguments of retention.run(); what is not given comes from the
 * settings.
 */
static void
read_arguments(FunctionCallInfo fcinfo, Run *run)
{
	RetentionLimits *limits = &run->limits;

	if (!PG_ARGISNULL(0))
	{
		Datum	   *tenant = palloc(sizeof(Datum));

		*tenant = datumCopy(PG_GETARG_DATUM(0), false, UUID_LEN);
		run->record.only_tenant = tenant;
	}
	run->force = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	limits->max_runtime = PG_ARGISNULL(2) ? retention_max_runtime * 1000L :
		interval_microseconds(fcinfo, 2, "max_runtime");

	limits->max_rows_per_second = PG_ARGISNULL(3) ?
		retention_max_rows_per_second : PG_GETARG_INT32(3);
	if (limits->max_rows_per_second < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"max_rows_per_second\" must not be negative"),
				 errhint("0 means no limit.")));

	limits->max_lag_bytes = retention_max_replication_lag * 1024L;
	if (!PG_ARGISNULL(4))
	{
		int			kilobytes;
		const char *hint = NULL;

		if (!parse_int(text_to_cstring(PG_GETARG_TEXT_PP(4)), &kilobytes,
					   GUC_UNIT_KB, &hint) || kilobytes < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"max_replication_lag\" must be an amount of WAL"),
					 errhint("Write it like '64MB'; '0' means no limit.")));
		limits->max_lag_bytes = kilobytes * 1024L;
	}

	limits->pause = PG_ARGISNULL(5) ? retention_pause_between_batches * 1000L :
		interval_microseconds(fcinfo, 5, "pause_between_batches");

	run->batch_size = PG_ARGISNULL(6) ? retention_batch_size :
		PG_GETARG_INT32(6);
	if (run->batch_size < 1 || run->batch_size > RETENTION_MAX_BATCH_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"batch_size\" must be between 1 and %d",
						RETENTION_MAX_BATCH_SIZE),
				 errhint("NULL means the setting retention.batch_size.")));
}

/*
 * Fails unless the call may commit.
 */
static void
check_context(FunctionCallInfo fcinfo)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute retention.run() during recovery"),
				 errhint("Run it on the primary server.")));
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("retention.run() cannot run inside a transaction block"),
				 errdetail("It commits after each batch."),
				 errhint("Send CALL retention.run() as a statement of its own: not between BEGIN and COMMIT, in a function, or together with other statements.")));
	PreventCommandIfReadOnly("retention.run()");
}

/*
 * CALL retention.run(tenant uuid, force boolean, max_runtime interval,
 *					  max_rows_per_second integer, max_replication_lag text,
 *					  pause_between_batches interval, batch_size integer)
 *
 * Cleans the tenants for whom something is due, with the caller's rights (as
 * the table's owner when the caller is a superuser), and commits as it goes.
 */
Datum
retention_run(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext caller;
	Run		   *run;

	check_context(fcinfo);
	if (!retention_enabled)
	{
		ereport(WARNING,
				(errmsg("retention is switched off"),
				 errhint("Set retention.enabled to on.")));
		PG_RETURN_VOID();
	}

	context = AllocSetContextCreate(PortalContext, "retention run",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	run = palloc0(sizeof(Run));
	run->context = context;
	run->target_context = AllocSetContextCreate(context, "retention target",
												ALLOCSET_SMALL_SIZES);
	run->scratch = AllocSetContextCreate(context, "retention scratch",
										 ALLOCSET_DEFAULT_SIZES);
	read_arguments(fcinfo, run);
	run->record.started = run->now = GetCurrentTimestamp();
	run->record.status = "running";
	run->record.estimated = -1;
	run->wal_before = pgWalUsage.wal_bytes;

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	MemoryContextSwitchTo(context);
	run->history = retention_own_relid(RETENTION_HISTORY_TABLE);
	run->writer = retention_relation_owner(run->history);
	retention_history_interrupt(run->history, run->writer);
	retention_history_start(run->history, run->writer, &run->record);
	retention_lock_run(run->record.id);

	PG_TRY();
	{
		ErrorData  *error = carry_out_or_record(run);

		if (error != NULL)
			ReThrowError(error);
	}
	PG_FINALLY();
	{
		unlock_tenants(run, 0);
		retention_unlock_run(run->record.id);
	}
	PG_END_TRY();

	report(run);
	SPI_finish();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
