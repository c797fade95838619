/*
 * tenant.h
 *	  Cleans one tenant in a run.
 */
#ifndef RETENTION_TENANT_H
#define RETENTION_TENANT_H

#include "postgres.h"

#include "bulk.h"
#include "transaction.h"

extern const char *retention_tenant_clean(RetentionRun *run, Datum tenant,
										  const RetentionShare *before);

#endif							/* RETENTION_TENANT_H */
