/*
 * spi_util.h
 *	  Checked SPI calls, kept plans, pinned settings, the subtransaction guard.
 */
#ifndef RETENTION_SPI_UTIL_H
#define RETENTION_SPI_UTIL_H

#include "postgres.h"

#include "executor/spi.h"

#define RETENTION_MAX_ARGS 20
#define RETENTION_MAX_INDEXES 2

/* A statement: its text with $n for values, and the types of these. */
typedef struct RetentionStatement
{
	const char *text;
	int			nargs;
	Oid			argtypes[RETENTION_MAX_ARGS];

	/*
	 * The only indexes that the plan may use on the tables that have them;
	 * those of partitions go with those of the partitioned table.
	 */
	int			nindexes;
	Oid			indexes[RETENTION_MAX_INDEXES];
} RetentionStatement;

/* Takes one row of a result; returns false when it wants no more. */
typedef bool (*RetentionRowFunction) (TupleTableSlot *slot, void *arg);

/* What one call pins, and what it found before. */
typedef struct RetentionScope
{
	int			nestlevel;
	Oid			userid;
	int			sec_context;
} RetentionScope;

extern SPIPlanPtr retention_spi_plan(Oid relid, int kind,
									 const RetentionStatement *statement);
extern Datum retention_make_array(Datum *values, int count, Oid type);
extern uint64 retention_spi_execute(SPIPlanPtr plan, int expected,
									const Datum *values, const bool *nulls,
									bool read_only,
									RetentionRowFunction row, void *arg);
extern void retention_spi_utility(const char *text);
extern bool retention_scope_switches(Oid owner);
extern void retention_scope_begin(RetentionScope *scope,
								  const char *search_path, Oid owner);
extern void retention_scope_begin_as(RetentionScope *scope, Oid role);
extern void retention_scope_end(RetentionScope *scope);
extern void retention_pin_setting(const char *name, const char *value);
extern void retention_pin_lock_timeout(int patience_ms);
extern void retention_pin_giving_in(void);
extern bool retention_is_cancel(const ErrorData *error);
extern ErrorData *retention_try(void (*function) (void *arg), void *arg);
extern void retention_must(void (*function) (void *arg), void *arg);

#endif							/* RETENTION_SPI_UTIL_H */
