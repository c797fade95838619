/*
 * guc.h
 *	  The settings, as C variables.
 */
#ifndef RETENTION_GUC_H
#define RETENTION_GUC_H

extern int	retention_default_retention_days;
extern int	retention_default_min_executions_to_keep;
extern int	retention_batch_size;
extern int	retention_max_batches_per_call;
extern int	retention_lock_timeout;
extern bool retention_enabled;
extern bool retention_apply_default_policy;
extern int	retention_max_runtime;
extern int	retention_max_rows_per_second;
extern int	retention_max_replication_lag;
extern int	retention_pause_between_batches;
extern int	retention_history_days;
extern int	retention_log_min_duration;
extern char *retention_schedule;

extern void retention_define_settings(void);

#endif							/* RETENTION_GUC_H */
