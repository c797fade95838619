/*
 * api.c
 *	  The functions that SQL calls.
 *
 * Owns their arguments, privileges and results.  Must not commit.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "batch.h"
#include "compat.h"
#include "guc.h"
#include "install.h"
#include "lock.h"
#include "plan.h"
#include "policy.h"
#include "preview.h"
#include "query.h"
#include "spi_util.h"
#include "target.h"

/* a call leaves this part of its time limit unused, but at most 1 s */
#define TIME_RESERVE_PART 10

typedef enum StopReason
{
	STOP_DONE,
	STOP_MAX_BATCHES,
	STOP_TIME,
	STOP_LOCKED
} StopReason;

static const char *const stop_reasons[] = {
	"done", "max_batches", "time", "locked"
};

/* What one call of cleanup_old_executions() shall do and what it did. */
typedef struct Cleanup
{
	Datum		tenant;
	int32		retention_days;
	int32		min_to_keep;
	int32		batch_size;
	TimestampTz cutoff;
	TimestampTz started;

	RetentionResult total;		/* its skipped_locked: when it ended */
	int64		batches;
	int64		kept_by_minimum;
	StopReason	stop_reason;
	bool		has_more;
	const char *reason;			/* why nothing was deleted, or NULL */
} Cleanup;

/* What functions hold that only look at the table. */
typedef struct Reading
{
	RetentionScope outer;
	RetentionScope inner;
	RetentionTarget *target;
} Reading;

PG_FUNCTION_INFO_V1(retention_attach);
PG_FUNCTION_INFO_V1(retention_cutoff);
PG_FUNCTION_INFO_V1(retention_oldest_due);
PG_FUNCTION_INFO_V1(retention_due_tenants);
PG_FUNCTION_INFO_V1(retention_preview);
PG_FUNCTION_INFO_V1(retention_lock_tenant);
PG_FUNCTION_INFO_V1(retention_run_is_alive);
PG_FUNCTION_INFO_V1(retention_hold_walks);
PG_FUNCTION_INFO_V1(cleanup_old_executions);
PG_FUNCTION_INFO_V1(update_execution_retention_policies_updated_at);

/*
 * retention.attach(executions regclass) returns regclass
 *
 * Makes the table the one that is cleaned.  NULL looks for it by name.  In
 * the install script, where it may not exist yet, its absence is no error.
 */
Datum
retention_attach(PG_FUNCTION_ARGS)
{
	const char *messages = NULL;
	RetentionScope scope;
	Oid			relid;

	PreventCommandIfReadOnly("retention.attach()");

	SPI_connect();
	if (PG_ARGISNULL(0))
		relid = retention_install_find(creating_extension);
	else
		relid = PG_GETARG_OID(0);

	/* CREATE EXTENSION keeps notices from the client; ours are meant for it */
	if (creating_extension)
		messages = retention_compat_prior_setting("client_min_messages");
	retention_scope_begin(&scope, "pg_catalog, pg_temp", InvalidOid);
	if (messages != NULL)
		retention_pin_setting("client_min_messages", messages);

	if (OidIsValid(relid) || !PG_ARGISNULL(0))
		retention_install(relid);
	else
		ereport(NOTICE,
				(errmsg("table \"%s\" does not exist yet", RETENTION_TABLE),
				 errdetail("Nothing is cleaned until the table is attached."),
				 errhint("After creating it run: SELECT retention.attach();  A restore attaches it by itself.")));
	retention_scope_end(&scope);
	SPI_finish();

	if (!OidIsValid(relid))
		PG_RETURN_NULL();
	PG_RETURN_OID(relid);
}

/*
 * Fails unless the arguments of cleanup_old_executions() make sense.
 */
