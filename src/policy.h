/*
 * policy.h
 *	  Policy rows, and the table they are about.
 */
#ifndef RETENTION_POLICY_H
#define RETENTION_POLICY_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "spi_util.h"

typedef struct RetentionPolicy
{
	int32		retention_days;
	int32		min_to_keep;
	bool		is_enabled;
	Datum		tenant;			/* set by retention_policy_list() alone */
} RetentionPolicy;

extern bool retention_policy_load(Oid policy_relid,
								  const RetentionStatement *statement,
								  Datum tenant, RetentionPolicy *policy);
extern List *retention_policy_list(Oid policy_relid,
								   const RetentionStatement *statement,
								   const Datum *tenant);
extern List *retention_binding_load(Oid binding_relid);
extern void retention_binding_store(Oid binding_relid, Oid relid);

#endif							/* RETENTION_POLICY_H */
