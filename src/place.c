/*
 * place.c
 *	  Lists of places at which rows stand.
 *
 * A place is a table and a position in it: on a partitioned table the position
 * alone is not unique.  Reads only.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "place.h"
#include "query.h"
#include "spi_util.h"

/* A list of places that a query fills. */
typedef struct Collection
{
	RetentionPlace *places;
	int			count;
	int			allocated;
	int16		leg;
} Collection;

/* Sorted places from which a query takes some. */
typedef struct Sparing
{
	RetentionPlace *places;
	int			count;
	int16		leg;
} Sparing;

/*
 * The order of places: by leg, table and position.
 */
static int
compare_places(const void *a, const void *b)
{
	const RetentionPlace *left = a;
	const RetentionPlace *right = b;

	if (left->leg != right->leg)
		return left->leg < right->leg ? -1 : 1;
	if (left->tableoid != right->tableoid)
		return left->tableoid < right->tableoid ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &left->tid,
							  (ItemPointer) &right->tid);
}

/*
 * Reads a place from a row of a query.
 */
static void
read_place(TupleTableSlot *slot, int16 leg, RetentionPlace *place)
{
	bool		isnull;

	place->tableoid = DatumGetObjectId(slot_getattr(slot, 1, &isnull));
	place->tid = *(ItemPointer) DatumGetPointer(slot_getattr(slot, 2,
															 &isnull));
	place->leg = leg;
}

/*
 * Takes a place into a collection.
 */
static bool
take_place(TupleTableSlot *slot, void *arg)
{
	Collection *collection = arg;

	if (collection->count == collection->allocated)
	{
		collection->allocated = Max(collection->allocated * 2, 1024);
		if (collection->places == NULL)
			collection->places = palloc(collection->allocated *
										sizeof(RetentionPlace));
		else
			collection->places = repalloc_huge(collection->places,
											   collection->allocated *
											   sizeof(RetentionPlace));
	}
	read_place(slot, collection->leg,
			   &collection->places[collection->count++]);
	return true;
}

/*
 * Takes a place out of the places from which some are spared.
 */
static bool
spare_place(TupleTableSlot *slot, void *arg)
{
	Sparing    *sparing = arg;
	RetentionPlace place;
	RetentionPlace *found;

	read_place(slot, sparing->leg, &place);
	found = bsearch(&place, sparing->places, sparing->count,
					sizeof(RetentionPlace), compare_places);
	if (found != NULL)
	{
		sparing->count--;
		memmove(found, found + 1, (sparing->places + sparing->count - found) *
				sizeof(RetentionPlace));
	}
	return true;
}

/*
 * Runs the query for the places of a leg in a range of times: `count` of them
 * at most, without the first `skip`.
 */
static void
find_places(const RetentionTarget *target, int leg, Datum tenant,
			TimestampTz from, TimestampTz to, int64 skip, int64 count,
			RetentionRowFunction take, void *arg)
{
	Datum		values[5];

	values[0] = tenant;
	values[1] = TimestampTzGetDatum(from);
	values[2] = TimestampTzGetDatum(to);
	values[3] = Int64GetDatum(skip);
	values[4] = Int64GetDatum(count);
	retention_spi_execute(retention_query_plan(target,
											   RETENTION_QUERY_COLLECT, leg),
						  SPI_OK_SELECT, values, NULL, true, take, arg);
}

/*
 * Adds to `places`, in the current memory context, where the rows of a leg in
 * a range of times are: `count` of them at most, without the first `skip`.
 * Returns how many were added.
 */
int64
retention_places_collect(const RetentionTarget *target, int leg, Datum tenant,
						 TimestampTz from, TimestampTz to, int64 skip,
						 int64 count, RetentionPlace **places, int *nplaces)
{
	Collection	collection = {*places, *nplaces, *nplaces, leg};
	int64		added;

	find_places(target, leg, tenant, from, to, skip, count, take_place,
				&collection);
	added = collection.count - *nplaces;
	*places = collection.places;
	*nplaces = collection.count;
	return added;
}

/*
 * Takes out of sorted places where the first rows of a leg in a range of times
 * are, `count` of them.  Returns how many places are left.
 */
int
retention_places_spare(const RetentionTarget *target, int leg, Datum tenant,
					   TimestampTz from, TimestampTz to, int64 count,
					   RetentionPlace *places, int nplaces)
{
	Sparing		sparing = {places, nplaces, leg};

	find_places(target, leg, tenant, from, to, 0, count, spare_place,
				&sparing);
	return sparing.count;
}

/*
 * Sorts places by leg, table and position in it.
 */
void
retention_places_sort(RetentionPlace *places, int nplaces)
{
	qsort(places, nplaces, sizeof(RetentionPlace), compare_places);
}

/*
 * How many of the sorted places, at most `most`, are of the leg and the table
 * of the first one.
 */
int
retention_places_count_alike(const RetentionPlace *places, int nplaces, int most)
{
	int			count = 0;

	while (count < nplaces && count < most &&
		   places[count].leg == places[0].leg &&
		   places[count].tableoid == places[0].tableoid)
		count++;
	return count;
}
