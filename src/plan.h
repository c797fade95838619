/*
 * plan.h
 *	  What may go of one tenant, batch by batch.
 */
#ifndef RETENTION_PLAN_H
#define RETENTION_PLAN_H

#include "retention.h"

#include "storage/itemptr.h"
#include "utils/snapshot.h"

/* Where a row stands, and in which leg it was found. */
typedef struct RetentionPlace
{
	Oid			tableoid;
	ItemPointerData tid;
	int16		leg;
} RetentionPlace;

/*
 * The next rows to delete: all in a half-open range of effective times, or
 * those of them at certain places, which are then of one leg and one table.
 */
typedef struct RetentionBatch
{
	TimestampTz from;
	TimestampTz to;
	int64		planned[RETENTION_MAX_LEGS];	/* rows expected in the range */
	RetentionPlace *places;		/* NULL: the whole range */
	int			nplaces;
	int			patience_ms;	/* how long to wait for a row lock */
	bool		is_retry;
} RetentionBatch;

/* What became of a batch. */
typedef struct RetentionResult
{
	int64		deleted;
	int64		skipped_locked; /* others hold them */
	int64		kept;			/* a trigger or row-level security kept them */
	TimestampTz oldest;			/* effective times of what was deleted */
	TimestampTz newest;
} RetentionResult;

/* Which rows the minimum leaves to be deleted. */
typedef struct RetentionBoundary
{
	TimestampTz limit;			/* older rows may go */
	bool		ties;			/* and those of this very time, except ... */
	int64		keep[RETENTION_MAX_LEGS];	/* ... so many of each leg */
	int64		protected;		/* due rows among the newest */
} RetentionBoundary;

typedef struct RetentionPlanOptions
{
	TimestampTz cutoff;
	int64		min_to_keep;
	int			batch_size;
	int			lock_timeout_ms;	/* patience for the rows that were locked */
	bool		commits;		/* the caller commits between batches */
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
extern void retention_plan_committed(RetentionPlan *plan);
extern const RetentionBoundary *retention_plan_boundary(RetentionPlan *plan);
extern TimestampTz retention_plan_oldest(RetentionPlan *plan);
extern TimestampTz retention_plan_instant_after(TimestampTz time);
extern bool retention_plan_nothing_due(const RetentionPlan *plan);
extern bool retention_plan_is_empty(const RetentionPlan *plan);
extern TimestampTz retention_plan_cutoff(TimestampTz now, int32 days);
extern int64 retention_plan_collect(const RetentionTarget *target, int leg,
									Datum tenant, TimestampTz from,
									TimestampTz to, int64 skip, int64 count,
									RetentionPlace **places, int *nplaces);
extern void retention_plan_sort_places(RetentionPlace *places, int nplaces);
extern int	retention_plan_count_alike(const RetentionPlace *places,
									   int nplaces, int most);

#endif							/* RETENTION_PLAN_H */