static void
check_arguments(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"p_tenant_id\" must not be null"),
				 errhint("Name the tenant whose executions shall be cleaned.")));
	if (!PG_ARGISNULL(1) && PG_GETARG_INT32(1) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"p_retention_days\" must not be negative"),
				 errhint("0 means everything before now; NULL means the tenant's policy.")));
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"p_min_executions_to_keep\" must not be negative"),
				 errhint("0 means no minimum; NULL means the tenant's policy.")));
	if (!PG_ARGISNULL(3) && (PG_GETARG_INT32(3) < 1 ||
							 PG_GETARG_INT32(3) > RETENTION_MAX_BATCH_SIZE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"p_batch_size\" must be between 1 and %d",
						RETENTION_MAX_BATCH_SIZE),
				 errhint("NULL means the setting retention.batch_size.")));
}

/*
 * May row-level security hide policies from the current user?
 */
static bool
may_be_hidden(Oid policy_relid)
{
	return check_enable_rls(policy_relid, InvalidOid, true) == RLS_ENABLED;
}

/*
 * Fills in what shall be done: an argument that is given, else the tenant's
 * policy, else the setting.
 */
static void
load_request(FunctionCallInfo fcinfo, Cleanup *cleanup)
{
	RetentionPolicy policy = {
		retention_default_retention_days,
		retention_default_min_executions_to_keep,
		true, (Datum) 0, false
	};

	cleanup->tenant = PG_GETARG_DATUM(0);
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
	{
		Oid			relid = retention_policy_relid();
		RetentionStatement statement = retention_query_policy(relid);
		RetentionScope scope;
		bool		found;

		retention_scope_begin(&scope, "pg_catalog, pg_temp",
							  retention_relation_owner(relid));
		/* as it is now: the lock of the tenant may have taken its time */
		PushActiveSnapshot(GetTransactionSnapshot());
		found = retention_policy_load(relid, &statement, cleanup->tenant,
									  &policy);
		PopActiveSnapshot();
		retention_scope_end(&scope);
		if (!found && may_be_hidden(relid))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("row-level security may hide the policy of the tenant"),
					 errhint("Pass p_retention_days and p_min_executions_to_keep, or clean as a role that sees the policy.")));
	}
	cleanup->retention_days =
		PG_ARGISNULL(1) ? policy.retention_days : PG_GETARG_INT32(1);
	cleanup->min_to_keep =
		PG_ARGISNULL(2) ? policy.min_to_keep : PG_GETARG_INT32(2);
	cleanup->batch_size =
		PG_ARGISNULL(3) ? retention_batch_size : PG_GETARG_INT32(3);
	cleanup->cutoff =
		retention_cutoff_before(GetCurrentTransactionStartTimestamp(),
								cleanup->retention_days);
}

/*
 * How many microseconds are left before a batch as long as the longest so far
 * would run into the time limit of the statement?  Not positive: none.
 */
static int64
time_left(const Cleanup *cleanup, TimestampTz longest)
{
	TimestampTz deadline = retention_compat_deadline();
	TimestampTz reserve;

	if (deadline == 0)
		return PG_INT64_MAX;
	reserve = (deadline - cleanup->started) / TIME_RESERVE_PART;
	reserve = Min(reserve, USECS_PER_SEC);
	return deadline - reserve - 2 * longest - GetCurrentTimestamp();
}

/*
 * Why nothing was deleted.
 */
static const char *
explain_nothing(const Cleanup *cleanup, const RetentionPlan *plan)
{
	if (retention_plan_is_empty(plan))
		return "no executions";
	if (retention_plan_nothing_due(plan))
		return "nothing that old";
	if (cleanup->stop_reason == STOP_TIME)
		return "out of time";
	if (cleanup->total.skipped_locked > 0)
		return "locked by other transactions";
	if (cleanup->total.kept > 0)
		return "kept by a trigger or by row-level security";
	if (cleanup->kept_by_minimum > 0)
		return "protected by the minimum";
	return "nothing that old";
}

/*
 * Cleans one tenant, batch after batch, in the current transaction.
 */
