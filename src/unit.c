/*
 * unit.c
 *	  One tenant in a run.
 *
 * Each step is taken in a subtransaction: when it fails, the error is noted in
 * the unit's record and what was done before, for this and for other tenants,
 * stays.  Must not commit, build SQL or decide what comes next.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "guc.h"
#include "query.h"
#include "target.h"
#include "unit.h"

/*
 * Begins a scope and pins what a step of a run needs beside the search path:
 * no long wait for any lock, and no row-level security that would silently
 * hide rows.
 */
void
retention_step_begin(RetentionScope *scope, const char *search_path, Oid owner)
{
	char		value[16];

	retention_scope_begin(scope, search_path, owner);
	snprintf(value, sizeof(value), "%d", retention_lock_timeout);
	retention_pin_setting("lock_timeout", value);
	retention_pin_setting("row_security", "off");
}

/*
 * Loads the policy of a tenant as it is now, within a step, for a superuser as
 * the owner of the policies, as recording in them is done.  Returns false when
 * the tenant has none.
 */
bool
retention_step_load_policy(Oid policies, Datum tenant,
						   RetentionPolicy *policy)
{
	RetentionStatement statement = retention_query_policy(policies);
	RetentionScope scope;
	bool		found;

	retention_step_begin(&scope, "pg_catalog, pg_temp",
						 retention_relation_owner(policies));
	PushActiveSnapshot(GetTransactionSnapshot());
	found = retention_policy_load(policies, &statement, tenant, policy);
	PopActiveSnapshot();
	retention_scope_end(&scope);
	return found;
}

/*
 * A step: loads the policy and starts the plan.  The unit has no plan if the
 * tenant is not to be cleaned any more.
 */
static void
step_begin(void *arg)
{
	RetentionUnit *unit = arg;
	RetentionPlanOptions options = {0};
	RetentionScope scope;
	RetentionPolicy policy = {
		retention_default_retention_days,
		retention_default_min_executions_to_keep, true, (Datum) 0, false
	};
	bool		found;
	bool		same;

	found = retention_step_load_policy(unit->policies, unit->record.tenant,
									   &policy);
	if (found ? !(policy.is_enabled || unit->force) :
		!retention_apply_default_policy)
	{
		unit->plan = NULL;
		return;
	}
	same = unit->plan != NULL && found == unit->has_policy &&
		policy.retention_days == unit->policy.retention_days &&
		policy.min_to_keep == unit->policy.min_to_keep;
	for (int leg = 0; leg < unit->target->nlegs; leg++)
	{
		same = same && unit->types[leg] == unit->target->legs[leg].type;
		unit->types[leg] = unit->target->legs[leg].type;
	}
	unit->policy = policy;
	unit->has_policy = found;
	if (same)
	{
		retention_plan_committed(unit->plan);
		retention_plan_set_batch_size(unit->plan, unit->batch_size);
		return;
	}
	if (unit->plan != NULL)
		retention_unit_start_over(unit);

	options.cutoff = retention_cutoff_before(unit->now, policy.retention_days);
	options.min_to_keep = policy.min_to_keep;
	options.batch_size = unit->batch_size;
	options.lock_timeout_ms = retention_lock_timeout;
	options.skip_protected = true;
	retention_step_begin(&scope, retention_query_search_path(unit->target),
						 unit->target->owner);
	MemoryContextSwitchTo(unit->context);
	unit->plan = retention_plan_begin(unit->target, unit->record.tenant,
									  &options);
	retention_scope_end(&scope);
}

/*
 * A step: finds the next batch.
 */
static void
step_next(void *arg)
{
	RetentionUnit *unit = arg;
	RetentionScope scope;

	unit->has_batch = false;
	if (unit->plan == NULL)
		return;
	retention_step_begin(&scope, retention_query_search_path(unit->target),
						 unit->target->owner);
	unit->has_batch = retention_plan_next(unit->plan, &unit->batch);
	retention_scope_end(&scope);
}

/*
 * A step: carries out the batch.
 */
static void
step_execute(void *arg)
{
	RetentionUnit *unit = arg;
	RetentionScope scope;

	retention_step_begin(&scope, retention_query_search_path(unit->target),
						 unit->target->owner);
	retention_batch_execute(unit->target, unit->record.tenant,
							&unit->batch, &unit->result);
	retention_scope_end(&scope);
}

