/*
 * boundary.h
 *	  The line between the rows that may go and those that stay.
 */
#ifndef RETENTION_BOUNDARY_H
#define RETENTION_BOUNDARY_H

#include "retention.h"

#include "scan.h"

/* Which rows the minimum leaves to be deleted. */
typedef struct RetentionBoundary
{
	TimestampTz limit;			/* older rows may go */
	bool		ties;			/* and those of this very time, except ... */
	int64		keep[RETENTION_MAX_LEGS];	/* ... so many of each leg */
	int64		protected;		/* due rows among the newest */

	/* no row of the leg is older; -infinity if that is not known */
	TimestampTz oldest[RETENTION_MAX_LEGS];
} RetentionBoundary;

extern TimestampTz retention_cutoff_before(TimestampTz now, int32 days);
extern TimestampTz retention_instant_after(TimestampTz time);
extern RetentionBoundary retention_boundary_find(const RetentionTarget *target,
												 Datum tenant,
												 TimestampTz cutoff,
												 int64 minimum);
extern RetentionBoundary retention_boundary_look(const RetentionTarget *target,
												 RetentionScans *scans,
												 Datum tenant,
												 TimestampTz cutoff,
												 int64 minimum);
extern bool retention_boundary_has_rows(const RetentionTarget *target, int leg,
										Datum tenant);

#endif							/* RETENTION_BOUNDARY_H */
