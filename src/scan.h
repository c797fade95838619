/*
 * scan.h
 *	  Times of a tenant's rows, from the indexes themselves.
 */
#ifndef RETENTION_SCAN_H
#define RETENTION_SCAN_H

#include "retention.h"

typedef struct RetentionScans RetentionScans;

extern RetentionScans *retention_scans_open(const RetentionTarget *target);
extern void retention_scan_newest(RetentionScans *scans, int leg,
								  Datum tenant);
extern void retention_scan_before(RetentionScans *scans, int leg,
								  Datum tenant, TimestampTz before);
extern bool retention_scan_next(RetentionScans *scans, int leg,
								TimestampTz *time);
extern void retention_scans_close(RetentionScans *scans);

#endif							/* RETENTION_SCAN_H */