/*
 * A step: records in the policy what was deleted.
 */
static void
step_record(void *arg)
{
	RetentionUnit *unit = arg;
	RetentionStatement statement = retention_query_record(unit->policies);
	RetentionScope scope;
	char		patience[16];

	retention_step_begin(&scope, "pg_catalog, pg_temp",
						 retention_relation_owner(unit->policies));
	snprintf(patience, sizeof(patience), "%d", RETENTION_ROW_LOCK_PATIENCE_MS);
	retention_pin_setting("lock_timeout", patience);
	retention_policy_record(unit->policies, &statement,
							unit->record.tenant, GetCurrentTimestamp(),
							unit->record.deleted);
	retention_scope_end(&scope);
}

/*
 * Takes a step for a tenant.  Returns false when it failed; the error is then
 * noted.
 */
static bool
take_step(RetentionUnit *unit, void (*step) (void *arg))
{
	ErrorData  *error;

	MemoryContextReset(unit->batch_context);
	MemoryContextSwitchTo(unit->batch_context);
	error = retention_try(step, unit);
	MemoryContextSwitchTo(unit->context);
	if (error == NULL)
		return true;

	unit->record.sqlerrcode = error->sqlerrcode;
	unit->record.message = pstrdup(error->message);
	return false;
}

/*
 * Loads the policy and finds the first batch, or, in a later transaction, the
 * next one; there is none if the tenant is not to be cleaned any more.
 * Returns false on an error, as the following functions do.
 */
bool
retention_unit_begin(RetentionUnit *unit)
{
	return take_step(unit, step_begin) && take_step(unit, step_next);
}

/*
 * Finds the next batch.
 */
bool
retention_unit_next(RetentionUnit *unit)
{
	return take_step(unit, step_next);
}

/*
 * Carries out the batch that was found, counts what became of it and goes past
 * it; if it has waited for others (result.waited), it is to be found again.
 */
bool
retention_unit_execute(RetentionUnit *unit)
{
	RetentionResult *result = &unit->result;

	if (!take_step(unit, step_execute))
		return false;

	retention_plan_advance(unit->plan, &unit->batch, result);
	if (result->waited)
		return true;
	unit->record.deleted += result->deleted;
	unit->record.batches++;
	unit->record.skipped_protected += result->skipped_protected;

	/* a retry meets again what the first attempt counted */
	if (unit->target->may_keep && !unit->batch.is_retry)
		unit->record.kept += result->kept;
	if (unit->batch.is_retry)
		unit->record.skipped_locked += result->skipped_locked;
	else
		unit->skipped_at_first += result->skipped_locked;
	return true;
}

/*
 * May the step that has just failed succeed if it is taken again in another
 * transaction?  Then its error is forgotten.
 */
bool
retention_unit_may_succeed(RetentionUnit *unit)
{
	if (unit->record.sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED &&
		unit->record.sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE)
		return false;
	unit->record.sqlerrcode = 0;
	unit->record.message = NULL;
	return true;
}

/*
 * Forgets the plan, and the rows that it left, which will be met again.
 */
void
retention_unit_start_over(RetentionUnit *unit)
{
	if (unit->plan != NULL)
		retention_plan_end(unit->plan);
	unit->plan = NULL;
	unit->skipped_at_first = 0;
	unit->record.skipped_locked = 0;
	unit->record.skipped_protected = 0;
	unit->record.kept = 0;
}

/*
 * Records in the policy what was deleted; that this fails does not make the
 * cleanup a failure.
 */
void
retention_unit_note(RetentionUnit *unit)
{
	RetentionTenantRecord record = unit->record;

	if (!take_step(unit, step_record))
		ereport(WARNING,
				(errcode(unit->record.sqlerrcode),
				 errmsg("could not note in the policy of tenant %s that it was cleaned",
						DatumGetCString(DirectFunctionCall1(uuid_out,
															record.tenant))),
				 errdetail("%s", unit->record.message)));
	unit->record = record;
}

/*
 * Ends a unit.  `stopped` says that the run has stopped before it was done.
 */
void
retention_unit_end(RetentionUnit *unit, bool stopped)
{
	if (unit->record.deleted > 0 && unit->has_policy)
		retention_unit_note(unit);
	if (stopped)
		unit->record.skipped_locked += unit->skipped_at_first;
}
