/*
 * bulk.c
 *	  Many tenants at once.
 *
 * What goes of each of them is settled as for one tenant: the newest rows are
 * walked, and rows before the boundary may go.  One statement then deletes for
 * many: through the indexes for tenants with few rows each, or block by block
 * through the table, where much of it is due, with one look at each block
 * instead of one for each tenant in it.  Rows of the boundary's own instant,
 * of which some stay, are not touched here.
 *
 * Both are for plain tables.  Neither goes around a row that others hold or
 * that a foreign key protects: the statement fails as a whole, and such rows
 * are left to the cleanup of one tenant.  Must not commit.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/itemptr.h"
#include "utils/timestamp.h"

#include "boundary.h"
#include "bulk.h"
#include "query.h"
#include "spi_util.h"

/* A hash table of shares. */
#define SH_PREFIX sharetable
#define SH_ELEMENT_TYPE RetentionShare
#define SH_KEY_TYPE pg_uuid_t
#define SH_KEY tenant
#define SH_HASH_KEY(tb, key) hash_bytes((key).data, UUID_LEN)
#define SH_EQUAL(tb, a, b) (memcmp((a).data, (b).data, UUID_LEN) == 0)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

struct RetentionShares
{
	sharetable_hash *table;
	TimestampTz newest_limit;
	RetentionShare **touched;	/* in the transaction that is under way */
	int			ntouched;

	/* of the statement that is under way */
	RetentionStretch *stretch;
	int64		found;
	BlockNumber last;			/* the block of the row found last */
};

/*
 * The shares of the statement over blocks that is under way: an argument would
 * have to be of type internal, which no statement may pass.
 */
static RetentionShares *active = NULL;

PG_FUNCTION_INFO_V1(retention_is_due);

/*
 * Makes room for so many shares, in the current memory context.
 */
RetentionShares *
retention_shares_create(int64 count)
{
	RetentionShares *shares = palloc0(sizeof(RetentionShares));

	shares->table = sharetable_create(CurrentMemoryContext, count, NULL);
	shares->touched = palloc(count * sizeof(RetentionShare *));
	return shares;
}

/*
 * Adds a tenant, of whom nothing may go yet.  Not while shares are pointed to:
 * they may move.
 */
RetentionShare *
retention_shares_add(RetentionShares *shares, Datum tenant)
{
	bool		found;
	RetentionShare *share = sharetable_insert(shares->table,
											  *DatumGetUUIDP(tenant), &found);

	if (!found)
	{
		char		status = share->status;

		memset(share, 0, sizeof(*share));
		share->status = status;
		share->tenant = *DatumGetUUIDP(tenant);
		TIMESTAMP_NOBEGIN(share->limit);
	}
	return share;
}

/*
 * The share of a tenant, or NULL.
 */
RetentionShare *
retention_shares_find(RetentionShares *shares, Datum tenant)
{
	return sharetable_lookup(shares->table, *DatumGetUUIDP(tenant));
}

/*
 * Compares tenants as indexes on uuid do.
 */
static int
compare_shares(const void *a, const void *b)
{
	return memcmp((*(RetentionShare *const *) a)->tenant.data,
				  (*(RetentionShare *const *) b)->tenant.data, UUID_LEN);
}

/*
 * All shares as an array, in the order of tenants, in which indexes are read
 * and written best, in the current memory context; returns how many.
 */
int
retention_shares_list(RetentionShares *shares, RetentionShare ***list)
{
	sharetable_iterator iterator;
	RetentionShare *share;
	int			count = 0;

	*list = palloc(Max(1, shares->table->members) * sizeof(RetentionShare *));
	sharetable_start_iterate(shares->table, &iterator);
	while ((share = sharetable_iterate(shares->table, &iterator)) != NULL)
		(*list)[count++] = share;
	qsort(*list, count, sizeof(RetentionShare *), compare_shares);
	return count;
}

/*
 * Settles what may go of a tenant now, and counts up to `most` rows of that.
 * Needs the same as retention_boundary_look(), and scans.
 */
