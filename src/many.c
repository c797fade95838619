/*
 * many.c
 *	  Cleans the tenants of a run.
 *
 * Owns how the tenants that are due share transactions.  Three ways: one by one
 * (tenant.c), for tenants with much to do and for all trouble; in groups,
 * whose few rows one statement deletes through the indexes; and block by block
 * through the table, where much of it is due.  The last two go only as far as
 * nothing is in the way.  What they leave is then done one by one, with all
 * that belongs to it.  Must not build SQL.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "bulk.h"
#include "clock.h"
#include "guc.h"
#include "history.h"
#include "lock.h"
#include "many.h"
#include "policy.h"
#include "query.h"
#include "spi_util.h"
#include "target.h"
#include "tenant.h"
#include "unit.h"

/*
 * When to walk over the table.  A block of the table costs about as much as two
 * of the rows that are found through an index, in memory; from disk, where the
 * walk reads in order, it costs far less.  With a few tenants there is little
 * to be won: each is cleaned in one go anyway.
 */
#define WALK_LEAST_ROWS_PER_BLOCK 2
#define WALK_LEAST_TENANTS 10

/* for how many tenants limits are kept in memory; others come after the walk */
#define WALK_MOST_TENANTS 100000

/* of what size, at least, the parts are into which several runs divide the table */
#define LEAST_SEGMENT_BLOCKS 256

/* how many blocks one statement looks at, at most */
#define MOST_BLOCKS 1024

/* how many statements in a row may fail before a walk is given up */
#define MOST_FAILURES 10

/* how old limits may be, in microseconds, beside 20 times what the look cost */
#define LIMITS_MOST_AGE (100 * 1000)

/* how often a walk writes down what it did for each tenant, in microseconds */
#define RECORD_INTERVAL (10 * USECS_PER_SEC)

/* for how many tenants policies are read, or written, at once */
#define POLICIES_AT_ONCE 1000

/* What became of a tenant in a group. */
typedef enum Fate
{
	NOT_REACHED,
	LEFT_OUT,					/* not to be cleaned any more */
	BUSY,						/* another cleanup is at it */
	NOTHING_DUE,
	MEMBER,						/* of those that one statement cleans */
	ONE_BY_ONE
} Fate;

/* Tenants that are looked at together. */
typedef struct TenantGroup
{
	RetentionRun *run;
	const RetentionTarget *target;
	int			count;
	Datum		tenants[RETENTION_MOST_TENANTS];
	RetentionPolicy policies[RETENTION_MOST_TENANTS];
	RetentionShare shares[RETENTION_MOST_TENANTS];
	Fate		fates[RETENTION_MOST_TENANTS];
	int			locks[RETENTION_MOST_TENANTS];	/* in run->held, or -1 */
	int			reached;
	bool		failed;
	bool		full;			/* the next tenant did not fit */
	RetentionShare *members[RETENTION_MOST_TENANTS];
	int			nmembers;
	int64		due;			/* of the members */
	int64		deleted;
} TenantGroup;

/* What is to be written down for tenants. */
typedef struct Note
{
	RetentionRun *run;
	Datum	   *tenants;
	Datum	   *deleted;
	Datum	   *batches;
	int			count;
	bool		around;			/* policies that others hold ... */
	RetentionHeld held;			/* ... which are these */
} Note;

/* A walk over the table. */
typedef struct RetentionWalk
{
	RetentionRun *run;
	RetentionShares *shares;
	int			count;
	RetentionShare **list;		/* all of them */
	RetentionPolicy *policies;	/* of them, in this order */
	Datum	   *tenants;
	int64		looked_at;		/* when the limits were settled ... */
	int64		look_cost;		/* ... and how long that took */
	int64		recorded_at;
	RetentionStretch stretch;
	int			failures;
	Oid			file;			/* blocks of another one have other rows */
	uint32		nsegments;
	bool		seen[RETENTION_MOST_SEGMENTS];	/* from end to end */
	int			unseen;			/* how many are not */
} RetentionWalk;

/*
 * The policy that counts where a tenant has none.
 */
