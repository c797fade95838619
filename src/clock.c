/*
 * clock.c
 *	  How much time has passed.
 *
 * The time of day can be set, forwards and backwards, while a run goes on.
 * Whatever waits or measures looks at this clock instead, which knows no date.
 */
#include "postgres.h"

#include "portability/instr_time.h"

#include "clock.h"

/*
 * Microseconds since some moment, the same for as long as the session lasts.
 */
int64
retention_clock(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}
