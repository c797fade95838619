#include "postgres.h"
#include "fmgr.h"
PG_FUNCTION_INFO_V1(retention_run);
Datum
retention_run(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}