void
retention_share_look(const RetentionTarget *target, RetentionScans *scans,
					 RetentionShare *share, const RetentionPolicy *policy,
					 TimestampTz now, int64 most)
{
	Datum		tenant = UUIDPGetDatum(&share->tenant);
	TimestampTz cutoff = retention_cutoff_before(now, policy->retention_days);
	RetentionBoundary boundary;
	TimestampTz time;

	boundary = retention_boundary_look(target, scans, tenant, cutoff,
									   policy->min_to_keep);
	share->limit = boundary.limit;
	share->ties = boundary.ties;
	share->kept = boundary.protected;
	share->due = 0;
	memset(share->none, false, sizeof(share->none));
	if (share->oldest >= share->limit)
		return;
	for (int leg = 0; leg < target->nlegs && share->due < most; leg++)
	{
		int64		before = share->due;

		/* rows that never started are few, and often all have been seen */
		if (boundary.oldest[leg] < share->limit)
		{
			retention_scan_before(scans, leg, tenant, share->limit);
			while (share->due < most && retention_scan_next(scans, leg, &time))
				share->due++;
		}
		share->none[leg] = share->due == before;
	}
}

/*
 * To be called when limits have been set.
 */
void
retention_shares_limited(RetentionShares *shares)
{
	sharetable_iterator iterator;
	RetentionShare *share;

	TIMESTAMP_NOBEGIN(shares->newest_limit);
	sharetable_start_iterate(shares->table, &iterator);
	while ((share = sharetable_iterate(shares->table, &iterator)) != NULL)
		shares->newest_limit = Max(shares->newest_limit, share->limit);
}

/*
 * Can the functions below be used for this table?
 */
bool
retention_bulk_is_possible(const RetentionTarget *target)
{
	return target->is_plain && target->tenant_type == UUIDOID &&
		(target->nlegs == 1 ||
		 target->legs[0].type == target->legs[1].type);
}

/*
 * Counts a row that was deleted, to the share whose number comes with it.
 */
static bool
take_deleted(TupleTableSlot *slot, void *arg)
{
	RetentionShare **shares = arg;
	bool		isnull;

	shares[DatumGetInt64(slot_getattr(slot, 1, &isnull)) - 1]->pending++;
	return true;
}

/*
 * Deletes, through the indexes, the rows of these tenants before their limits,
 * in the legs where there were any at the look.  Returns how many it deleted,
 * which are also counted to the shares' `pending`.
 */
int64
retention_bulk_delete_tenants(const RetentionTarget *target,
							  RetentionShare **shares, int count,
							  int patience_ms)
{
	RetentionShare **asked = palloc(count * sizeof(RetentionShare *));
	Datum	   *tenants = palloc(count * sizeof(Datum));
	Datum	   *limits = palloc(count * sizeof(Datum));
	int64		deleted = 0;
	Datum		values[2];

	for (int i = 0; i < count; i++)
		shares[i]->pending = 0;
	retention_pin_lock_timeout(patience_ms);
	for (int leg = 0; leg < target->nlegs; leg++)
	{
		int			nasked = 0;

		for (int i = 0; i < count; i++)
		{
			if (shares[i]->none[leg])
				continue;
			tenants[nasked] = UUIDPGetDatum(&shares[i]->tenant);
			limits[nasked] = TimestampTzGetDatum(shares[i]->limit);
			asked[nasked++] = shares[i];
		}
		if (nasked == 0)
			continue;
		values[0] = retention_make_array(tenants, nasked, UUIDOID);
		values[1] = retention_make_array(limits, nasked,
										 target->legs[0].type);
		deleted += retention_spi_execute(retention_query_delete_tenants(target, leg),
										 SPI_OK_DELETE_RETURNING, values,
										 NULL, false, take_deleted, asked);
	}
	return deleted;
}

/*
 * retention.is_due(tenant uuid, started timestamp, created timestamp, place tid)
 *
 * Is this row one of those that the statement over blocks is to delete?  Counts
 * it if so.  No row is when no such statement is under way.  That a trigger
 * calls it makes the statement fail: the count is then too high.
 */
