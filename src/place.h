/*
 * place.h
 *	  Lists of places at which rows stand.
 */
#ifndef RETENTION_PLACE_H
#define RETENTION_PLACE_H

#include "retention.h"

#include "storage/itemptr.h"

/* Where a row stands, and in which leg it was found. */
typedef struct RetentionPlace
{
	Oid			tableoid;
	ItemPointerData tid;
	int16		leg;
} RetentionPlace;

extern int64 retention_places_collect(const RetentionTarget *target, int leg,
									  Datum tenant, TimestampTz from,
									  TimestampTz to, int64 skip, int64 count,
									  RetentionPlace **places, int *nplaces);
extern int	retention_places_spare(const RetentionTarget *target, int leg,
								   Datum tenant, TimestampTz from,
								   TimestampTz to, int64 count,
								   RetentionPlace *places, int nplaces);
extern void retention_places_sort(RetentionPlace *places, int nplaces);
extern int	retention_places_count_alike(const RetentionPlace *places,
										 int nplaces, int most);

#endif							/* RETENTION_PLACE_H */
