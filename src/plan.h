/*
 * plan.h
 *	  What may go of one tenant, batch by batch.
 */
#ifndef RETENTION_PLAN_H
#define RETENTION_PLAN_H

#include "retention.h"

#include "utils/snapshot.h"

#include "boundary.h"
#include "place.h"

/*
 * The next rows to delete: all in a half-open range of effective times, or
 * those of them at certain places, which are then of one leg and one table.
 */
typedef struct RetentionBatch
{
	TimestampTz from;
	TimestampTz to;
	int64		planned[RETENTION_MAX_LEGS];	/* rows expected in the range */
	TimestampTz oldest;			/* their times, unless places or is_retry */
	TimestampTz newest;
	RetentionPlace *places;		/* NULL: the whole range */
	int			nplaces;
	int			patience_ms;	/* how long to wait for a row lock */
	bool		wait_first;		/* wait, and let the batch be found again */
	bool		is_retry;
	bool		is_rest;		/* of a batch that took too long */
	bool		skip_protected; /* else a foreign key violation is an error */
} RetentionBatch;

/* What became of a batch. */
typedef struct RetentionResult
{
	int64		deleted;
	int64		skipped_locked; /* others hold them */
	int64		skipped_protected;	/* foreign keys protect them */
	int64		kept;			/* a trigger or row-level security kept them */
	bool		waited;			/* for rows of others, and has done nothing:
								 * the batch is to be found again */
	RetentionPlace *rest;		/* what it has not come to, in memory of the
								 * batch */
	int			nrest;
	TimestampTz oldest;			/* effective times of what was deleted */
	TimestampTz newest;
} RetentionResult;

typedef struct RetentionPlanOptions
{
	TimestampTz cutoff;
	int64		min_to_keep;
	int			batch_size;
	int			lock_timeout_ms;	/* patience for the rows that were locked */
	bool		skip_protected; /* go around rows that foreign keys protect */
	Snapshot	snapshot;		/* look under this one, else a new one each */
} RetentionPlanOptions;

typedef struct RetentionPlan RetentionPlan;

extern RetentionPlan *retention_plan_begin(const RetentionTarget *target,
										   Datum tenant,
										   const RetentionPlanOptions *options);
extern bool retention_plan_next(RetentionPlan *plan, RetentionBatch *batch);
extern void retention_plan_advance(RetentionPlan *plan,
								   const RetentionBatch *batch,
								   const RetentionResult *result);
extern void retention_plan_set_batch_size(RetentionPlan *plan, int batch_size);
extern void retention_plan_end(RetentionPlan *plan);
extern void retention_plan_committed(RetentionPlan *plan);
extern const RetentionBoundary *retention_plan_boundary(RetentionPlan *plan);
extern bool retention_plan_nothing_due(const RetentionPlan *plan);
extern bool retention_plan_is_empty(const RetentionPlan *plan);

#endif							/* RETENTION_PLAN_H */
