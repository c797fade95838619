/*
 * run.c
 *	  The procedure retention.run(): cleans every tenant that is due.
 *
 * Owns the arguments of a run, its course, and what is said about it in the
 * end.  Must not build SQL, read catalogs or commit by itself.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/int.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "boundary.h"
#include "clock.h"
#include "compat.h"
#include "guc.h"
#include "history.h"
#include "install.h"
#include "lock.h"
#include "many.h"
#include "policy.h"
#include "query.h"
#include "spi_util.h"
#include "target.h"
#include "throttle.h"
#include "transaction.h"
#include "unit.h"

/* how many blocks are read to estimate what is due */
#define SAMPLE_BLOCKS 300

PG_FUNCTION_INFO_V1(retention_run);

/*
 * Estimates, from a sample, how many rows the run will delete.  The policies
 * are given if the two tables are read `apart`.
 */
static int64
estimate_rows(RetentionRun *run, bool apart, const List *policies)
{
	BlockNumber blocks = retention_target_blocks(run->relid);
	RetentionStatement statement;
	float4		percent;

	if (run->record.only_tenant != NULL || retention_apply_default_policy ||
		blocks == 0)
		return -1;
	percent = Min(100.0, 100.0 * SAMPLE_BLOCKS / blocks);
	statement = retention_query_estimate(&run->target, run->policies, apart);
	return (int64) (retention_policy_sample(run->policies, &statement,
											policies, percent, run->now,
											run->force) *
					100.0 / percent);
}

/*
 * A step: finds the tenants for whom something is due, and estimates how much
 * it is.
 *
 * Planning alone evaluates functions that stand in index expressions and the
 * like: where batches run as the table's owner, so does this.  As the owner of
 * one table need not see the other, they are then read apart.
 */
static void
step_find_tenants(void *arg)
{
	RetentionRun *run = arg;
	RetentionStatement statement;
	RetentionScope scope;
	MemoryContext caller;
	Oid			owner = retention_relation_owner(run->policies);
	bool		apart = retention_scope_switches(owner) ||
	retention_scope_switches(run->target.owner);
	List	   *policies = NIL;

	if (apart)
	{
		retention_step_begin(&scope, "pg_catalog, pg_temp", owner);
		PushActiveSnapshot(GetTransactionSnapshot());
		statement = retention_query_policies(run->policies);
		policies = retention_policy_list(run->policies, &statement, NULL);
		PopActiveSnapshot();
		retention_scope_end(&scope);
	}

	retention_step_begin(&scope, "pg_catalog, pg_temp", run->target.owner);
	PushActiveSnapshot(GetTransactionSnapshot());
	statement = retention_query_due(&run->target, run->policies, apart,
									retention_apply_default_policy);
	caller = MemoryContextSwitchTo(run->context);
	run->tenants = retention_policy_due(run->policies, &statement, policies,
										run->now, run->record.only_tenant,
										run->force,
										retention_apply_default_policy,
										retention_default_retention_days);
	MemoryContextSwitchTo(caller);
	if (run->tenants != NIL)
		run->record.estimated = estimate_rows(run, apart, policies);
	PopActiveSnapshot();
	retention_scope_end(&scope);
}

/*
 * A step: a single tenant that a run is asked for has to have a policy.
 */
static void
step_check_tenant(void *arg)
{
	RetentionRun *run = arg;
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
	record->finished = Max(GetCurrentTimestamp(), record->started);
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
	RetentionRun *run = arg;
	RetentionScope scope;

	retention_step_begin(&scope, "pg_catalog, pg_temp", InvalidOid);
	run->policies = retention_policy_relid();
	run->relid = retention_installed_relid();
	retention_scope_end(&scope);
}

/*
 * Cleans the tenants that were found.  Returns the reason to stop, or NULL.
 */
static const char *
clean_tenants(RetentionRun *run)
{
	BlockNumber blocks = retention_target_blocks(run->relid);
	const char *stop;

	if (retention_many_is_worth_a_walk(run, blocks))
	{
		stop = retention_many_walk(run, blocks);
		if (stop != NULL)
			return stop;
	}
	return retention_many_clean(run);
}

/*
 * A step: removes history that is old.
 */
static void
step_prune(void *arg)
{
	RetentionRun *run = arg;

	retention_history_prune(run->history, run->writer,
							retention_cutoff_before(run->now,
													retention_history_days));
}

/*
 * Removes history that is old.  The run is over, whether or not this succeeds.
 */
static void
prune(RetentionRun *run)
{
	ErrorData  *error = retention_try(step_prune, run);

	if (error == NULL)
		return;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not remove old history"),
			 errdetail("%s", error->message),
			 errhint("The next run tries again.")));
	FreeErrorData(error);
}

/*
 * The work of a run between its first record and its last.
 */
