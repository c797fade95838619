/*
 * policy.h
 *	  Policy rows, and the table they are about.
 */
#ifndef RETENTION_POLICY_H
#define RETENTION_POLICY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "spi_util.h"

typedef struct RetentionPolicy
{
	int32		retention_days;
	int32		min_to_keep;
	bool		is_enabled;
	Datum		tenant;			/* set by retention_policy_list() alone */
	bool		is_found;		/* by retention_policy_load_many() alone */
} RetentionPolicy;

/* A tenant for whom something is due, and the time of its oldest row. */
typedef struct RetentionDue
{
	Datum		tenant;
	TimestampTz oldest;
} RetentionDue;

/* A table to clean, and the columns that the age of its rows comes from. */
typedef struct RetentionBinding
{
	Oid			relid;
	const char *time_columns;
} RetentionBinding;

/* Policies that others hold. */
typedef struct RetentionHeld
{
	int64		count;
	char		tenant[40];		/* of one of them */
} RetentionHeld;

extern bool retention_policy_load(Oid policy_relid,
								  const RetentionStatement *statement,
								  Datum tenant, RetentionPolicy *policy);
extern void retention_policy_load_many(Oid policy_relid,
									   const RetentionStatement *statement,
									   const Datum *tenants, int count,
									   RetentionPolicy *policies);
extern List *retention_policy_list(Oid policy_relid,
								   const RetentionStatement *statement,
								   const Datum *tenant);
extern void retention_policy_record(Oid policy_relid,
									const RetentionStatement *statement,
									Datum tenant, TimestampTz at,
									int64 deleted);
extern void retention_policy_record_many(Oid policy_relid,
										 const RetentionStatement *statement,
										 RetentionHeld *held, Datum *tenants,
										 Datum *deleted, int count,
										 TimestampTz at);
extern List *retention_policy_due(Oid policy_relid,
								  const RetentionStatement *statement,
								  const List *passed, TimestampTz now,
								  const Datum *only_tenant, bool force,
								  bool without_policy, int32 default_days);
extern void retention_policy_oldest(Oid policy_relid,
									const RetentionStatement *statement,
									const List *passed, TimestampTz now,
									const TimestampTz *before,
									RetentionRowFunction row, void *arg);
extern int64 retention_policy_sample(Oid policy_relid,
									 const RetentionStatement *statement,
									 const List *passed, float4 percent,
									 TimestampTz now, bool force);
extern List *retention_binding_load(Oid binding_relid);
extern void retention_binding_store(Oid binding_relid,
									const RetentionBinding *binding);

#endif							/* RETENTION_POLICY_H */
