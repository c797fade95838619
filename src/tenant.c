/*
 * tenant.c
 *	  Cleans one tenant in a run.
 *
 * Owns the order of a tenant's batches and transactions, what is tried again,
 * and what history says about the tenant.  Must not build SQL or commit by
 * itself.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "tenant.h"
#include "unit.h"

/* how often a batch is tried again after a deadlock or the like */
#define MOST_ATTEMPTS 4

/*
 * Counts the batch that was carried out.
 */
static void
count_batch(RetentionRun *run, const RetentionUnit *unit)
{
	run->record.deleted += unit->result.deleted;
	run->record.batches++;
	run->record.skipped_protected += unit->result.skipped_protected;
	run->rows += unit->result.deleted;
}

/*
 * Writes down what was done for a tenant, in the current transaction.
 */
static void
record_tenant(RetentionRun *run, RetentionUnit *unit)
{
	RetentionTenantRecord *record = &unit->record;
	MemoryContext caller = MemoryContextSwitchTo(run->scratch);

	if (record->deleted > 0 || record->skipped_locked > 0 ||
		record->skipped_protected > 0 || record->kept > 0 ||
		record->message != NULL)
		retention_history_tenant(run->history, run->writer, run->record.id,
								 record);
	MemoryContextSwitchTo(caller);
}

/*
 * Begins with a unit, or begins with it again; what a plan that is not made
 * again has met does not count any more.
 */
static bool
begin_unit(RetentionRun *run, RetentionUnit *unit)
{
	int64		skipped = unit->record.skipped_protected;
	bool		ok = retention_unit_begin(unit);

	run->record.skipped_protected -= skipped - unit->record.skipped_protected;
	return ok;
}

/*
 * Carries out the batches of a unit until none is left, an error, or a reason
 * to stop, which it returns.
 */
static const char *
carry_out_unit(RetentionRun *run, RetentionUnit *unit)
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
		if (ok && unit->result.waited)
		{
			/* whoever was waited for may have changed the policy as well */
			ok = begin_unit(run, unit);
			if (ok)
				continue;
		}
		else if (ok)
		{
			attempts = 1;
			count_batch(run, unit);
			ok = retention_unit_next(unit);
			/* one that took long is committed, and so is all before a wait */
			if (ok && (!unit->has_batch ||
					   !(retention_transaction_is_full(run) ||
						 unit->result.nrest > 0 ||
						 (unit->batch.wait_first && run->rows > 0))))
				continue;
		}
		if (!ok && (!retention_unit_may_succeed(unit) ||
					attempts++ >= MOST_ATTEMPTS))
			return NULL;

		/* the rest in another transaction */
		record_tenant(run, unit);
		stop = retention_transaction_end(run, true);
		if (stop != NULL)
			return stop;
		if (run->nheld == 0)
		{
			/* others may have cleaned the tenant meanwhile, or be at it */
			unit->lost = !retention_transaction_lock_again(run,
														   unit->record.tenant);
			if (unit->lost)
				return NULL;
			run->record.skipped_protected -= unit->record.skipped_protected;
			retention_unit_start_over(unit);
		}
		unit->batch_size = run->batch_size;
		ok = begin_unit(run, unit);
	}
}

/*
 * Cleans one tenant, unless another cleanup is at it.  `before` is what the run
 * has done for it already, or NULL.  Returns the reason to stop, or NULL.
 */
const char *
retention_tenant_clean(RetentionRun *run, Datum tenant,
					   const RetentionShare *before)
{
	RetentionRunRecord *record = &run->record;
	RetentionUnit unit = {0};
	const char *stop;
	MemoryContext caller;

	if (!retention_transaction_lock(run, tenant))
	{
		record->tenants_busy++;
		return NULL;
	}

	record->current_tenant = &tenant;
	retention_transaction_show(run);
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
	if (before != NULL)
	{
		unit.record.deleted = before->deleted;
		unit.record.batches = before->batches;
	}
	caller = MemoryContextSwitchTo(unit.context);

	stop = carry_out_unit(run, &unit);
	retention_unit_end(&unit, stop != NULL);
	record_tenant(run, &unit);

	record->skipped_locked += unit.record.skipped_locked;
	if (unit.lost)
		record->tenants_busy++;
	else
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

	/* nothing of it is uncommitted: its lock, if it is not lost, can go */
	if (unit.record.batches == (before != NULL ? before->batches : 0))
		retention_transaction_unlock_down(run, Max(0, run->nheld - 1));

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(unit.context);
	return stop;
}