static RetentionPolicy
default_policy(void)
{
	RetentionPolicy policy = {
		retention_default_retention_days,
		retention_default_min_executions_to_keep, true, (Datum) 0, false
	};

	return policy;
}

/*
 * Is a tenant with this policy, or without one, still to be cleaned?
 */
static bool
is_wanted(const RetentionRun *run, const RetentionPolicy *policy)
{
	return policy->is_found ? policy->is_enabled || run->force :
		retention_apply_default_policy;
}

/*
 * A step: records in the policies what was deleted.
 */
static void
step_note(void *arg)
{
	Note	   *note = arg;
	RetentionStatement statement = retention_query_record_many(note->run->policies,
															   note->around);
	RetentionScope scope;

	retention_step_begin(&scope, "pg_catalog, pg_temp",
						 retention_relation_owner(note->run->policies));
	retention_pin_lock_timeout(RETENTION_ROW_LOCK_PATIENCE_MS);
	PushActiveSnapshot(GetTransactionSnapshot());
	retention_policy_record_many(note->run->policies, &statement,
								 note->around ? &note->held : NULL,
								 note->tenants, note->deleted, note->count,
								 GetCurrentTimestamp());
	PopActiveSnapshot();
	retention_scope_end(&scope);
}

/*
 * Did a step fail because another session holds something?
 */
static bool
is_of_a_lock(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/*
 * Records in the policies of these tenants that they were cleaned, except in
 * those that somebody holds for long or that cannot be written.
 */
static void
note_in_policies(Note *note, MemoryContext context)
{
	ErrorData  *error = retention_try(step_note, note);
	MemoryContext scratch;

	if (error != NULL && is_of_a_lock(error))
	{
		note->around = true;
		error = retention_try(step_note, note);
		if (error == NULL && note->held.count > 0)
			ereport(WARNING,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not note in all policies that their tenants were cleaned"),
					 errdetail("Other sessions hold " INT64_FORMAT
							   " of them, that of tenant %s among them.",
							   note->held.count, note->held.tenant)));
	}
	if (error == NULL)
		return;
	if (note->around && is_of_a_lock(error))
	{
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not note in the policies that tenants were cleaned"),
				 errdetail("%s", error->message)));
		return;
	}

	/* one of them is in the way; that one is warned of */
	scratch = AllocSetContextCreate(context, "retention note",
									ALLOCSET_SMALL_SIZES);
	for (int i = 0; i < note->count; i++)
	{
		RetentionUnit unit = {0};

		unit.context = context;
		unit.batch_context = scratch;
		unit.policies = note->run->policies;
		unit.has_policy = true;
		unit.record.tenant = note->tenants[i];
		unit.record.deleted = DatumGetInt64(note->deleted[i]);
		retention_unit_note(&unit);
	}
}

/*
 * Writes down what has changed for these tenants, in their policies and in
 * history, in the current transaction.  That a policy cannot be written does
 * not make a cleanup a failure.  Returns whether anything has changed.
 */
