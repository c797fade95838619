/*
 * bulk.h
 *	  Many tenants at once.
 */
#ifndef RETENTION_BULK_H
#define RETENTION_BULK_H

#include "retention.h"

#include "storage/block.h"
#include "utils/uuid.h"

#include "policy.h"
#include "scan.h"

/* A tenant of a run, what may go of it, and what went. */
typedef struct RetentionShare
{
	pg_uuid_t	tenant;
	TimestampTz oldest;			/* of its rows when it was listed */
	TimestampTz limit;			/* rows before it may go; -infinity: none */
	bool		ties;			/* some of that very instant may go, too */
	int64		due;			/* rows before the limit, up to `most` */
	bool		none[RETENTION_MAX_LEGS];	/* of them in this leg */
	int64		kept;			/* rows before the cutoff that the minimum
								 * keeps */
	int64		deleted;
	int64		batches;
	int64		pending;		/* of the statement that is under way */
	int64		uncommitted;	/* of the transaction that is under way */
	bool		touched;		/* in that transaction */
	bool		changed;		/* since it was recorded */
	bool		left;			/* something is to be done one by one */
	char		status;			/* of the hash table */
} RetentionShare;

/* Shares, found by tenant. */
typedef struct RetentionShares RetentionShares;

/* What one DELETE over blocks is to do, and how far it came. */
typedef struct RetentionStretch
{
	RetentionShares *shares;
	BlockNumber from;
	BlockNumber to;				/* not included */
	int64		most;			/* no new block once so many rows are found */
	BlockNumber reached;		/* blocks before this one are dealt with */
	int64		deleted;
} RetentionStretch;

extern RetentionShares *retention_shares_create(int64 count);
extern RetentionShare *retention_shares_add(RetentionShares *shares,
											Datum tenant);
extern RetentionShare *retention_shares_find(RetentionShares *shares,
											 Datum tenant);
extern int	retention_shares_list(RetentionShares *shares,
								  RetentionShare ***list);
extern void retention_share_look(const RetentionTarget *target,
								 RetentionScans *scans, RetentionShare *share,
								 const RetentionPolicy *policy,
								 TimestampTz now, int64 most);
extern void retention_shares_limited(RetentionShares *shares);
extern bool retention_bulk_is_possible(const RetentionTarget *target);
extern int64 retention_bulk_delete_tenants(const RetentionTarget *target,
										   RetentionShare **shares, int count,
										   int patience_ms);
extern void retention_bulk_delete_blocks(const RetentionTarget *target,
										 RetentionStretch *stretch,
										 int patience_ms);
extern void retention_bulk_leave_blocks(const RetentionTarget *target,
										RetentionStretch *stretch);
extern void retention_shares_settle(RetentionShares *shares, bool gone);
extern void retention_shares_end_transaction(RetentionShares *shares,
											 bool committed);

#endif							/* RETENTION_BULK_H */