static void
clean_tenant(const RetentionTarget *target, Cleanup *cleanup)
{
	RetentionPlanOptions options = {0};
	RetentionPlan *plan;
	RetentionBatch batch;
	MemoryContext batch_context;
	MemoryContext caller_context;
	TimestampTz longest = 0;
	int64		skipped_at_first = 0;

	options.cutoff = cleanup->cutoff;
	options.min_to_keep = cleanup->min_to_keep;
	options.batch_size = cleanup->batch_size;
	options.lock_timeout_ms = retention_lock_timeout;

	plan = retention_plan_begin(target, cleanup->tenant, &options);
	batch_context = AllocSetContextCreate(CurrentMemoryContext,
										  "retention batch",
										  ALLOCSET_DEFAULT_SIZES);
	caller_context = MemoryContextSwitchTo(batch_context);

	while (retention_plan_next(plan, &batch))
	{
		TimestampTz before = GetCurrentTimestamp();
		RetentionResult result;
		int64		left = time_left(cleanup, longest);

		cleanup->has_more = true;
		if (retention_max_batches_per_call > 0 &&
			cleanup->batches >= retention_max_batches_per_call)
			cleanup->stop_reason = STOP_MAX_BATCHES;
		else if (left <= 0)
			cleanup->stop_reason = STOP_TIME;
		if (cleanup->stop_reason != STOP_DONE)
			break;
		cleanup->has_more = false;

		batch.patience_ms = Min(batch.patience_ms, 1 + left / 1000);
		retention_batch_execute(target, cleanup->tenant, &batch, &result);
		retention_plan_advance(plan, &batch, &result);
		if (result.waited)
			continue;

		if (!batch.is_retry)
		{
			skipped_at_first += result.skipped_locked;
			result.skipped_locked = 0;
		}
		retention_result_add(&cleanup->total, &result);
		cleanup->batches++;
		longest = Max(longest, GetCurrentTimestamp() - before);
		MemoryContextReset(batch_context);
	}
	MemoryContextSwitchTo(caller_context);

	if (cleanup->stop_reason != STOP_DONE)
		cleanup->total.skipped_locked = skipped_at_first;
	else if (cleanup->total.skipped_locked > 0)
	{
		cleanup->stop_reason = STOP_LOCKED;
		cleanup->has_more = true;
	}
	cleanup->kept_by_minimum = retention_plan_boundary(plan)->protected;
	if (cleanup->total.deleted == 0)
		cleanup->reason = explain_nothing(cleanup, plan);
}

/*
 * Adds a key and a time, or null, to the text of a JSON object.
 */
static void
append_json_time(StringInfo json, const char *key, TimestampTz time,
				 bool isnull)
{
	char		buffer[MAXDATELEN + 1];

	if (isnull)
		appendStringInfo(json, ", \"%s\": null", key);
	else
		appendStringInfo(json, ", \"%s\": \"%s\"", key,
						 JsonEncodeDateTime(buffer, TimestampTzGetDatum(time),
											TIMESTAMPTZOID, NULL));
}

/*
 * The execution_summary of a call.
 */
