/*
 * lock.c
 *	  Locks that keep cleanups of one tenant apart.
 *
 * Owns a tag in the space of advisory locks that SQL cannot reach: nobody
 * takes such a lock by accident, and pg_locks shows it as an advisory one with
 * objsubid 7265 (a tenant), 7266 (a run), 7267 (a part of the table) or 7268
 * (all tenants).  Must not look at rows.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/typcache.h"

#include "compat.h"
#include "lock.h"

/* the fourth field of the tags: what the lock is for */
#define TENANT_LOCK 7265
#define RUN_LOCK 7266
#define SEGMENT_LOCK 7267
#define WALK_LOCK 7268

/*
 * The tag of a tenant of a relation.  Two tenants may share a tag (it holds a
 * hash): they then wait for each other, and nothing else happens.
 */
static LOCKTAG
tenant_tag(Oid relid, Datum tenant, Oid tenant_type, Oid tenant_collation)
{
	TypeCacheEntry *type = lookup_type_cache(tenant_type,
											 TYPECACHE_HASH_EXTENDED_PROC_FINFO);
	LOCKTAG		tag;
	uint64		hash;

	if (!OidIsValid(type->hash_extended_proc_finfo.fn_oid))
		elog(ERROR, "could not identify an extended hash function for type %u",
			 tenant_type);
	hash = DatumGetUInt64(FunctionCall2Coll(&type->hash_extended_proc_finfo,
											tenant_collation, tenant,
											UInt64GetDatum(relid)));
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32),
						 (uint32) hash, TENANT_LOCK);
	return tag;
}

/*
 * The tag for runs that walk over the table and cannot lock each tenant.  They
 * do not keep each other out, nor do those who have a tenant or change a
 * policy.
 */
static LOCKTAG
walk_tag(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, WALK_LOCK);
	return tag;
}

/*
 * Keeps out who wants a tenant, whichever, or wants to change a policy, until
 * retention_unlock_walk() or the end of the session.  Returns false, without
 * waiting, when somebody is at it.
 */
bool
retention_try_lock_walk(void)
{
	LOCKTAG		tag = walk_tag();

	return LockAcquire(&tag, ShareLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Does somebody wait because of retention_try_lock_walk()?
 */
bool
retention_walk_is_waited_for(void)
{
	LOCKTAG		tag = walk_tag();

	return LockHasWaiters(&tag, ShareLock, true);
}

/*
 * Gives back a lock of retention_try_lock_walk().
 */
void
retention_unlock_walk(void)
{
	LOCKTAG		tag = walk_tag();

	(void) LockRelease(&tag, ShareLock, true);
}

/*
 * Waits until no run walks over the table, and keeps them from it until the
 * transaction ends.
 */
void
retention_wait_for_walks(void)
{
	LOCKTAG		tag = walk_tag();

	(void) LockAcquire(&tag, RowExclusiveLock, false, false);
}

/*
 * Waits until no other cleanup of this tenant is under way and keeps others
 * out until the transaction ends.  Obeys lock_timeout and cancels.
 */
void
retention_wait_for_tenant(Oid relid, Datum tenant, Oid tenant_type,
						  Oid tenant_collation)
{
	LOCKTAG		tag = tenant_tag(relid, tenant, tenant_type,
								 tenant_collation);

	retention_wait_for_walks();
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Keeps other cleanups of this tenant out until retention_unlock_tenant(), or
 * the end of the session.  Returns false, without waiting, when one is under
 * way.  Sets the tag to give back.
 */
bool
retention_try_lock_tenant(Oid relid, Datum tenant, Oid tenant_type,
						  Oid tenant_collation, LOCKTAG *tag)
{
	*tag = tenant_tag(relid, tenant, tenant_type, tenant_collation);
	return LockAcquire(tag, ExclusiveLock, true, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Gives back a lock of retention_try_lock_tenant().
 */
void
retention_unlock_tenant(const LOCKTAG *tag)
{
	(void) LockRelease(tag, ExclusiveLock, true);
}

/*
 * Is a cleanup of this tenant under way?
 */
bool
retention_tenant_lock_is_held(Oid relid, Datum tenant, Oid tenant_type,
							  Oid tenant_collation)
{
	LOCKTAG		tag = tenant_tag(relid, tenant, tenant_type,
								 tenant_collation);

	/* two who ask at once do not see each other */
	if (LockAcquire(&tag, ShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, ShareLock, true);
	return false;
}

/*
 * The tag of a part of a relation.  Who walks over it holds a lock that no
 * other walk shares; who is done with it, a weaker one, as a mark, which keeps
 * out only those who look for parts that nobody has walked over.
 */
static LOCKTAG
segment_tag(Oid relid, uint32 segment)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, relid, segment, SEGMENT_LOCK);
	return tag;
}

/*
 * Keeps other runs from walking over this part of a relation, until
 * retention_unlock_segment() or the end of the session.  Returns false, without
 * waiting, when one does, or, unless `again`, when one has marked it.
 */
bool
retention_try_lock_segment(Oid relid, uint32 segment, bool again)
{
	LOCKTAG		tag = segment_tag(relid, segment);

	if (again)
		return LockAcquire(&tag, ShareUpdateExclusiveLock, true, true) !=
			LOCKACQUIRE_NOT_AVAIL;

	/* who gets this one gets the other, too */
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	(void) LockAcquire(&tag, ShareUpdateExclusiveLock, true, false);
	(void) LockRelease(&tag, ExclusiveLock, true);
	return true;
}

/*
 * Gives back a lock of retention_try_lock_segment().
 */
void
retention_unlock_segment(Oid relid, uint32 segment)
{
	LOCKTAG		tag = segment_tag(relid, segment);

	(void) LockRelease(&tag, ShareUpdateExclusiveLock, true);
}

/*
 * Marks a part of a relation, which this session has locked, as done, until
 * retention_unmark_segment() or the end of the session.
 */
void
retention_mark_segment(Oid relid, uint32 segment)
{
	LOCKTAG		tag = segment_tag(relid, segment);

	(void) LockAcquire(&tag, RowShareLock, true, false);
}

/*
 * Takes back a mark of retention_mark_segment().
 */
void
retention_unmark_segment(Oid relid, uint32 segment)
{
	LOCKTAG		tag = segment_tag(relid, segment);

	(void) LockRelease(&tag, RowShareLock, true);
}

/*
 * The tag of a run.
 */
static LOCKTAG
run_tag(int64 run_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (run_id >> 32),
						 (uint32) run_id, RUN_LOCK);
	return tag;
}

/*
 * Marks this session as the one that carries out a run, until
 * retention_unlock_run() or its end.
 */
void
retention_lock_run(int64 run_id)
{
	LOCKTAG		tag = run_tag(run_id);

	(void) LockAcquire(&tag, ExclusiveLock, true, false);
}

/*
 * Gives back the lock of retention_lock_run().
 */
void
retention_unlock_run(int64 run_id)
{
	LOCKTAG		tag = run_tag(run_id);

	(void) LockRelease(&tag, ExclusiveLock, true);
}

/*
 * Is there a session that carries out this run?
 */
bool
retention_run_lock_is_held(int64 run_id)
{
	LOCKTAG		tag = run_tag(run_id);

	/*
	 * GetLockConflicts() would not see a holder that is between two
	 * transactions, so try to get it.
	 */
	if (retention_compat_lock_held_by_me(&tag, ExclusiveLock) ||
		LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, ShareLock, false);
	return false;
}
