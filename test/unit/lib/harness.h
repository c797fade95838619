/*
 * harness.h
 *	  What the unit tests share: assertions in TAP, random numbers, and a table
 *	  in memory that answers the planner's statements.
 *
 * The parts of src that need no server are compiled as they are, with
 * AddressSanitizer and UndefinedBehaviorSanitizer, and linked with stubs.c.
 * palloc() is malloc() there, so that a byte too far is seen.
 */
#ifndef RETENTION_HARNESS_H
#define RETENTION_HARNESS_H

#include "postgres.h"

#include "query.h"
#include "retention.h"

extern void unit_ok(bool good, const char *name,...) pg_attribute_printf(2, 3);
extern int	unit_done(void);
extern uint64 unit_random(uint64 below);
extern void unit_seed(uint64 seed);

/* Cases of one property: only the first failure is told. */
typedef struct UnitProperty
{
	const char *name;
	int64		cases;
	int64		failures;
} UnitProperty;

extern void unit_hold(UnitProperty *property, bool good, const char *detail,...) pg_attribute_printf(3, 4);
extern void unit_end(UnitProperty *property);

/* A row of the table in memory. */
typedef struct UnitRow
{
	TimestampTz time;
	int			leg;
	Oid			tableoid;
	ItemPointerData tid;
	bool		gone;
	bool		locked;			/* by others, for now */
	bool		protected;		/* by a foreign key */
	bool		tried;			/* was it to be deleted? */
} UnitRow;

extern UnitRow *unit_rows;
extern int	unit_nrows;
extern TimestampTz unit_clock;
extern int64 unit_clock_step;	/* microseconds by which each look at the clock moves it */

extern void unit_table_sort(void);
extern int64 unit_chunks(void);	/* allocated and not freed */

#endif							/* RETENTION_HARNESS_H */