static Datum
make_summary(const Cleanup *cleanup)
{
	bool		nothing = cleanup->total.deleted == 0;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"tenant_id\": \"%s\"",
					 DatumGetCString(DirectFunctionCall1(uuid_out,
														 cleanup->tenant)));
	append_json_time(&json, "cutoff_date", cleanup->cutoff, false);
	appendStringInfo(&json, ", \"retention_days\": %d, \"min_to_keep\": %d"
					 ", \"batch_size\": %d, \"deleted\": " INT64_FORMAT
					 ", \"batches\": " INT64_FORMAT,
					 cleanup->retention_days, cleanup->min_to_keep,
					 cleanup->batch_size, cleanup->total.deleted,
					 cleanup->batches);
	append_json_time(&json, "oldest_deleted", cleanup->total.oldest, nothing);
	append_json_time(&json, "newest_deleted", cleanup->total.newest, nothing);
	appendStringInfo(&json, ", \"has_more\": %s, \"stop_reason\": \"%s\"",
					 cleanup->has_more ? "true" : "false",
					 stop_reasons[cleanup->stop_reason]);
	if (cleanup->reason != NULL)
		appendStringInfo(&json, ", \"reason\": \"%s\"", cleanup->reason);
	else
		appendStringInfoString(&json, ", \"reason\": null");
	appendStringInfo(&json, ", \"kept_by_minimum\": " INT64_FORMAT
					 ", \"skipped_locked\": " INT64_FORMAT
					 ", \"duration_ms\": %.3f}",
					 cleanup->kept_by_minimum,
					 cleanup->total.skipped_locked,
					 (GetCurrentTimestamp() - cleanup->started) / 1000.0);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/*
 * cleanup_old_executions(p_tenant_id uuid, p_retention_days integer,
 *						  p_min_executions_to_keep integer,
 *						  p_batch_size integer)
 * returns table (deleted_count integer, execution_summary jsonb)
 *
 * Deletes the executions of a tenant that are older than the retention and not
 * among its newest, with the caller's rights, in the caller's transaction.
 */
Datum
cleanup_old_executions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Cleanup		cleanup = {0};
	RetentionScope outer;
	RetentionScope inner;
	RetentionTarget *target;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	cleanup.started = GetCurrentTimestamp();
	check_arguments(fcinfo);
	PreventCommandIfReadOnly("cleanup_old_executions()");

	SPI_connect();
	retention_scope_begin(&outer, "pg_catalog, pg_temp", InvalidOid);

	target = retention_installed_open(RowExclusiveLock);
	retention_wait_for_tenant(target->relid, PG_GETARG_DATUM(0),
							  target->tenant_type, target->tenant_collation);
	load_request(fcinfo, &cleanup);

	/* a deferred trigger would not run as the table's owner but as you */
	if (target->owner != GetUserId() && superuser())
	{
		retention_scope_end(&outer);
		retention_spi_utility("SET CONSTRAINTS ALL IMMEDIATE");
		retention_scope_begin(&outer, "pg_catalog, pg_temp", InvalidOid);
	}
	retention_scope_begin(&inner, retention_query_search_path(target),
						  target->owner);
	clean_tenant(target, &cleanup);
	retention_scope_end(&inner);

	retention_scope_end(&outer);
	SPI_finish();

	InitMaterializedSRF(fcinfo, 0);
	values[0] = Int32GetDatum(Min(cleanup.total.deleted, PG_INT32_MAX));
	values[1] = make_summary(&cleanup);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/*
 * retention.lock_tenant(tenant uuid) returns void
 *
 * Waits until no cleanup of the tenant is under way and keeps others out until
 * the transaction ends.
 */
