/*
 * lock.h
 *	  Locks that keep cleanups of one tenant apart.
 */
#ifndef RETENTION_LOCK_H
#define RETENTION_LOCK_H

#include "postgres.h"

#include "storage/lock.h"

extern void retention_wait_for_walks(void);
extern void retention_wait_for_tenant(Oid relid, Datum tenant, Oid tenant_type,
									  Oid tenant_collation);

extern bool retention_try_lock_tenant(Oid relid, Datum tenant,
									  Oid tenant_type, Oid tenant_collation,
									  LOCKTAG *tag);
extern void retention_unlock_tenant(const LOCKTAG *tag);
extern bool retention_tenant_lock_is_held(Oid relid, Datum tenant,
										  Oid tenant_type,
										  Oid tenant_collation);
extern bool retention_try_lock_walk(void);
extern bool retention_walk_is_waited_for(void);
extern void retention_unlock_walk(void);
extern bool retention_try_lock_segment(Oid relid, uint32 segment, bool again);
extern void retention_unlock_segment(Oid relid, uint32 segment);
extern void retention_mark_segment(Oid relid, uint32 segment);
extern void retention_unmark_segment(Oid relid, uint32 segment);
extern void retention_lock_run(int64 run_id);
extern void retention_unlock_run(int64 run_id);
extern bool retention_run_lock_is_held(int64 run_id);

#endif							/* RETENTION_LOCK_H */
