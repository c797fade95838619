/*
 * install.c
 *	  Which table is cleaned, and its indexes.
 *
 * Finds the table, adopts or builds the indexes of the SQL contract, makes
 * them go with the extension, and records the table.  Must not touch rows of
 * the table.
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "commands/comment.h"
#include "commands/extension.h"
#include "storage/lmgr.h"

#include "compat.h"
#include "install.h"
#include "policy.h"
#include "query.h"
#include "spi_util.h"
#include "target.h"

/* a table from this size on gets a word about CONCURRENTLY: 128 MB */
#define LARGE_TABLE_BLOCKS (128 * 1024 * 1024 / BLCKSZ)

/*
 * Finds the table called "executions".  Returns InvalidOid, or fails with
 * 42P01, when there is none.
 */
Oid
retention_install_find(bool missing_ok)
{
	List	   *candidates = retention_target_candidates();

	if (candidates != NIL)
		return linitial_oid(candidates);
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s\" does not exist in a schema of the search path",
						RETENTION_TABLE),
				 errhint("Name it: SELECT retention.attach('your_schema.%s');",
						 RETENTION_TABLE)));
	return InvalidOid;
}

/*
 * Tells what this table's columns mean for cleaning, where it is not obvious.
 */
static void
report_shape(const RetentionTarget *target)
{
	if (target->nlegs == RETENTION_MAX_LEGS)
		return;
	if (strcmp(target->legs[0].column, RETENTION_STARTED_COLUMN) == 0)
		ereport(NOTICE,
				(errmsg("table \"%s.%s\" has no column \"%s\"",
						target->nspname, target->relname,
						RETENTION_CREATED_COLUMN),
				 errdetail("Rows whose \"%s\" is NULL are of unknown age and are never deleted.",
						   RETENTION_STARTED_COLUMN)));
	else
		ereport(NOTICE,
				(errmsg("table \"%s.%s\" has no column \"%s\"",
						target->nspname, target->relname,
						RETENTION_STARTED_COLUMN),
				 errdetail("The age of a row is counted from \"%s\" alone.",
						   RETENTION_CREATED_COLUMN)));
}

/*
 * Builds the index of a leg.  Writers of the table wait meanwhile.
 */
static void
build_index(const RetentionTarget *target, int leg)
{
	BlockNumber blocks = retention_target_blocks(target->relid);

	if (blocks >= LARGE_TABLE_BLOCKS)
		ereport(NOTICE,
				(errmsg("building index \"%s\" on table \"%s.%s\" of %u MB",
						target->legs[leg].index_name, target->nspname,
						target->relname,
						(unsigned int) (blocks / (1024 * 1024 / BLCKSZ))),
				 errdetail("Writes to the table wait until the transaction ends."),
				 errhint("To avoid that, cancel and run this first: %s;",
						 retention_query_create_index(target, leg, true))));
	retention_spi_utility(retention_query_create_index(target, leg, false));
}

/*
 * Makes the index go when the extension is dropped: what ALTER INDEX ...
 * DEPENDS ON EXTENSION does, but without its exclusive lock, which would queue
 * behind every long query on the table.
 */
static void
depend_on_extension(Oid index)
{
	ObjectAddress address;
	ObjectAddress extension;
	Oid			extension_oid = retention_extension_oid();

	LockRelationOid(index, AccessShareLock);
	if (list_member_oid(getAutoExtensionsOfObject(RelationRelationId, index),
						extension_oid))
		return;
	ObjectAddressSet(address, RelationRelationId, index);
	ObjectAddressSet(extension, ExtensionRelationId, extension_oid);
	recordDependencyOn(&address, &extension, DEPENDENCY_AUTO_EXTENSION);
}

/*
 * Makes this table the one that is cleaned: checks its shape, uses or builds
 * its indexes, records it.  Takes ACCESS SHARE, and SHARE while it builds an
 * index.  The caller must own the table and be able to write
 * retention.target.
 */