Datum
retention_lock_tenant(PG_FUNCTION_ARGS)
{
	RetentionScope scope;
	RetentionTarget *target;

	PreventCommandIfReadOnly("retention.lock_tenant()");
	SPI_connect();
	retention_scope_begin(&scope, "pg_catalog, pg_temp", InvalidOid);
	target = retention_installed_open(RowExclusiveLock);
	retention_wait_for_tenant(target->relid, PG_GETARG_DATUM(0),
							  target->tenant_type, target->tenant_collation);
	retention_scope_end(&scope);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * Connects to SPI and opens the table.
 */
static void
open_reading(Reading *reading)
{
	SPI_connect();
	retention_scope_begin(&reading->outer, "pg_catalog, pg_temp", InvalidOid);
	reading->target = retention_installed_open(AccessShareLock);
}

/*
 * Begins to look at the open table: for a superuser as its owner, because
 * planning alone evaluates functions that stand in its index expressions.
 */
static void
begin_reading(Reading *reading)
{
	retention_scope_begin(&reading->inner,
						  retention_query_search_path(reading->target),
						  reading->target->owner);
}

/*
 * Undoes open_reading() and begin_reading().
 */
static void
end_reading(Reading *reading)
{
	retention_scope_end(&reading->inner);
	retention_scope_end(&reading->outer);
	SPI_finish();
}

/*
 * retention.cutoff(at timestamptz, days integer) returns timestamptz
 *
 * The time that rows have to be older than; -infinity where it is out of
 * range.
 */
Datum
retention_cutoff(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(retention_cutoff_before(PG_GETARG_TIMESTAMPTZ(0),
												  PG_GETARG_INT32(1)));
}

/*
 * retention.oldest_due(tenant uuid, retention_days integer,
 *						min_executions_to_keep integer) returns timestamptz
 *
 * The effective time of the oldest row that a cleanup would delete now.
 */
Datum
retention_oldest_due(PG_FUNCTION_ARGS)
{
	TimestampTz cutoff;
	TimestampTz oldest = 0;
	Reading		reading;
	bool		found;

	if (PG_GETARG_INT32(1) < 0 || PG_GETARG_INT32(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arguments \"retention_days\" and \"min_executions_to_keep\" must not be negative")));
	cutoff = retention_cutoff_before(GetCurrentTransactionStartTimestamp(),
									 PG_GETARG_INT32(1));
	open_reading(&reading);
	begin_reading(&reading);
	found = retention_preview_oldest_due(reading.target, PG_GETARG_DATUM(0),
										 cutoff, PG_GETARG_INT32(2), &oldest);
	end_reading(&reading);
	if (!found)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(oldest);
}

/*
 * Puts a tenant and a time into the result.  No more are wanted after the
 * first that is not late.
 */
static bool
put_due_tenant(TupleTableSlot *slot, void *arg)
{
	ReturnSetInfo *rsinfo = arg;

	slot_getallattrs(slot);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
						 slot->tts_values, slot->tts_isnull);
	return slot->tts_isnull[2] || DatumGetBool(slot->tts_values[2]);
}

/*
 * retention.due_tenants(late interval)
 * returns table (tenant_id uuid, oldest_due timestamptz)
 *
 * The tenants for whom something is due, with what retention.oldest_due()
 * says of each, the longest overdue first, down to the first that is not
 * overdue for longer than `late`.
 */
Datum
retention_due_tenants(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	TimestampTz before = 0;
	RetentionStatement statement;
	Reading		reading;
	RetentionScope scope;
	Oid			policy_relid;
	Oid			policy_owner;
	List	   *passed = NIL;
	bool		apart;

	if (!PG_ARGISNULL(0))
		before = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
														 TimestampTzGetDatum(now),
														 PG_GETARG_DATUM(0)));
	InitMaterializedSRF(fcinfo, 0);
	open_reading(&reading);
	policy_relid = retention_policy_relid();
	policy_owner = retention_relation_owner(policy_relid);
	apart = retention_scope_switches(policy_owner) ||
		retention_scope_switches(reading.target->owner);
	if (apart)
	{
		statement = retention_query_policies(policy_relid);
		retention_scope_begin(&scope, "pg_catalog, pg_temp", policy_owner);
		passed = retention_policy_list(policy_relid, &statement, NULL);
		retention_scope_end(&scope);
	}
	begin_reading(&reading);
	statement = retention_query_oldest(reading.target, policy_relid, apart);
	retention_policy_oldest(policy_relid, &statement, passed, now,
							PG_ARGISNULL(0) ? NULL : &before,
							put_due_tenant, rsinfo);
	end_reading(&reading);
	return (Datum) 0;
}

/*
 * Puts the preview of one policy into the result.
 */
