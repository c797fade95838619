/*
 * unit.h
 *	  One tenant in a run.
 */
#ifndef RETENTION_UNIT_H
#define RETENTION_UNIT_H

#include "batch.h"
#include "history.h"
#include "plan.h"
#include "policy.h"
#include "retention.h"
#include "spi_util.h"

typedef struct RetentionUnit
{
	/* set by the caller; record.tenant too */
	MemoryContext context;		/* outlives commits */
	MemoryContext batch_context;	/* reset at each step */
	const RetentionTarget *target;	/* as it is in this transaction */
	Oid			policies;
	TimestampTz now;			/* the clock of the run */
	bool		force;			/* clean although the policy is disabled */
	int			batch_size;

	/* what became of it */
	RetentionTenantRecord record;
	RetentionPolicy policy;
	bool		has_policy;
	Oid			types[RETENTION_MAX_LEGS];	/* of the plan's legs */
	RetentionPlan *plan;
	RetentionBatch batch;
	bool		has_batch;
	RetentionResult result;		/* of the last batch */
	int64		skipped_at_first;	/* locked rows that are to be tried again */
	bool		lost;			/* left to others before it was done */
} RetentionUnit;

extern void retention_step_begin(RetentionScope *scope,
								 const char *search_path, Oid owner);
extern bool retention_step_load_policy(Oid policies, Datum tenant,
									   RetentionPolicy *policy);
extern bool retention_unit_begin(RetentionUnit *unit);
extern bool retention_unit_next(RetentionUnit *unit);
extern bool retention_unit_execute(RetentionUnit *unit);
extern bool retention_unit_may_succeed(RetentionUnit *unit);
extern void retention_unit_start_over(RetentionUnit *unit);
extern void retention_unit_note(RetentionUnit *unit);
extern void retention_unit_end(RetentionUnit *unit, bool stopped);

#endif							/* RETENTION_UNIT_H */
