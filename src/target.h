/*
 * target.h
 *	  From a table to its RetentionTarget.
 */
#ifndef RETENTION_TARGET_H
#define RETENTION_TARGET_H

#include "retention.h"

#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

extern Oid	retention_extension_oid(void);
extern Oid	retention_policy_relid(void);
extern Oid	retention_own_relid(const char *name);
extern Oid	retention_relation_owner(Oid relid);
extern List *retention_target_candidates(void);
extern bool retention_target_has_our_name(Oid relid);
extern void retention_target_check_delete(Oid relid);
extern RetentionTarget *retention_target_open(Oid relid, LOCKMODE lockmode);
extern Oid	retention_target_contract_index(const RetentionTarget *target,
											int leg);
extern bool retention_target_name_is_free(const RetentionTarget *target,
										  int leg);
extern BlockNumber retention_target_blocks(Oid relid);

#endif							/* RETENTION_TARGET_H */
