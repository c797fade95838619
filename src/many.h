/*
 * many.h
 *	  Cleans the tenants of a run.
 */
#ifndef RETENTION_MANY_H
#define RETENTION_MANY_H

#include "postgres.h"

#include "transaction.h"

extern bool retention_many_is_worth_a_walk(const RetentionRun *run,
										   BlockNumber blocks);
extern const char *retention_many_walk(RetentionRun *run, BlockNumber blocks);
extern const char *retention_many_clean(RetentionRun *run);
extern void retention_many_settle(RetentionRun *run);
extern void retention_many_record(RetentionRun *run);
extern void retention_many_release(RetentionRun *run);

#endif							/* RETENTION_MANY_H */
