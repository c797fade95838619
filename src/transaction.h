/*
 * transaction.h
 *	  The transactions of a run.
 */
#ifndef RETENTION_TRANSACTION_H
#define RETENTION_TRANSACTION_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/lock.h"

#include "history.h"
#include "retention.h"
#include "throttle.h"

/* how many tenants are locked in a transaction; each takes a place in shared memory */
#define RETENTION_MOST_TENANTS 100

/* into how many parts, at most, several runs divide the table: bits of a uint64 */
#define RETENTION_MOST_SEGMENTS 64

/* What a run knows.  Lives in `context`, which outlives commits. */
typedef struct RetentionRun
{
	MemoryContext context;
	RetentionRunRecord record;
	RetentionRunRecord committed;	/* as it was at the last commit */
	RetentionLimits limits;
	bool		force;
	int			batch_size;		/* of this transaction */
	int			most_batch_size;	/* that was asked for */
	TimestampTz now;			/* the time of day, read once */
	int64		start;			/* of the run, by retention_clock() */
	int64		wal_before;

	Oid			history;
	Oid			writer;			/* owner of history */
	Oid			policies;
	Oid			relid;
	RetentionTarget target;		/* of this transaction */
	MemoryContext target_context;
	MemoryContext scratch;		/* reset at each commit */

	LOCKTAG		held[RETENTION_MOST_TENANTS];	/* of tenants in this
												 * transaction */
	int			nheld;
	bool		holds_walk;		/* retention_try_lock_walk() */
	uint64		segments;		/* of the table that a walk holds, as bits ... */
	uint64		walked;			/* ... those that go at the commit ... */
	uint64		marked;			/* ... and that went */
	int64		began;			/* the transaction, by retention_clock() */
	int64		rows;			/* deleted in it */
	int64		paced_until;
	int64		wait_noted_at;	/* when a wait was last put on record */
	int64		longest;		/* the longest transaction, in microseconds */
	int64		look_at;		/* when to look for other sessions again */
	int64		seen_at;		/* when some were last seen */
	bool		saw_others;		/* whether some were at the last look */
	int64		yields_until;	/* until when they count as at work */
	RetentionProbe probe;
	List	   *tenants;		/* RetentionDue */
	struct RetentionWalk *walk; /* over the table, or NULL */
} RetentionRun;

extern void retention_transaction_show(RetentionRun *run);
extern void retention_transaction_record(RetentionRun *run);
extern bool retention_transaction_lock(RetentionRun *run, Datum tenant);
extern bool retention_transaction_lock_again(RetentionRun *run, Datum tenant);
extern void retention_transaction_unlock(RetentionRun *run, int keep);
extern bool retention_transaction_lock_walk(RetentionRun *run);
extern void retention_transaction_unlock_walk(RetentionRun *run);
extern bool retention_transaction_lock_segment(RetentionRun *run,
											   uint32 segment, bool again);
extern void retention_transaction_leave_segment(RetentionRun *run,
												uint32 segment);
extern void retention_transaction_unlock_segments(RetentionRun *run);
extern void retention_transaction_unlock_one(RetentionRun *run, int number);
extern void retention_transaction_unlock_down(RetentionRun *run, int most);
extern void retention_transaction_commit(RetentionRun *run, bool keep_last);
extern void retention_transaction_flush(RetentionRun *run);
extern void retention_transaction_undo(RetentionRun *run);
extern void retention_transaction_look_around(RetentionRun *run);
extern void retention_transaction_hand_back(void);
extern const char *retention_transaction_begin(RetentionRun *run);
extern const char *retention_transaction_end(RetentionRun *run,
											 bool keep_last);
extern bool retention_transaction_is_full(RetentionRun *run);

#endif							/* RETENTION_TRANSACTION_H */
