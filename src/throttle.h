/*
 * throttle.h
 *	  Whether a run may go on, has to wait, or has to stop.
 */
#ifndef RETENTION_THROTTLE_H
#define RETENTION_THROTTLE_H

#include "postgres.h"

/* The limits of a run; 0 is no limit.  Times are in microseconds. */
typedef struct RetentionLimits
{
	int64		max_runtime;
	int64		max_rows_per_second;
	int64		max_lag_bytes;
	int64		pause;
} RetentionLimits;

/* What the decision depends on.  Times are by retention_clock(). */
typedef struct RetentionProbe
{
	int64		now;
	int64		started;		/* of the run */
	int64		deadline;		/* of the statement; 0: none */
	int64		longest;		/* the longest transaction so far */
	int64		paced_until;	/* the rows deleted so far allow no more yet */
	int64		rested_until;	/* the pause after the last commit */
	int64		yields_until;	/* the rest for the sake of other sessions */
	int64		lag_bytes;
	char		laggard[NAMEDATALEN + 32];	/* who is behind by that */
} RetentionProbe;

typedef enum RetentionAction
{
	RETENTION_GO_ON,
	RETENTION_WAIT,
	RETENTION_STOP
} RetentionAction;

typedef struct RetentionVerdict
{
	RetentionAction action;
	int64		wait;			/* microseconds */
	const char *reason;
} RetentionVerdict;

extern RetentionVerdict retention_throttle_decide(const RetentionLimits *limits,
												  const RetentionProbe *probe);
extern int64 retention_throttle_pace(const RetentionLimits *limits,
									 int64 paced_until, int64 began,
									 int64 rows);
extern int64 retention_throttle_yield(const RetentionLimits *limits,
									  int64 began, int64 now);
extern void retention_throttle_probe_lag(Oid reader, RetentionProbe *probe);
extern bool retention_throttle_sees_others(void);
extern int64 retention_throttle_look_interval(void);

#endif							/* RETENTION_THROTTLE_H */
