/*
 * query.h
 *	  The text of every statement about a table to clean.
 */
#ifndef RETENTION_QUERY_H
#define RETENTION_QUERY_H

#include "retention.h"
#include "spi_util.h"

/*
 * Statements about one leg of a target.  $1 is the tenant; times are of the
 * leg's type; ranges are half open.  What each returns stands in query.c.
 */
typedef enum RetentionQuery
{
	RETENTION_QUERY_WALK,
	RETENTION_QUERY_TIMES,
	RETENTION_QUERY_COLLECT,
	RETENTION_QUERY_LOCK,
	RETENTION_QUERY_DELETE_RANGE,
	RETENTION_QUERY_DELETE_RANGE_RETURNING,
	RETENTION_QUERY_DELETE_TIDS,
	RETENTION_QUERY_COUNT,
	RETENTION_QUERY_COUNT_RANGE,
	RETENTION_QUERY_COUNT_UNKNOWN,

	/* made by functions of their own */
	RETENTION_QUERY_DELETE_TENANTS,
	RETENTION_QUERY_DELETE_BLOCKS,
	RETENTION_QUERY_FIND_BLOCKS
} RetentionQuery;

extern SPIPlanPtr retention_query_plan(const RetentionTarget *target,
									   RetentionQuery query, int leg);
extern SPIPlanPtr retention_query_delete_tenants(const RetentionTarget *target,
												 int leg);
extern SPIPlanPtr retention_query_blocks(const RetentionTarget *target,
										 RetentionQuery query);
extern RetentionStatement retention_query_policies_of(Oid policy_relid);
extern RetentionStatement retention_query_record_many(Oid policy_relid,
													  bool around);
extern RetentionStatement retention_query_policy(Oid policy_relid);
extern RetentionStatement retention_query_policies(Oid policy_relid);
extern RetentionStatement retention_query_record(Oid policy_relid);
extern RetentionStatement retention_query_due(const RetentionTarget *target,
											  Oid policy_relid, bool passed,
											  bool without_policy);
extern RetentionStatement retention_query_oldest(const RetentionTarget *target,
												 Oid policy_relid, bool passed);
extern RetentionStatement retention_query_estimate(const RetentionTarget *target,
												   Oid policy_relid,
												   bool passed);
extern char *retention_query_search_path(const RetentionTarget *target);
extern char *retention_query_create_index(const RetentionTarget *target,
										  int leg, bool concurrently);

#endif							/* RETENTION_QUERY_H */
