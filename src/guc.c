/*
 * guc.c
 *	  The settings retention.*.
 *
 * Owns their names, limits and defaults.  What could widen a delete, of rows or
 * of history, may be set by superusers alone.  Must not look at tables.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "guc.h"
#include "retention.h"

int			retention_default_retention_days = 90;
int			retention_default_min_executions_to_keep = 100;
int			retention_batch_size = 1000;
int			retention_max_batches_per_call = 0;
int			retention_lock_timeout = 2000;
bool		retention_enabled = true;
bool		retention_apply_default_policy = false;
int			retention_max_runtime = 0;
int			retention_max_rows_per_second = 0;
int			retention_max_replication_lag = 0;
int			retention_pause_between_batches = 0;
int			retention_history_days = 90;
int			retention_log_min_duration = 0;
char	   *retention_schedule = NULL;

/*
 * Defines all settings and reserves their prefix.  Called once, when the
 * library is loaded.
 */
void
retention_define_settings(void)
{
	DefineCustomIntVariable("retention.default_retention_days",
							"Sets the age in days at which executions of a tenant without a policy are due.",
							"A day has 24 hours.",
							&retention_default_retention_days,
							90, 0, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.default_min_executions_to_keep",
							"Sets how many of its newest executions a tenant without a policy keeps whatever their age.",
							NULL,
							&retention_default_min_executions_to_keep,
							100, 0, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.batch_size",
							"Sets the number of rows that one batch deletes at most.",
							NULL,
							&retention_batch_size,
							1000, 1, RETENTION_MAX_BATCH_SIZE, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.max_batches_per_call",
							"Sets the number of batches after which one call of cleanup_old_executions() stops.",
							"0 means no limit.",
							&retention_max_batches_per_call,
							0, 0, INT_MAX, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.lock_timeout",
							"Sets how long the rows that other transactions hold are waited for before they are left to the next cleanup.",
							NULL,
							&retention_lock_timeout,
							2000, 1, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("retention.enabled",
							 "Sets whether retention.run() deletes anything.",
							 NULL,
							 &retention_enabled,
							 true, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("retention.apply_default_policy",
							 "Sets whether retention.run() cleans tenants without a policy by the default settings.",
							 NULL,
							 &retention_apply_default_policy,
							 false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("retention.max_runtime",
							"Sets how long a run goes on at most.",
							"0 means no limit.",
							&retention_max_runtime,
							0, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.max_rows_per_second",
							"Sets how many rows a run deletes in a second at most, on average.",
							"0 means no limit.",
							&retention_max_rows_per_second,
							0, 0, INT_MAX, PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.max_replication_lag",
							"Sets how much WAL a standby or a logical slot may be behind before a run waits for it.",
							"0 means no limit.",
							&retention_max_replication_lag,
							0, 0, INT_MAX, PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.pause_between_batches",
							"Sets how long a run rests after each commit.",
							NULL,
							&retention_pause_between_batches,
							0, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.history_days",
							"Sets after how many days the history of a run is removed.",
							NULL,
							&retention_history_days,
							90, 1, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("retention.log_min_duration",
							"Sets how long a run must have taken to be logged when it ends.",
							"0 logs all runs, -1 none.",
							&retention_log_min_duration,
							0, -1, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomStringVariable("retention.schedule",
							   "Sets the cron schedule that retention.schedule() uses by default.",
							   NULL,
							   &retention_schedule,
							   "0 2 * * *", PGC_USERSET, 0,
							   NULL, NULL, NULL);

	MarkGUCPrefixReserved("retention");
}
