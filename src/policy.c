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
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "policy.h"

enum
{
	POLICY_LOAD,
	POLICY_LOAD_MANY,
	POLICY_LIST,
	POLICY_RECORD,
	POLICY_RECORD_MANY,
	POLICY_RECORD_FREE,
	POLICY_DUE,
	POLICY_DUE_ALL,
	POLICY_OLDEST,
	POLICY_SAMPLE,
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
 * An integer of a policy's row.  Fails when it is not one that the table's
 * constraints, which somebody may have dropped, let in: a NULL must not be
 * taken for 0 days.
 */
static int32
policy_value(TupleTableSlot *slot, int column, const char *name, int32 least)
{
	bool		isnull;
	int32		value = DatumGetInt32(slot_getattr(slot, column, &isnull));

	if (isnull || value < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a retention policy has no valid \"%s\"", name),
				 errdetail("It must be at least %d.", least),
				 errhint("Correct the policy, and put back the constraints of its table.")));
	return value;
}

/*
 * The parts of a policy's row that every statement returns first.
 */
static void
read_policy(TupleTableSlot *slot, RetentionPolicy *policy)
{
	bool		isnull;
	Datum		is_enabled = slot_getattr(slot, 3, &isnull);

	policy->is_enabled = !isnull && DatumGetBool(is_enabled);
	policy->retention_days = policy_value(slot, 1, "retention_days", 1);
	policy->min_to_keep = policy_value(slot, 2, "min_executions_to_keep", 0);
}

/*
 * Takes the policy of a tenant.
 */