static void
carry_out(RetentionRun *run)
{
	RetentionRunRecord *record = &run->record;
	const char *stop;

	MemoryContextSwitchTo(run->scratch);
	retention_must(step_look_up, run);
	retention_transaction_commit(run, false);
	stop = retention_transaction_begin(run);
	if (stop == NULL)
	{
		if (record->only_tenant != NULL)
			retention_must(step_check_tenant, run);
		retention_transaction_show(run);
		retention_must(step_find_tenants, run);
		record->tenants_due = list_length(run->tenants);
		retention_transaction_look_around(run);
		stop = clean_tenants(run);
	}

	MemoryContextSwitchTo(run->scratch);
	settle_status(record, stop);
	retention_transaction_record(run);
	/* this one: a transaction that writes nothing waits for no disk */
	retention_transaction_flush(run);

	prune(run);
	retention_transaction_commit(run, false);
	MemoryContextSwitchTo(run->context);
}

/*
 * After an error that ends the run: undoes the transaction that is under way
 * and records what had been committed, and the error.
 */
static void
record_failure(RetentionRun *run, const ErrorData *error)
{
	const char *stop = retention_is_cancel(error) ? "cancelled" : "failed";

	retention_many_settle(run);
	retention_transaction_undo(run);

	/* cancelled while it removed old history */
	if (run->committed.stop_reason != NULL)
		return;
	run->committed.waited_us = run->record.waited_us;
	run->committed.waited_for = run->record.waited_for;
	run->record = run->committed;
	run->record.status = run->record.stop_reason = stop;
	run->record.message = error->message;
	run->record.finished = Max(GetCurrentTimestamp(), run->record.started);
	run->record.current_tenant = NULL;
	run->record.waiting_for = NULL;
	retention_many_record(run);
	retention_transaction_record(run);
	retention_transaction_flush(run);
}

/*
 * Does what record_failure() does; the error that ended the run is not lost
 * if that cannot be done.
 */
static void
try_to_record_failure(RetentionRun *run, const ErrorData *error)
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
carry_out_or_record(RetentionRun *run)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		retention_transaction_flush(run);
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
report(const RetentionRun *run)
{
	const RetentionRunRecord *record = &run->record;
	double		seconds = (retention_clock() - run->start) / 1000000.0;

	if (record->tenants_due > 0 &&
		record->tenants_busy == record->tenants_due && record->deleted == 0)
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
read_arguments(FunctionCallInfo fcinfo, RetentionRun *run)
{
	RetentionLimits *limits = &run->limits;

	if (!PG_ARGISNULL(0))
	{
		Datum	   *tenant = palloc(sizeof(Datum));

		*tenant = datumCopy(PG_GETARG_DATUM(0), false, UUID_LEN);
		run->record.only_tenant = tenant;
	}
	run->force = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	limits->max_runtime = PG_ARGISNULL(2) ?
		retention_max_runtime * INT64CONST(1000) :
		interval_microseconds(fcinfo, 2, "max_runtime");

	limits->max_rows_per_second = PG_ARGISNULL(3) ?
		retention_max_rows_per_second : PG_GETARG_INT32(3);
	if (limits->max_rows_per_second < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"max_rows_per_second\" must not be negative"),
				 errhint("0 means no limit.")));

	limits->max_lag_bytes = retention_max_replication_lag * INT64CONST(1024);
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
		limits->max_lag_bytes = kilobytes * INT64CONST(1024);
	}

	limits->pause = PG_ARGISNULL(5) ?
		retention_pause_between_batches * INT64CONST(1000) :
		interval_microseconds(fcinfo, 5, "pause_between_batches");

	run->most_batch_size = PG_ARGISNULL(6) ? retention_batch_size :
		PG_GETARG_INT32(6);
	run->batch_size = run->most_batch_size;
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
	RetentionRun *run;

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
	run = palloc0(sizeof(RetentionRun));
	run->context = context;
	run->target_context = AllocSetContextCreate(context, "retention target",
												ALLOCSET_SMALL_SIZES);
	run->scratch = AllocSetContextCreate(context, "retention scratch",
										 ALLOCSET_DEFAULT_SIZES);
	read_arguments(fcinfo, run);
	run->record.started = run->now = GetCurrentTimestamp();
	run->start = run->began = retention_clock();
	run->record.status = "running";
	run->record.estimated = -1;
	run->wal_before = pgWalUsage.wal_bytes;

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	MemoryContextSwitchTo(context);
	if (IsolationUsesXactSnapshot())
		retention_transaction_flush(run);
	run->history = retention_own_relid(RETENTION_HISTORY_TABLE);
	run->writer = retention_relation_owner(run->history);
	retention_history_interrupt(run->history, run->writer);
	retention_history_start(run->history, run->writer, &run->record);
	retention_lock_run(run->record.id);
	retention_transaction_show(run);

	PG_TRY();
	{
		ErrorData  *error = carry_out_or_record(run);

		if (error != NULL)
			ReThrowError(error);
	}
	PG_FINALLY();
	{
		retention_transaction_unlock(run, 0);
		retention_many_release(run);
		retention_unlock_run(run->record.id);
	}
	PG_END_TRY();

	report(run);
	retention_transaction_hand_back();
	SPI_finish();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
