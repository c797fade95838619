/*
 * preview.h
 *	  What a cleanup would do, counted.
 */
#ifndef RETENTION_PREVIEW_H
#define RETENTION_PREVIEW_H

#include "retention.h"

typedef struct RetentionPreview
{
	int64		total;			/* all rows of the tenant */
	int64		old;			/* older than the cutoff */
	int64		due;			/* what a cleanup would delete */
} RetentionPreview;

extern RetentionPreview retention_preview_tenant(const RetentionTarget *target,
												 Datum tenant,
												 TimestampTz cutoff,
												 int64 min_to_keep);
extern bool retention_preview_oldest_due(const RetentionTarget *target,
										 Datum tenant, TimestampTz cutoff,
										 int64 min_to_keep,
										 TimestampTz *oldest);

#endif							/* RETENTION_PREVIEW_H */
