/*
 * clock.h
 *	  How much time has passed.
 */
#ifndef RETENTION_CLOCK_H
#define RETENTION_CLOCK_H

#include "postgres.h"

extern int64 retention_clock(void);

#endif							/* RETENTION_CLOCK_H */