static bool
note_shares(RetentionRun *run, RetentionShare **shares, int count)
{
	MemoryContext context = AllocSetContextCreate(run->context,
												  "retention notes",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Note		note = {.run = run};

	note.tenants = palloc(Max(1, count) * sizeof(Datum));
	note.deleted = palloc(Max(1, count) * sizeof(Datum));
	note.batches = palloc(Max(1, count) * sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		if (!shares[i]->changed)
			continue;
		note.tenants[note.count] = UUIDPGetDatum(&shares[i]->tenant);
		note.deleted[note.count] = Int64GetDatum(shares[i]->deleted);
		note.batches[note.count++] = Int64GetDatum(shares[i]->batches);
	}

	if (note.count > 0)
	{
		note_in_policies(&note, context);
		retention_history_tenants(run->history, run->writer, run->record.id,
								  note.tenants, note.deleted, note.batches,
								  note.count);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return note.count > 0;
}

/*
 * Reads the policies of these tenants, within a step.  Where a tenant has none,
 * what counts then is filled in.
 */
static void
read_policies(RetentionRun *run, const Datum *tenants, int count,
			  RetentionPolicy *policies)
{
	RetentionStatement statement = retention_query_policies_of(run->policies);
	RetentionScope scope;

	retention_step_begin(&scope, "pg_catalog, pg_temp",
						 retention_relation_owner(run->policies));

	/* who holds the table of policies may want what a walk holds */
	retention_pin_giving_in();
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < count; i++)
		policies[i] = default_policy();
	for (int i = 0; i < count; i += POLICIES_AT_ONCE)
		retention_policy_load_many(run->policies, &statement, tenants + i,
								   Min(POLICIES_AT_ONCE, count - i),
								   policies + i);
	PopActiveSnapshot();
	retention_scope_end(&scope);
}

/*
 * Takes a step of a group or a walk.  Returns false when it failed; whatever
 * went wrong is left to the cleanup of one tenant, which knows what to do about
 * it.
 */
static bool
try_step(RetentionRun *run, void (*step) (void *arg), void *arg)
{
	MemoryContext caller = MemoryContextSwitchTo(run->scratch);
	ErrorData  *error = retention_try(step, arg);

	if (error != NULL)
		FreeErrorData(error);
	MemoryContextSwitchTo(caller);
	return error == NULL;
}

/*
 * A step: locks the tenants of a group, for all of whom there is room, and reads
 * their policies.  Only then: whoever had a tenant may have changed its policy.
 */
static void
step_lock_group(void *arg)
{
	TenantGroup *group = arg;
	RetentionRun *run = group->run;

	for (int i = 0; i < group->count; i++)
	{
		if (!retention_transaction_lock(run, group->tenants[i]))
			group->fates[i] = BUSY;
		else
			group->locks[i] = run->nheld - 1;
	}
	read_policies(run, group->tenants, group->count, group->policies);
	for (int i = 0; i < group->count; i++)
	{
		if (!is_wanted(run, &group->policies[i]))
			group->fates[i] = LEFT_OUT;
	}
}

/*
 * Gives back the locks of those for whom nothing is done in this transaction,
 * or not yet.
 */
static void
unlock_others(TenantGroup *group)
{
	for (int i = group->count - 1; i >= 0; i--)
	{
		if (group->locks[i] >= 0 && group->fates[i] != MEMBER)
			retention_transaction_unlock_one(group->run, group->locks[i]);
	}
}

/*
 * Settles the fate of one tenant of a group that is locked.  Returns false if
 * it does not fit into the group any more.
 */
static bool
join_group(TenantGroup *group, int i, RetentionScans *scans)
{
	RetentionRun *run = group->run;
	RetentionShare *share = &group->shares[i];

	if (group->locks[i] < 0 || group->fates[i] == LEFT_OUT)
		return true;
	retention_share_look(group->target, scans, share, &group->policies[i],
						 run->now, run->batch_size + 1);
	if (share->ties || share->due > run->batch_size)
		group->fates[i] = ONE_BY_ONE;
	else if (share->due == 0)
		group->fates[i] = NOTHING_DUE;
	else if (group->nmembers > 0 &&
			 run->rows + group->due + share->due > run->batch_size)
		return false;
	else
	{
		group->fates[i] = MEMBER;
		group->members[group->nmembers++] = share;
		group->due += share->due;
	}
	return true;
}

/*
 * A step: looks at the locked tenants of the group, as many as make a batch.
 */
static void
step_form_group(void *arg)
{
	TenantGroup *group = arg;
	RetentionScope scope;
	RetentionScans *scans;

	retention_step_begin(&scope, retention_query_search_path(group->target),
						 group->target->owner);

	/* only now: whoever had a tenant may just have deleted its newest rows */
	PushActiveSnapshot(GetTransactionSnapshot());
	scans = retention_scans_open(group->target);
	if (scans != NULL)
	{
		while (group->reached < group->count && !group->full)
		{
			if (join_group(group, group->reached, scans))
				group->reached++;
			else
				group->full = true;
		}
		retention_scans_close(scans);
	}
	PopActiveSnapshot();
	unlock_others(group);
	retention_scope_end(&scope);
}

/*
 * A step: deletes what is due of the members of a group.
 */
static void
step_clean_group(void *arg)
{
	TenantGroup *group = arg;
	RetentionScope scope;

	retention_step_begin(&scope, retention_query_search_path(group->target),
						 group->target->owner);
	group->deleted = retention_bulk_delete_tenants(group->target,
												   group->members,
												   group->nmembers,
												   RETENTION_ROW_LOCK_PATIENCE_MS);
	retention_scope_end(&scope);
}

/*
 * Writes down whose rows a group's batch did not delete although they were due:
 * none of them was locked, that would have been an error.
 */
static void
note_kept(TenantGroup *group)
{
	RetentionRun *run = group->run;

	for (int i = 0; i < group->nmembers; i++)
	{
		RetentionShare *share = group->members[i];
		RetentionTenantRecord record = {
			.tenant = UUIDPGetDatum(&share->tenant),
			.deleted = share->deleted,
			.batches = share->batches,
			.kept = share->due - share->pending
		};

		if (record.kept > 0)
			retention_history_tenant(run->history, run->writer,
									 run->record.id, &record);
	}
}

/*
 * Counts what a group's batch did, and writes it down.
 */
static void
count_members(TenantGroup *group)
{
	RetentionRun *run = group->run;

	for (int i = 0; i < group->nmembers; i++)
	{
		RetentionShare *share = group->members[i];

		share->changed = share->pending > 0;
		share->deleted += share->pending;
		share->batches += share->changed ? 1 : 0;
	}
	run->record.deleted += group->deleted;
	run->record.batches++;
	run->rows += group->deleted;
	(void) note_shares(run, group->members, group->nmembers);
	if (group->target->may_keep)
		note_kept(group);
}

/*
 * What a walk has done for this tenant, or NULL.
 */
static RetentionShare *
walked_share(const RetentionRun *run, Datum tenant)
{
	return run->walk == NULL ? NULL :
		retention_shares_find(run->walk->shares, tenant);
}

/*
 * Takes the next tenants from the list into a group, up to `most`.
 */
static void
fill_group(TenantGroup *group, RetentionRun *run, int from, int most)
{
	group->run = run;
	group->target = &run->target;
	group->count = Min(list_length(run->tenants) - from, most);
	group->reached = 0;
	group->full = false;
	group->nmembers = 0;
	group->due = 0;
	for (int i = 0; i < group->count; i++)
	{
		RetentionDue *due = list_nth(run->tenants, from + i);
		RetentionShare *share = &group->shares[i];
		RetentionShare *before = walked_share(run, due->tenant);

		group->tenants[i] = due->tenant;
		group->fates[i] = NOT_REACHED;
		group->locks[i] = -1;
		memset(share, 0, sizeof(*share));
		if (before != NULL)
			*share = *before;
		share->tenant = *DatumGetUUIDP(due->tenant);
		share->oldest = due->oldest;
	}
}

/*
 * Counts the tenants of a group whose fate is settled, and cleans those that
 * have to be cleaned one by one.  Returns the reason to stop, or NULL.
 */
static const char *
end_group(TenantGroup *group)
{
	RetentionRun *run = group->run;
	const char *stop = NULL;

	for (int i = 0; stop == NULL && i < group->reached; i++)
	{
		RetentionShare *before = walked_share(run, group->tenants[i]);

		switch (group->fates[i])
		{
			case BUSY:
				run->record.tenants_busy++;
				break;
			case ONE_BY_ONE:
				/* where somebody is in the way, hold as little as possible */
				if (retention_transaction_is_full(run) || group->failed)
					stop = retention_transaction_end(run, false);
				if (stop == NULL)
					stop = retention_tenant_clean(run, group->tenants[i],
												  before);
				break;
			default:
				run->record.tenants++;
		}
	}
	return stop;
}

/*
 * Cleans the next tenants of the list, from number *next on, as a group, and
 * moves *next past them.  Returns the reason to stop, or NULL.
 */
static const char *
clean_group(TenantGroup *group, RetentionRun *run, int *next, int most)
{
	MemoryContext caller = MemoryContextSwitchTo(run->scratch);
	int			held = run->nheld;
	const char *stop;

	fill_group(group, run, *next, most);
	group->failed = !try_step(run, step_lock_group, group) ||
		!try_step(run, step_form_group, group);
	if (!group->failed && group->nmembers > 0)
	{
		retention_transaction_show(run);
		group->failed = !try_step(run, step_clean_group, group);
		if (!group->failed)
			count_members(group);
	}
	if (group->failed || group->reached == 0)
	{
		/* of what was to be done for them nothing is */
		retention_transaction_unlock_down(run, held);
		group->reached = Max(1, group->reached);
		for (int i = 0; i < group->reached; i++)
			if (group->fates[i] == MEMBER || group->fates[i] == NOT_REACHED)
				group->fates[i] = ONE_BY_ONE;
	}
	MemoryContextSwitchTo(run->context);
	*next += group->reached;
	stop = end_group(group);
	MemoryContextSwitchTo(caller);
	return stop;
}

/*
 * Cleans the tenants of the list.  Returns the reason to stop, or NULL.
 */
const char *
retention_many_clean(RetentionRun *run)
{
	MemoryContext caller = MemoryContextSwitchTo(run->context);
	TenantGroup *group = palloc(sizeof(TenantGroup));
	int			next = 0;
	int			most = 1;
	const char *stop = NULL;

	while (stop == NULL && next < list_length(run->tenants))
	{
		int			asked = Min(most, RETENTION_MOST_TENANTS - run->nheld);
		int			from = next;
		bool		is_first = run->nheld == 0;
		bool		full = false;

		CHECK_FOR_INTERRUPTS();
		if (retention_bulk_is_possible(&run->target) &&
			list_length(run->tenants) > 1)
		{
			stop = clean_group(group, run, &next, asked);
			full = group->full;
		}
		else
		{
			RetentionDue *due = list_nth(run->tenants, next++);

			stop = retention_tenant_clean(run, due->tenant,
										  walked_share(run, due->tenant));
		}

		/*
		 * as many as fitted this time, and some more; how many fitted into
		 * the rest of a transaction says nothing about the next one
		 */
		if (is_first || 2 * (next - from) > most)
			most = Min(RETENTION_MOST_TENANTS, 2 * (next - from));
		if (stop == NULL && next < list_length(run->tenants) &&
			(full || retention_transaction_is_full(run)))
			stop = retention_transaction_end(run, false);
	}
	pfree(group);
	MemoryContextSwitchTo(caller);
	return stop;
}

/*
 * Are so many rows much, for a table of that size?
 */
static bool
is_much(int64 rows, BlockNumber blocks)
{
	return rows > 0 && rows >= (int64) blocks * WALK_LEAST_ROWS_PER_BLOCK;
}

/*
 * Is so much due, for so many, that a walk over the table is the best way?
 */
bool
retention_many_is_worth_a_walk(const RetentionRun *run, BlockNumber blocks)
{
	return retention_bulk_is_possible(&run->target) &&
		!run->target.may_keep &&
		list_length(run->tenants) >= WALK_LEAST_TENANTS &&
		is_much(run->record.estimated, blocks);
}

/*
 * A step: reads the policies of all tenants of a walk.
 */
static void
step_read_all_policies(void *arg)
{
	RetentionWalk *walk = arg;

	read_policies(walk->run, walk->tenants, walk->count, walk->policies);
}

/*
 * A step: settles the limits of all tenants.  One whom another cleanup is at is
 * left, and so is one of whom rows of one instant go in part.
 */
static void
step_look_at_all(void *arg)
{
	RetentionWalk *walk = arg;
	RetentionRun *run = walk->run;
	RetentionScope scope;
	RetentionScans *scans;

	retention_step_begin(&scope, retention_query_search_path(&run->target),
						 run->target.owner);
	PushActiveSnapshot(GetTransactionSnapshot());
	scans = retention_scans_open(&run->target);
	if (scans == NULL)
		elog(ERROR, "indexes cannot be read now");
	for (int i = 0; i < walk->count; i++)
	{
		RetentionShare *share = walk->list[i];

		CHECK_FOR_INTERRUPTS();
		TIMESTAMP_NOBEGIN(share->limit);
		if (!is_wanted(run, &walk->policies[i]))
			continue;
		if (retention_tenant_lock_is_held(run->relid, walk->tenants[i],
										  run->target.tenant_type,
										  run->target.tenant_collation))
		{
			share->left = true;
			continue;
		}
		retention_share_look(&run->target, scans, share, &walk->policies[i],
							 run->now, 0);
		share->left = share->left || share->ties;
	}
	retention_scans_close(scans);
	retention_shares_limited(walk->shares);
	PopActiveSnapshot();
	retention_scope_end(&scope);
}

/*
 * A step: deletes what is due in a stretch of the table.
 */
static void
step_clean_stretch(void *arg)
{
	RetentionWalk *walk = arg;
	RetentionRun *run = walk->run;
	RetentionScope scope;

	retention_step_begin(&scope, retention_query_search_path(&run->target),
						 run->target.owner);
	retention_bulk_delete_blocks(&run->target, &walk->stretch,
								 RETENTION_ROW_LOCK_PATIENCE_MS);
	retention_scope_end(&scope);
}

/*
 * A step: finds the tenants of what is due in a stretch, and leaves them.
 */
static void
step_leave_stretch(void *arg)
{
	RetentionWalk *walk = arg;
	RetentionRun *run = walk->run;
	RetentionScope scope;

	retention_step_begin(&scope, retention_query_search_path(&run->target),
						 run->target.owner);
	PushActiveSnapshot(GetTransactionSnapshot());
	retention_bulk_leave_blocks(&run->target, &walk->stretch);
	PopActiveSnapshot();
	retention_scope_end(&scope);
}

/*
 * Settles the limits again if they are old, or if somebody may have locked a
 * tenant or changed a policy since: what goes is settled by what the table, and
 * the policies, are now.
 */
static bool
keep_limits_fresh(RetentionWalk *walk)
{
	int64		now = retention_clock();

	if (walk->looked_at != 0 && walk->run->holds_walk &&
		now - walk->looked_at < LIMITS_MOST_AGE + 20 * walk->look_cost)
		return true;
	if (!retention_transaction_lock_walk(walk->run) ||
		!try_step(walk->run, step_read_all_policies, walk) ||
		!try_step(walk->run, step_look_at_all, walk))
		return false;
	walk->looked_at = now;
	walk->look_cost = retention_clock() - now;
	return true;
}

/*
 * Writes down what a walk has done for each tenant, in transactions that are
 * short: another run, or whoever changes a policy, may want the same rows.  Does
 * not rest between them.  Takes and returns the reason to stop, or NULL.
 */
static const char *
note_walk(RetentionWalk *walk, const char *stop)
{
	RetentionRun *run = walk->run;

	for (int i = 0; i < walk->count; i += POLICIES_AT_ONCE)
	{
		int			count = Min(POLICIES_AT_ONCE, walk->count - i);

		if (!note_shares(run, walk->list + i, count))
			continue;
		retention_transaction_commit(run, false);
		/* only now: when a run fails, what is not written down yet is */
		for (int j = i; j < i + count; j++)
			walk->list[j]->changed = false;
		if (stop == NULL)
			stop = retention_transaction_begin(run);
	}
	walk->recorded_at = retention_clock();
	return stop;
}

/*
 * Ends a transaction of a walk, and now and then writes down what was done for
 * each tenant: each batch has rows of nearly all of them, so not each time.
 * Returns the reason to stop, or NULL.
 */
static const char *
end_walk_transaction(RetentionWalk *walk)
{
	const char *stop = retention_transaction_end(walk->run, false);

	retention_shares_end_transaction(walk->shares, true);
	if (retention_clock() - walk->recorded_at > RECORD_INTERVAL)
		stop = note_walk(walk, stop);
	return stop;
}

/*
 * Goes over the blocks of a segment.  Returns the reason to stop, or NULL, and
 * sets `given_up` when the walk cannot go on.
 */
static const char *
walk_segment(RetentionWalk *walk, BlockNumber from, BlockNumber to,
			 BlockNumber *ahead, bool *given_up)
{
	RetentionRun *run = walk->run;
	RetentionStretch *stretch = &walk->stretch;
	const char *stop = NULL;

	while (stop == NULL && from < to)
	{
		bool		ok;

		CHECK_FOR_INTERRUPTS();
		if (!retention_bulk_is_possible(&run->target) ||
			run->target.may_keep || run->target.file != walk->file ||
			!keep_limits_fresh(walk))
		{
			*given_up = true;
			return NULL;
		}
		stretch->shares = walk->shares;
		stretch->from = from;
		stretch->to = from + Min(*ahead, to - from);
		stretch->most = Max(1, run->batch_size - run->rows);
		ok = try_step(run, step_clean_stretch, walk);
		retention_shares_settle(walk->shares, ok);
		if (ok)
		{
			walk->failures = 0;
			run->record.deleted += stretch->deleted;
			run->record.batches += stretch->deleted > 0 ? 1 : 0;
			run->rows += stretch->deleted;

			/* aim at a little more than as many blocks as make a batch */
			if (stretch->deleted > 0)
				*ahead = 1 + (int64) (stretch->reached - from) *
					run->batch_size / stretch->deleted * 9 / 8;
			else
				*ahead *= 2;
			*ahead = Min(*ahead, MOST_BLOCKS);
			from = stretch->reached;
		}
		else
		{
			/* somebody holds a row there, say */
			if (++walk->failures == MOST_FAILURES ||
				!try_step(run, step_leave_stretch, walk))
			{
				*given_up = true;
				return NULL;
			}
			from = stretch->to;
		}
		if (retention_transaction_is_full(run))
			stop = end_walk_transaction(walk);
	}
	return stop;
}

/*
 * Makes ready for a walk.
 */
static RetentionWalk *
begin_walk(RetentionRun *run, BlockNumber blocks)
{
	MemoryContext caller = MemoryContextSwitchTo(run->context);
	RetentionWalk *walk = palloc0(sizeof(RetentionWalk));

	walk->run = run;
	walk->file = run->target.file;
	walk->count = Min(list_length(run->tenants), WALK_MOST_TENANTS);
	walk->shares = retention_shares_create(walk->count);
	for (int i = 0; i < walk->count; i++)
	{
		RetentionDue *due = list_nth(run->tenants, i);

		retention_shares_add(walk->shares, due->tenant)->oldest = due->oldest;
	}
	walk->count = retention_shares_list(walk->shares, &walk->list);
	walk->policies = palloc(walk->count * sizeof(RetentionPolicy));
	walk->tenants = palloc(walk->count * sizeof(Datum));
	for (int i = 0; i < walk->count; i++)
		walk->tenants[i] = UUIDPGetDatum(&walk->list[i]->tenant);
	walk->nsegments = Max(1, Min(RETENTION_MOST_SEGMENTS,
								 blocks / LEAST_SEGMENT_BLOCKS));
	walk->unseen = walk->nsegments;
	walk->recorded_at = retention_clock();
	MemoryContextSwitchTo(caller);
	return walk;
}

/*
 * Keeps those tenants in the list for whom there is, or may be, something left
 * to do, and counts the others as cleaned; as left to others, though, where
 * they may have rows in a part of the table that another run walks over: it
 * may not have them in its list, or not come to its end.
 */
static void
keep_left(RetentionWalk *walk, bool all)
{
	RetentionRun *run = walk->run;
	MemoryContext caller = MemoryContextSwitchTo(run->context);
	List	   *left = NIL;
	ListCell   *lc;

	/*
	 * another list: to take out one by one would move all the others each
	 * time
	 */
	foreach(lc, run->tenants)
	{
		RetentionDue *due = lfirst(lc);
		RetentionShare *share = retention_shares_find(walk->shares,
													  due->tenant);

		if (share == NULL || share->left || all)
			left = lappend(left, due);
		else if (walk->unseen > 0 && share->oldest < share->limit)
			run->record.tenants_busy++;
		else
			run->record.tenants++;
	}
	list_free(run->tenants);
	run->tenants = left;
	MemoryContextSwitchTo(caller);
}

/*
 * Is it still worth a walk, now that it is known how many of the rows that are
 * older than the cutoff the minimum keeps?
 */
static bool
is_still_worth_a_walk(RetentionWalk *walk, BlockNumber blocks)
{
	int64		due = walk->run->record.estimated;

	for (int i = 0; i < walk->count; i++)
		due -= walk->list[i]->kept;
	return is_much(due, blocks);
}

/*
 * Leaves the tenants whose policy is disabled, of a run that is forced: another
 * run that walks over a part of the table need not have them.
 */
static void
leave_forced(RetentionWalk *walk)
{
	for (int i = 0; i < walk->count; i++)
		if (!walk->policies[i].is_enabled)
			walk->list[i]->left = true;
}

/*
 * Goes over the parts of the table that it can get and that it has not seen.
 * Unless `again`, not over those that another run has just done.  Returns the
 * reason to stop, or NULL, and sets `given_up` when the walk cannot go on.
 */
static const char *
walk_segments(RetentionWalk *walk, BlockNumber blocks, bool again,
			  BlockNumber *ahead, bool *given_up)
{
	RetentionRun *run = walk->run;
	const char *stop = NULL;

	for (uint32 i = 0; stop == NULL && i < walk->nsegments; i++)
	{
		if (walk->seen[i] ||
			!retention_transaction_lock_segment(run, i, again))
			continue;
		stop = walk_segment(walk, (uint64) blocks * i / walk->nsegments,
							(uint64) blocks * (i + 1) / walk->nsegments,
							ahead, given_up);
		if (*given_up)
			return NULL;
		if (stop == NULL)
		{
			retention_transaction_leave_segment(run, i);
			walk->seen[i] = true;
			walk->unseen--;
		}
	}
	return stop;
}

/*
 * Walks over the table, block by block, and deletes what is due of all tenants
 * of the list, but for rows that are in somebody's way; who has such rows
 * stays in the list.
 *
 * Several runs share the table, part by part.  What another run has done is
 * looked at once more in the end, when there is nothing else to do: its
 * tenants, its policies and its clock need not be the same.  There is little to
 * delete then.  Nobody waits for a part that another run is at.
 *
 * Returns the reason to stop, or NULL.
 */
const char *
retention_many_walk(RetentionRun *run, BlockNumber blocks)
{
	RetentionWalk *walk = run->walk = begin_walk(run, blocks);
	BlockNumber ahead = Min(MOST_BLOCKS,
							1 + (int64) blocks * run->batch_size / run->record.estimated);
	bool		given_up = false;
	const char *stop = NULL;

	if (!keep_limits_fresh(walk) || !is_still_worth_a_walk(walk, blocks))
	{
		retention_many_release(run);
		return NULL;
	}
	elog(DEBUG1, "retention run " INT64_FORMAT " walks over %u blocks for %d tenants",
		 run->record.id, blocks, walk->count);
	retention_transaction_show(run);
	stop = walk_segments(walk, blocks, false, &ahead, &given_up);
	if (stop == NULL)
		stop = end_walk_transaction(walk);
	if (stop == NULL && !given_up && walk->unseen > 0)
	{
		stop = walk_segments(walk, blocks, true, &ahead, &given_up);
		if (stop == NULL && run->rows > 0)
			stop = end_walk_transaction(walk);
	}
	if (walk->unseen > 0)
		leave_forced(walk);
	stop = note_walk(walk, stop);
	keep_left(walk, given_up || stop != NULL);
	retention_many_release(run);
	return stop;
}

/*
 * To be called when an error has ended a run, before its transaction is undone
 * and its record is set back: settles what a walk has done for good.
 */
void
retention_many_settle(RetentionRun *run)
{
	if (run->walk != NULL)
		retention_shares_end_transaction(run->walk->shares,
										 run->committed.deleted == run->record.deleted);
}

/*
 * Writes down what a walk has done for each tenant, as far as it is not.
 */
void
retention_many_record(RetentionRun *run)
{
	if (run->walk != NULL)
		(void) note_shares(run, run->walk->list, run->walk->count);
}

/*
 * Lets other runs have the parts of the table that a walk holds.
 */
void
retention_many_release(RetentionRun *run)
{
	retention_transaction_unlock_walk(run);
	retention_transaction_unlock_segments(run);
}
