/*
 * batch.h
 *	  Carries out one batch of a plan.
 */
#ifndef RETENTION_BATCH_H
#define RETENTION_BATCH_H

#include "plan.h"
#include "retention.h"

extern void retention_batch_execute(const RetentionTarget *target,
									Datum tenant,
									const RetentionBatch *batch,
									RetentionResult *result);
extern void retention_result_add(RetentionResult *sum,
								 const RetentionResult *result);

#endif							/* RETENTION_BATCH_H */