static void
put_preview(ReturnSetInfo *rsinfo, const RetentionTarget *target,
			const RetentionPolicy *policy)
{
	TimestampTz cutoff;
	RetentionPreview preview;
	Datum		values[9];
	bool		nulls[9] = {false};

	cutoff = retention_cutoff_before(GetCurrentTransactionStartTimestamp(),
									 policy->retention_days);
	preview = retention_preview_tenant(target, policy->tenant, cutoff,
									   policy->min_to_keep);
	values[0] = policy->tenant;
	values[1] = Int64GetDatum(preview.total);
	values[2] = Int64GetDatum(preview.old);
	values[3] = Int64GetDatum(preview.due);
	values[4] = TimestampTzGetDatum(cutoff);
	values[5] = Int32GetDatum(policy->retention_days);
	values[6] = Int32GetDatum(policy->min_to_keep);
	values[7] = BoolGetDatum(policy->is_enabled && preview.due > 0);
	values[8] = BoolGetDatum(policy->is_enabled);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * retention.preview(tenant uuid) returns table (...)
 *
 * What a run would delete: for each policy, or for one tenant, which need not
 * have a policy.
 */
Datum
retention_preview(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			policy_relid;
	RetentionStatement statement;
	RetentionScope scope;
	List	   *policies;
	Reading		reading;
	Datum		tenant = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);
	RetentionPolicy defaults = {
		retention_default_retention_days,
		retention_default_min_executions_to_keep,
		retention_apply_default_policy, tenant, false
	};
	MemoryContext tenant_context;
	MemoryContext caller_context;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	open_reading(&reading);
	policy_relid = retention_policy_relid();
	statement = retention_query_policies(policy_relid);
	retention_scope_begin(&scope, "pg_catalog, pg_temp",
						  retention_relation_owner(policy_relid));
	policies = retention_policy_list(policy_relid, &statement,
									 PG_ARGISNULL(0) ? NULL : &tenant);
	retention_scope_end(&scope);
	if (policies == NIL && !PG_ARGISNULL(0) && may_be_hidden(policy_relid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security may hide the policy of the tenant"),
				 errhint("Ask as a role that sees the policy.")));
	if (policies == NIL && !PG_ARGISNULL(0))
		policies = list_make1(&defaults);
	begin_reading(&reading);

	tenant_context = AllocSetContextCreate(CurrentMemoryContext,
										   "retention preview",
										   ALLOCSET_DEFAULT_SIZES);
	caller_context = MemoryContextSwitchTo(tenant_context);
	foreach(lc, policies)
	{
		CHECK_FOR_INTERRUPTS();
		put_preview(rsinfo, reading.target, lfirst(lc));
		MemoryContextReset(tenant_context);
	}
	MemoryContextSwitchTo(caller_context);
	end_reading(&reading);
	return (Datum) 0;
}

/*
 * retention.run_is_alive(run_id bigint) returns boolean
 *
 * Is the backend of this run still there?
 */
Datum
retention_run_is_alive(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(retention_run_lock_is_held(PG_GETARG_INT64(0)));
}

/*
 * Trigger function: waits for runs that walk over the table, and keeps them
 * from it until the transaction ends, as they do not look at a policy for each
 * batch.
 */
Datum
retention_hold_walks(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("retention.hold_walks() must be called by a trigger")));
	retention_wait_for_walks();
	return PointerGetDatum(NULL);
}

/*
 * Trigger function: sets updated_at to the current time.  The trigger's WHEN
 * says which changes count.
 */
Datum
update_execution_retention_policies_updated_at(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	rel;
	int			attnum;
	Datum		value = TimestampTzGetDatum(GetCurrentTimestamp());
	bool		isnull = false;
	HeapTuple	tuple;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("update_execution_retention_policies_updated_at() must be called by a BEFORE UPDATE trigger for each row")));

	rel = trigger->tg_relation;
	attnum = SPI_fnumber(RelationGetDescr(rel), "updated_at");
	if (attnum <= 0 ||
		SPI_gettypeid(RelationGetDescr(rel), attnum) != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" has no column \"updated_at\" of type timestamp with time zone",
						RelationGetRelationName(rel))));

	tuple = heap_modify_tuple_by_cols(trigger->tg_newtuple,
									  RelationGetDescr(rel), 1, &attnum,
									  &value, &isnull);
	return PointerGetDatum(tuple);
}