void
retention_install(Oid relid)
{
	RetentionTarget *target = retention_target_open(relid, AccessShareLock);
	Oid			table = retention_own_relid(RETENTION_TARGET_TABLE);
	RetentionBinding binding = {relid, target->time_columns};
	List	   *bound;
	RetentionBinding *first;

	if (!retention_compat_owns_relation(relid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s.%s\"", target->nspname,
						target->relname),
				 errdetail("Its indexes become part of the extension.")));
	report_shape(target);

	for (int leg = 0; leg < target->nlegs; leg++)
	{
		Oid			index = retention_target_contract_index(target, leg);

		if (!OidIsValid(index))
		{
			build_index(target, leg);
			index = retention_target_contract_index(target, leg);
			CreateComments(index, RelationRelationId, 0,
						   "Finds the oldest and the newest executions of a tenant for the extension retention");
		}
		depend_on_extension(index);
	}

	bound = retention_binding_load(table);
	first = bound == NIL ? NULL : linitial(bound);
	if (list_length(bound) != 1 || first->relid != relid ||
		strcmp(first->time_columns, binding.time_columns) != 0)
		retention_binding_store(table, &binding);
}

/*
 * The binding that counts.  Fails with 42P01 when no table is attached or it
 * is gone, and with 55000 when it is not clear which one is meant.
 */
static RetentionBinding *
find_binding(void)
{
	List	   *bound = retention_binding_load(retention_own_relid(RETENTION_TARGET_TABLE));
	RetentionBinding *found = NULL;
	ListCell   *lc;

	foreach(lc, bound)
	{
		RetentionBinding *binding = lfirst(lc);

		if (!retention_target_has_our_name(binding->relid))
			continue;
		if (found != NULL && found->relid != binding->relid)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("more than one table \"%s\" is attached",
							RETENTION_TABLE),
					 errhint("Choose one: SELECT retention.attach('your_schema.%s');",
							 RETENTION_TABLE)));
		found = binding;
	}

	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("no table \"%s\" is attached", RETENTION_TABLE),
				 bound == NIL ?
				 errdetail("The extension was created before the table.") :
				 errdetail("The table that was attached has been dropped or renamed."),
				 errhint("Run this as the owner of the extension: SELECT retention.attach('your_schema.%s');",
						 RETENTION_TABLE)));
	return found;
}

/*
 * Fails with 55000 when a leg of the table has no usable index: each batch
 * would read the whole table.
 */
static void
require_indexes(const RetentionTarget *target)
{
	for (int leg = 0; leg < target->nlegs; leg++)
	{
		if (!OidIsValid(target->legs[leg].index))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("index \"%s\" on table \"%s.%s\" is missing or invalid",
							target->legs[leg].index_name, target->nspname,
							target->relname),
					 errdetail("Without it each batch would read the whole table."),
					 retention_target_name_is_free(target, leg) ?
					 errhint("Run this, then retention.attach() for the table: %s;",
							 retention_query_create_index(target, leg, true)) :
					 errhint("Repair it with REINDEX INDEX CONCURRENTLY, or drop it and run retention.attach() for the table.")));
	}
}

/*
 * The table that is cleaned; fails as find_binding() does.
 */
Oid
retention_installed_relid(void)
{
	return find_binding()->relid;
}

/*
 * Locks the table that is cleaned until the transaction ends and describes it,
 * in the current memory context.  ROW EXCLUSIVE is for those who may delete.
 * Fails unless the table is as it was when it was attached: without
 * started_at, say, rows would be older than they are.
 */
RetentionTarget *
retention_installed_open(LOCKMODE lockmode)
{
	RetentionBinding *binding = find_binding();
	RetentionTarget *target;

	if (lockmode >= RowExclusiveLock)
		retention_target_check_delete(binding->relid);
	target = retention_target_open(binding->relid, lockmode);
	if (strcmp(target->time_columns, binding->time_columns) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the time columns of table \"%s.%s\" have changed since it was attached",
						target->nspname, target->relname),
				 errdetail("The age of its rows came from: %s.  Now it would come from: %s.",
						   binding->time_columns, target->time_columns),
				 errhint("If that is right, run: SELECT retention.attach();")));
	require_indexes(target);
	return target;
}