Datum
retention_is_due(PG_FUNCTION_ARGS)
{
	RetentionShares *shares = active;
	RetentionShare *share;
	TimestampTz time;
	BlockNumber block;

	if (shares == NULL || PG_ARGISNULL(0) || PG_ARGISNULL(3) ||
		(PG_ARGISNULL(1) && PG_ARGISNULL(2)))
		PG_RETURN_BOOL(false);
	time = PG_ARGISNULL(1) ? PG_GETARG_TIMESTAMPTZ(2) :
		PG_GETARG_TIMESTAMPTZ(1);
	if (time >= shares->newest_limit)
		PG_RETURN_BOOL(false);
	share = sharetable_lookup(shares->table, *PG_GETARG_UUID_P(0));
	if (share == NULL || time >= share->limit)
		PG_RETURN_BOOL(false);

	/* a trigger may pass anything */
	block = ItemPointerGetBlockNumberNoCheck((ItemPointer) PG_GETARG_POINTER(3));
	if (shares->found >= shares->stretch->most && block > shares->last)
	{
		shares->stretch->reached = Min(shares->stretch->reached, block);
		PG_RETURN_BOOL(false);
	}
	shares->found++;
	shares->last = block;
	share->pending++;
	if (!share->touched)
		shares->touched[shares->ntouched++] = share;
	share->touched = true;
	PG_RETURN_BOOL(true);
}

/*
 * Runs the statement of this kind over the blocks of a stretch.  Returns how
 * many rows it deleted or found.
 */
static int64
execute_blocks(const RetentionTarget *target, RetentionStretch *stretch,
			   RetentionQuery query, int expected)
{
	ItemPointerData from;
	ItemPointerData to;
	Datum		values[2];
	volatile int64 count = 0;

	ItemPointerSet(&from, stretch->from, 0);
	ItemPointerSet(&to, stretch->to, 0);
	values[0] = PointerGetDatum(&from);
	values[1] = PointerGetDatum(&to);
	stretch->reached = stretch->to;
	stretch->shares->stretch = stretch;

	Assert(active == NULL);
	active = stretch->shares;
	PG_TRY();
	{
		count = retention_spi_execute(retention_query_blocks(target, query),
									  expected, values, NULL,
									  expected == SPI_OK_SELECT, NULL, NULL);
	}
	PG_FINALLY();
	{
		active = NULL;
	}
	PG_END_TRY();
	return count;
}

/*
 * Deletes, block by block, the rows of a stretch of the table that are before
 * the limits of their tenants; sets how many there were and up to which block.
 * Fails, to be undone by the caller, unless all that were found went: a trigger
 * may have kept one, or somebody changed one meanwhile.  What was found counts
 * once retention_shares_settle() is told that it is gone.
 */
void
retention_bulk_delete_blocks(const RetentionTarget *target,
							 RetentionStretch *stretch, int patience_ms)
{
	retention_pin_lock_timeout(patience_ms);
	stretch->deleted = execute_blocks(target, stretch,
									  RETENTION_QUERY_DELETE_BLOCKS,
									  SPI_OK_DELETE);
	if (stretch->deleted != stretch->shares->found)
		elog(ERROR, "rows were changed while they were to be deleted");
}

/*
 * Marks the tenants of such rows in a stretch as left.
 */
void
retention_bulk_leave_blocks(const RetentionTarget *target,
							RetentionStretch *stretch)
{
	RetentionShares *shares = stretch->shares;

	stretch->most = PG_INT64_MAX;
	(void) execute_blocks(target, stretch, RETENTION_QUERY_FIND_BLOCKS,
						  SPI_OK_SELECT);
	for (int i = 0; i < shares->ntouched; i++)
		if (shares->touched[i]->pending > 0)
			shares->touched[i]->left = true;
	retention_shares_settle(shares, false);
}

/*
 * Counts the rows that a statement over blocks found as gone, or forgets them.
 */
void
retention_shares_settle(RetentionShares *shares, bool gone)
{
	for (int i = 0; i < shares->ntouched; i++)
	{
		RetentionShare *share = shares->touched[i];

		if (gone)
			share->uncommitted += share->pending;
		share->pending = 0;
	}
	shares->found = 0;
	shares->stretch = NULL;
}

/*
 * To be called when the transaction has ended: what was gone in it is gone for
 * good, or there again.
 */
void
retention_shares_end_transaction(RetentionShares *shares, bool committed)
{
	for (int i = 0; i < shares->ntouched; i++)
	{
		RetentionShare *share = shares->touched[i];

		if (committed && share->uncommitted > 0)
		{
			share->deleted += share->uncommitted;
			share->batches++;
			share->changed = true;
		}
		share->pending = share->uncommitted = 0;
		share->touched = false;
	}
	shares->ntouched = 0;
}