static bool
take_policy(TupleTableSlot *slot, void *arg)
{
	PolicyRow  *row = arg;

	read_policy(slot, row->policy);
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

/*
 * Takes the policy of a tenant, whose number comes with it.
 */
static bool
take_numbered(TupleTableSlot *slot, void *arg)
{
	RetentionPolicy *policies = arg;
	bool		isnull;
	PolicyRow	row;

	row.policy = &policies[DatumGetInt64(slot_getattr(slot, 4, &isnull)) - 1];
	(void) take_policy(slot, &row);
	row.policy->is_found = true;
	return true;
}

/*
 * Loads the policies of these tenants, enabled or not, with the statement that
 * reads them.  Those of tenants without one are left as they are.
 */
void
retention_policy_load_many(Oid policy_relid,
						   const RetentionStatement *statement,
						   const Datum *tenants, int count,
						   RetentionPolicy *policies)
{
	Datum		value = retention_make_array((Datum *) tenants, count, UUIDOID);

	for (int i = 0; i < count; i++)
		policies[i].is_found = false;
	retention_spi_execute(retention_spi_plan(policy_relid, POLICY_LOAD_MANY,
											 statement),
						  SPI_OK_SELECT, &value, NULL, true, take_numbered,
						  policies);
}

/*
 * Takes a policy into a list.
 */
static bool
take_listed(TupleTableSlot *slot, void *arg)
{
	List	  **policies = arg;
	RetentionPolicy *policy = palloc(sizeof(RetentionPolicy));
	bool		isnull;

	read_policy(slot, policy);
	policy->tenant = datumCopy(slot_getattr(slot, 4, &isnull), false,
							   UUID_LEN);
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

/*
 * Records in a tenant's policy, if it has one, that a cleanup deleted so many
 * rows, with the statement that does it.
 */
void
retention_policy_record(Oid policy_relid, const RetentionStatement *statement,
						Datum tenant, TimestampTz at, int64 deleted)
{
	Datum		values[3];

	values[0] = tenant;
	values[1] = TimestampTzGetDatum(at);
	values[2] = Int64GetDatum(deleted);
	retention_spi_execute(retention_spi_plan(policy_relid, POLICY_RECORD,
											 statement),
						  SPI_OK_UPDATE, values, NULL, false, NULL, NULL);
}

/*
 * Takes how many policies others hold, and the tenant of one.
 */
static bool
take_held(TupleTableSlot *slot, void *arg)
{
	RetentionHeld *held = arg;
	bool		isnull;
	Datum		tenant = slot_getattr(slot, 2, &isnull);

	held->count = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	if (held->count > 0)
		text_to_cstring_buffer(DatumGetTextPP(tenant), held->tenant,
							   sizeof(held->tenant));
	return true;
}

/*
 * Does so for many tenants, all of whom have a policy or are left out.  With
 * `held` given, the statement goes around policies that others hold, and it is
 * set to what it went around.
 */
void
retention_policy_record_many(Oid policy_relid,
							 const RetentionStatement *statement,
							 RetentionHeld *held, Datum *tenants,
							 Datum *deleted, int count, TimestampTz at)
{
	Datum		values[3];

	values[0] = retention_make_array(tenants, count, UUIDOID);
	values[1] = TimestampTzGetDatum(at);
	values[2] = retention_make_array(deleted, count, INT8OID);
	if (held != NULL)
		retention_spi_execute(retention_spi_plan(policy_relid,
												 POLICY_RECORD_FREE,
												 statement),
							  SPI_OK_SELECT, values, NULL, false, take_held,
							  held);
	else
		retention_spi_execute(retention_spi_plan(policy_relid,
												 POLICY_RECORD_MANY,
												 statement),
							  SPI_OK_UPDATE, values, NULL, false, NULL, NULL);
}

/*
 * Takes a tenant into a list.
 */
static bool
take_tenant(TupleTableSlot *slot, void *arg)
{
	List	  **tenants = arg;
	RetentionDue *due = palloc(sizeof(RetentionDue));
	bool		isnull;

	due->tenant = datumCopy(slot_getattr(slot, 1, &isnull), false, UUID_LEN);
	due->oldest = DatumGetTimestampTz(slot_getattr(slot, 2, &isnull));
	*tenants = lappend(*tenants, due);
	return true;
}

/*
 * The policies of a list as the three arrays that a statement takes them as.
 */
static void
pass_policies(const List *policies, Datum *values)
{
	int			count = list_length(policies);
	Datum	   *tenants = palloc(count * sizeof(Datum));
	Datum	   *days = palloc(count * sizeof(Datum));
	Datum	   *enabled = palloc(count * sizeof(Datum));
	Datum	   *minimums = palloc(count * sizeof(Datum));

	for (int i = 0; i < count; i++)
	{
		const RetentionPolicy *policy = list_nth(policies, i);

		tenants[i] = policy->tenant;
		days[i] = Int32GetDatum(policy->retention_days);
		enabled[i] = BoolGetDatum(policy->is_enabled);
		minimums[i] = Int32GetDatum(policy->min_to_keep);
	}
	values[0] = retention_make_array(tenants, count, UUIDOID);
	values[1] = retention_make_array(days, count, INT4OID);
	values[2] = retention_make_array(enabled, count, BOOLOID);
	values[3] = retention_make_array(minimums, count, INT4OID);
}

/*
 * Lists the tenants (RetentionDue) for whom something is due, with the
 * statement that finds them, in the current memory context.  See retention_query_due(); `passed`
 * is the policies if the statement takes them as arguments.
 */
List *
retention_policy_due(Oid policy_relid, const RetentionStatement *statement,
					 const List *passed, TimestampTz now,
					 const Datum *only_tenant, bool force,
					 bool without_policy, int32 default_days)
{
	Datum		values[8];
	bool		nulls[8] = {false};
	List	   *tenants = NIL;

	values[0] = TimestampTzGetDatum(now);
	values[1] = only_tenant != NULL ? *only_tenant : (Datum) 0;
	nulls[1] = only_tenant == NULL;
	values[2] = BoolGetDatum(force);
	values[3] = Int32GetDatum(default_days);
	if (statement->nargs > 4)
		pass_policies(passed, values + 4);
	retention_spi_execute(retention_spi_plan(policy_relid, without_policy ?
											 POLICY_DUE_ALL : POLICY_DUE,
											 statement),
						  SPI_OK_SELECT, values, nulls, true,
						  take_tenant, &tenants);
	return tenants;
}

/*
 * Hands over the tenants for whom something is due, with the statement that
 * finds them.  See retention_query_oldest(); `before` may be NULL.
 */
void
retention_policy_oldest(Oid policy_relid, const RetentionStatement *statement,
						const List *passed, TimestampTz now,
						const TimestampTz *before, RetentionRowFunction row,
						void *arg)
{
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = TimestampTzGetDatum(now);
	values[1] = before != NULL ? TimestampTzGetDatum(*before) : (Datum) 0;
	nulls[1] = before == NULL;
	if (statement->nargs > 2)
		pass_policies(passed, values + 2);
	retention_spi_execute(retention_spi_plan(policy_relid, POLICY_OLDEST,
											 statement),
						  SPI_OK_SELECT, values, nulls, true, row, arg);
}

/*
 * Takes a count.
 */
static bool
take_count(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(int64 *) arg = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	return false;
}

/*
 * Counts the rows that are due in a sample of the table, with the statement
 * for it.
 */
int64
retention_policy_sample(Oid policy_relid, const RetentionStatement *statement,
						const List *passed, float4 percent, TimestampTz now,
						bool force)
{
	Datum		values[7];
	int64		count = 0;

	values[0] = Float4GetDatum(percent);
	values[1] = TimestampTzGetDatum(now);
	values[2] = BoolGetDatum(force);
	if (statement->nargs > 3)
		pass_policies(passed, values + 3);
	retention_spi_execute(retention_spi_plan(policy_relid, POLICY_SAMPLE,
											 statement),
						  SPI_OK_SELECT, values, NULL, true,
						  take_count, &count);
	return count;
}

/*
 * Takes a binding into a list.
 */
static bool
take_binding(TupleTableSlot *slot, void *arg)
{
	List	  **bindings = arg;
	RetentionBinding *binding = palloc(sizeof(RetentionBinding));
	bool		isnull;
	Datum		value = slot_getattr(slot, 1, &isnull);

	binding->relid = isnull ? InvalidOid : DatumGetObjectId(value);
	value = slot_getattr(slot, 2, &isnull);
	binding->time_columns = isnull ? "" : TextDatumGetCString(value);
	*bindings = lappend(*bindings, binding);
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
		.text = "SELECT relation, time_columns FROM retention.target"
	};
	List	   *bindings = NIL;

	retention_spi_execute(retention_spi_plan(binding_relid, BINDING_LOAD,
											 &statement),
						  SPI_OK_SELECT, NULL, NULL, true,
						  take_binding, &bindings);
	return bindings;
}

/*
 * Records a table as the one to clean, in place of any other.
 */
void
retention_binding_store(Oid binding_relid, const RetentionBinding *binding)
{
	RetentionStatement clear = {
		.text = "DELETE FROM retention.target"
	};
	RetentionStatement store =
	{
		.text = "INSERT INTO retention.target (relation, time_columns) VALUES ($1, $2)",
		.nargs = 2,
		.argtypes = {REGCLASSOID, TEXTOID}
	};
	Datum		values[2];

	values[0] = ObjectIdGetDatum(binding->relid);
	values[1] = CStringGetTextDatum(binding->time_columns);
	retention_spi_execute(retention_spi_plan(binding_relid, BINDING_CLEAR,
											 &clear),
						  SPI_OK_DELETE, NULL, NULL, false, NULL, NULL);
	retention_spi_execute(retention_spi_plan(binding_relid, BINDING_STORE,
											 &store),
						  SPI_OK_INSERT, values, NULL, false, NULL, NULL);
}
