/*
 * retention.c
 *	  The loadable module: magic block and initialisation.
 */
#include "postgres.h"

#include "fmgr.h"

#include "guc.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/*
 * Defines the settings; nothing else happens when the library is loaded.
 */
void
_PG_init(void)
{
	retention_define_settings();
}
