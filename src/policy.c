/*
 * policy.c
 *	  Policy rows, and the table they are about.
 *
 * The one loader through which policies reach the planner.  Reads and writes
 * with the rights of the current user.  Must not look at the table to clean.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/datum.h"
#include "utils/uuid.h"

#include "policy.h"

enum
{
	POLICY_LOAD,
	POLICY_LIST,
	BINDING_LOAD,
	BINDING_CLEAR,
	BINDING_STORE
};

typedef struct PolicyRow
{
	RetentionPolicy *policy;
	bool		found;
} PolicyRow;

/*
 * The parts of a policy's row that every statement returns first.
 */
static bool
take_policy(TupleTableSlot *slot, void *arg)
{
	PolicyRow  *row = arg;
	bool		isnull;

	row->policy->retention_days = DatumGetInt32(slot_getattr(slot, 1,
															 &isnull));
	row->policy->min_to_keep = DatumGetInt32(slot_getattr(slot, 2, &isnull));
	row->found = true;
	return false;
}

/*
 * Loads the policy of a tenant, enabled or not, with the statement that reads
 * it.  Returns false when the tenant has none.
 */
bool
retention_policy_load(Oid policy_relid, const RetentionStatement *statement,
					  Datum tenant, RetentionPolicy *policy)
{
	PolicyRow	row = {policy, false};
	SPIPlanPtr	plan = retention_spi_plan(policy_relid, POLICY_LOAD,
										  statement);

	retention_spi_execute(plan, SPI_OK_SELECT, &tenant, NULL, true,
						  take_policy, &row);
	return row.found;
}

static bool
take_listed(TupleTableSlot *slot, void *arg)
{
	List	  **policies = arg;
	RetentionPolicy *policy = palloc(sizeof(RetentionPolicy));
	bool		isnull;

	policy->retention_days = DatumGetInt32(slot_getattr(slot, 1, &isnull));
	policy->min_to_keep = DatumGetInt32(slot_getattr(slot, 2, &isnull));
	policy->tenant = datumCopy(slot_getattr(slot, 3, &isnull), false,
							   UUID_LEN);
	policy->is_enabled = DatumGetBool(slot_getattr(slot, 4, &isnull));
	*policies = lappend(*policies, policy);
	return true;
}

/*
 * Lists the policies, with the statement that reads them: that of a tenant,
 * or all when tenant is NULL.  In the current memory context.
 */
List *
retention_policy_list(Oid policy_relid, const RetentionStatement *statement,
					  const Datum *tenant)
{
	SPIPlanPtr	plan = retention_spi_plan(policy_relid, POLICY_LIST,
										  statement);
	List	   *policies = NIL;
	Datum		value = tenant != NULL ? *tenant : (Datum) 0;
	bool		isnull = tenant == NULL;

	retention_spi_execute(plan, SPI_OK_SELECT, &value, &isnull, true,
						  take_listed, &policies);
	return policies;
}

static bool
take_binding(TupleTableSlot *slot, void *arg)
{
	List	  **relids = arg;
	bool		isnull;
	Oid			relid = DatumGetObjectId(slot_getattr(slot, 1, &isnull));

	*relids = list_append_unique_oid(*relids, relid);
	return true;
}

/*
 * The recorded tables to clean.  There can be several when a restore added to
 * what CREATE EXTENSION had recorded, and they may be gone.
 */
List *
retention_binding_load(Oid binding_relid)
{
	RetentionStatement statement = {
		"SELECT relation FROM retention.target", 0, {InvalidOid}
	};
	List	   *relids = NIL;

	retention_spi_execute(retention_spi_plan(binding_relid, BINDING_LOAD,
											 &statement),
						  SPI_OK_SELECT, NULL, NULL, true,
						  take_binding, &relids);
	return relids;
}

/*
 * Records a table as the one to clean, in place of any other.
 */
void
retention_binding_store(Oid binding_relid, Oid relid)
{
	RetentionStatement clear = {
		"DELETE FROM retention.target", 0, {InvalidOid}
	};
	RetentionStatement store =
	{
		"INSERT INTO retention.target (relation) VALUES ($1)", 1, {REGCLASSOID}
	};
	Datum		value = ObjectIdGetDatum(relid);

	retention_spi_execute(retention_spi_plan(binding_relid, BINDING_CLEAR,
											 &clear),
						  SPI_OK_DELETE, NULL, NULL, false, NULL, NULL);
	retention_spi_execute(retention_spi_plan(binding_relid, BINDING_STORE,
											 &store),
						  SPI_OK_INSERT, &value, NULL, false, NULL, NULL);
}
