/*
 * target.c
 *	  From a table to its RetentionTarget.
 *
 * The only reader of catalogs: columns, types, indexes, owner, and where the
 * extension and its own tables are.  Must not run SQL or know policies.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/primnodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteDefine.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "target.h"

typedef enum IndexFit
{
	INDEX_FITS,
	INDEX_IS_INVALID,
	INDEX_DIFFERS
} IndexFit;

/*
 * The schema that the extension was created in.
 */
static Oid
extension_schema(void)
{
	Relation	catalog = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(RETENTION_EXTENSION));
	scan = systable_beginscan(catalog, ExtensionNameIndexId, true, NULL, 1,
							  &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	if (!OidIsValid(schema))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" does not exist",
						RETENTION_EXTENSION)));
	return schema;
}

/*
 * The OID of the extension.
 */
Oid
retention_extension_oid(void)
{
	return get_extension_oid(RETENTION_EXTENSION, false);
}

/*
 * Fails: somebody has renamed a table of the extension.
 */
static void
report_missing(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table \"%s\" of extension \"%s\" is missing", name,
					RETENTION_EXTENSION),
			 errhint("Give it back its name.")));
}

/*
 * The policy table.
 */
Oid
retention_policy_relid(void)
{
	Oid			relid = get_relname_relid(RETENTION_POLICY_TABLE,
										  extension_schema());

	if (!OidIsValid(relid))
		report_missing(RETENTION_POLICY_TABLE);
	return relid;
}

/*
 * A table of the extension in the schema "retention".
 */
Oid
retention_own_relid(const char *name)
{
	Oid			relid = get_relname_relid(name,
										  get_namespace_oid(RETENTION_SCHEMA,
															false));

	if (!OidIsValid(relid))
		report_missing(name);
	return relid;
}

/*
 * Fails: a table has just been dropped.
 */
static void
report_gone(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("table with OID %u does not exist", relid)));
}

/*
 * The owner of a table.
 */
Oid
retention_relation_owner(Oid relid)
{
	Relation	rel = try_table_open(relid, AccessShareLock);
	Oid			owner;

	if (rel == NULL)
		report_gone(relid);
	owner = rel->rd_rel->relowner;
	table_close(rel, AccessShareLock);
	return owner;
}

/*
 * The schemas in which the caller looks for tables.  While the extension is
 * being created search_path is not the caller's, so its value from before
 * counts.
 */
static List *
caller_schemas(void)
{
	const char *path;
	List	   *names;
	List	   *schemas = NIL;
	ListCell   *lc;

	if (!creating_extension)
		return fetch_search_path(false);

	path = retention_compat_prior_setting("search_path");
	if (path == NULL ||
		!SplitIdentifierString(pstrdup(path), ',', &names))
		return NIL;

	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		Oid			schema;

		if (strcmp(name, "$user") == 0)
			name = GetUserNameFromId(GetUserId(), false);
		if (strcmp(name, "pg_temp") == 0)
			continue;
		schema = get_namespace_oid(name, true);
		if (OidIsValid(schema))
			schemas = list_append_unique_oid(schemas, schema);
	}
	return schemas;
}

/*
 * The relations that the name "executions" may mean, the likeliest first: what
 * the caller's search path finds, then what stands in the extension's schema.
 * Temporary ones do not count.
 */
List *
retention_target_candidates(void)
{
	List	   *schemas = list_append_unique_oid(caller_schemas(),
												 extension_schema());
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, schemas)
	{
		Oid			relid = InvalidOid;

		if (!isTempOrTempToastNamespace(lfirst_oid(lc)))
			relid = get_relname_relid(RETENTION_TABLE, lfirst_oid(lc));
		if (OidIsValid(relid))
			found = lappend_oid(found, relid);
	}
	return found;
}

/*
 * Is there a relation with this OID, and is it called "executions"?
 */
bool
retention_target_has_our_name(Oid relid)
{
	const char *name = get_rel_name(relid);

	return name != NULL && strcmp(name, RETENTION_TABLE) == 0;
}

/*
 * Fails with 42501 unless the current user may delete from the table.
 */
void
retention_target_check_delete(Oid relid)
{
	if (pg_class_aclcheck(relid, GetUserId(), ACL_DELETE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table \"%s\"",
						get_rel_name(relid)),
				 errhint("Cleaning needs SELECT and DELETE on the table.")));
}

/*
 * How many blocks the table has.
 */
BlockNumber
retention_target_blocks(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	BlockNumber blocks = 0;

	if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		blocks = RelationGetNumberOfBlocks(rel);
	table_close(rel, AccessShareLock);
	return blocks;
}

/*
 * The attribute of this name, or NULL.
 */
static Form_pg_attribute
find_attribute(Relation rel, const char *name)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped &&
			strcmp(NameStr(attribute->attname), name) == 0)
			return attribute;
	}
	return NULL;
}

/*
 * The index's predicate as a list of conditions, as it was written.  Not what
 * RelationGetIndexPredicate() gives, which evaluates what is constant in it:
 * that would run functions of the table's owner with the caller's rights.
 */
static List *
written_predicate(Relation index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID,
										ObjectIdGetDatum(RelationGetRelid(index)));
	Expr	   *predicate = NULL;
	bool		isnull = true;
	Datum		value = (Datum) 0;

	if (HeapTupleIsValid(tuple))
	{
		value = SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indpred,
								&isnull);
		if (!isnull)
			predicate = stringToNode(TextDatumGetCString(value));
		ReleaseSysCache(tuple);
	}
	return make_ands_implicit(canonicalize_qual(predicate, false));
}

/*
 * Does each part of the index's predicate hold for every row of the leg, so
 * that the index has all of them, and does the predicate leave out the rows
 * of other legs?
 */
static bool
predicate_fits(Relation rel, Relation index, const RetentionLeg *leg)
{
	AttrNumber	attnum = find_attribute(rel, leg->column)->attnum;
	AttrNumber	null_attnum = InvalidAttrNumber;
	bool		excludes_others = leg->null_column == NULL;
	ListCell   *lc;

	if (leg->null_column != NULL)
		null_attnum = find_attribute(rel, leg->null_column)->attnum;

	foreach(lc, written_predicate(index))
	{
		NullTest   *test = lfirst(lc);
		AttrNumber	tested;

		if (!IsA(test, NullTest) || !IsA(test->arg, Var))
			return false;
		tested = castNode(Var, test->arg)->varattno;
		if (test->nulltesttype == IS_NOT_NULL && tested == attnum)
			continue;
		if (test->nulltesttype == IS_NULL && tested == null_attnum)
			excludes_others = true;
		else
			return false;
	}
	return excludes_others;
}

/*
 * Can this index find the rows of a leg for one tenant in order of time?
 */
static IndexFit
index_fit(Relation rel, Oid index_oid, const RetentionTarget *target,
		  const RetentionLeg *leg)
{
	Oid			types[2] = {target->tenant_type, leg->type};
	const char *columns[2] = {target->tenant_column, leg->column};
	Relation	index;
	IndexFit	fit = INDEX_DIFFERS;
	bool		same;

	index = index_open(index_oid, AccessShareLock);
	same = index->rd_rel->relam == BTREE_AM_OID &&
		index->rd_index->indrelid == RelationGetRelid(rel) &&
		index->rd_index->indnkeyatts >= 2;
	for (int i = 0; same && i < 2; i++)
	{
		TypeCacheEntry *type = lookup_type_cache(types[i],
												 TYPECACHE_BTREE_OPFAMILY);

		same = index->rd_index->indkey.values[i] ==
			find_attribute(rel, columns[i])->attnum &&
			index->rd_opfamily[i] == type->btree_opf;
	}
	if (same && predicate_fits(rel, index, leg))
		fit = index->rd_index->indisvalid && index->rd_index->indisready &&
			index->rd_index->indislive ? INDEX_FITS : INDEX_IS_INVALID;
	index_close(index, AccessShareLock);
	return fit;
}

/*
 * Any usable index that serves the leg, by whatever name, or InvalidOid.
 */
static Oid
find_index(Relation rel, const RetentionTarget *target,
		   const RetentionLeg *leg)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			found = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		if (index_fit(rel, lfirst_oid(lc), target, leg) == INDEX_FITS)
		{
			found = lfirst_oid(lc);
			break;
		}
	}
	list_free(indexes);
	return found;
}

/*
 * Fails when a partition is a foreign table: it has none of our indexes.
 */
static void
check_partitions(Relation rel, const RetentionTarget *target)
{
	List	   *members = find_all_inheritors(RelationGetRelid(rel), NoLock,
											  NULL);
	ListCell   *lc;

	foreach(lc, members)
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("partition \"%s\" of table \"%s.%s\" is a foreign table",
							get_rel_name(lfirst_oid(lc)), target->nspname,
							target->relname),
					 errhint("Detach the partition.")));
	}
	list_free(members);
}

/*
 * Does a rule rewrite DELETE statements on the table?
 */
static bool
has_delete_rule(Relation rel)
{
	for (int i = 0; rel->rd_rules != NULL && i < rel->rd_rules->numLocks; i++)
	{
		RewriteRule *rule = rel->rd_rules->rules[i];

		if (rule->event == CMD_DELETE && rule->enabled != RULE_DISABLED)
			return true;
	}
	return false;
}

/*
 * Fails unless the relation is of a kind that can be cleaned.
 */
static void
check_kind(Relation rel, const RetentionTarget *target)
{
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s.%s\" is not a table", target->nspname,
						target->relname),
				 errdetail("Views and foreign tables cannot be cleaned."),
				 errhint("Attach the table that holds the rows.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s.%s\" is temporary", target->nspname,
						target->relname),
				 errhint("Attach a permanent table.")));
	if (strcmp(target->relname, RETENTION_TABLE) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s.%s\" is not named \"%s\"",
						target->nspname, target->relname, RETENTION_TABLE),
				 errhint("Rename it, or attach the table of that name.")));
	if (has_delete_rule(rel))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s.%s\" has a rule on DELETE",
						target->nspname, target->relname),
				 errdetail("The rule would change what a cleanup deletes."),
				 errhint("Drop the rule, or use a trigger instead.")));
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		check_partitions(rel, target);
	if (rel->rd_rel->relkind == RELKIND_RELATION &&
		rel->rd_rel->relhassubclass &&
		find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s.%s\" has inheritance children",
						target->nspname, target->relname),
				 errdetail("The indexes of the table do not cover the rows of its children."),
				 errhint("Use declarative partitioning instead.")));
}

/*
 * Fails when the column is a virtual generated one: no index can have it.
 */
static void
check_not_virtual(Form_pg_attribute attribute, const RetentionTarget *target)
{
	if (retention_compat_is_virtual(attribute))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of table \"%s.%s\" is a virtual generated column",
						NameStr(attribute->attname), target->nspname,
						target->relname),
				 errdetail("No index can have it, and without one each batch would read the whole table."),
				 errhint("Drop the column and add it again as GENERATED ALWAYS AS (...) STORED.")));
}

/*
 * Fills in the tenant column, which must be of type uuid.
 */
static void
load_tenant_column(Relation rel, RetentionTarget *target)
{
	Form_pg_attribute attribute;

	target->tenant_column = RETENTION_TENANT_COLUMN;
	attribute = find_attribute(rel, target->tenant_column);
	if (attribute == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s.%s\" has no column \"%s\"",
						target->nspname, target->relname,
						target->tenant_column),
				 errhint("Add a column \"%s\" of type uuid that names the tenant of each row.",
						 target->tenant_column)));

	target->tenant_type = getBaseType(attribute->atttypid);
	target->tenant_collation = attribute->attcollation;
	if (target->tenant_type != UUIDOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table \"%s.%s\" is of type %s but must be of type uuid",
						target->tenant_column, target->nspname,
						target->relname, format_type_be(attribute->atttypid)),
				 errhint("Convert the column with ALTER TABLE ... ALTER COLUMN ... TYPE uuid.")));
	check_not_virtual(attribute, target);
}

/*
 * Adds a leg for a time column.  Without the column there is no such leg.
 */
static void
load_leg(Relation rel, RetentionTarget *target, const char *column,
		 const char *null_column, const char *index_name)
{
	Form_pg_attribute attribute = find_attribute(rel, column);
	RetentionLeg *leg;

	if (attribute == NULL)
		return;

	leg = &target->legs[target->nlegs++];
	leg->column = column;
	leg->null_column = null_column;
	leg->index_name = index_name;
	leg->type = getBaseType(attribute->atttypid);
	if (leg->type != TIMESTAMPTZOID && leg->type != TIMESTAMPOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table \"%s.%s\" is of type %s but must be a timestamp",
						column, target->nspname, target->relname,
						format_type_be(attribute->atttypid)),
				 errhint("Convert the column to timestamp with time zone.")));
	check_not_virtual(attribute, target);
}

/*
 * Describes a table that the caller has opened.
 */
static RetentionTarget *
describe(Relation rel)
{
	RetentionTarget *target = palloc0(sizeof(RetentionTarget));

	target->relid = RelationGetRelid(rel);
	target->owner = rel->rd_rel->relowner;
	target->relname = pstrdup(RelationGetRelationName(rel));
	target->nspname = get_namespace_name(RelationGetNamespace(rel));
	check_kind(rel, target);
	load_tenant_column(rel, target);

	load_leg(rel, target, RETENTION_STARTED_COLUMN, NULL,
			 RETENTION_STARTED_INDEX);
	if (target->nlegs > 0)
		load_leg(rel, target, RETENTION_CREATED_COLUMN,
				 RETENTION_STARTED_COLUMN, RETENTION_CREATED_INDEX);
	else
		load_leg(rel, target, RETENTION_CREATED_COLUMN, NULL,
				 RETENTION_STARTED_INDEX);
	if (target->nlegs == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s.%s\" has neither a column \"%s\" nor a column \"%s\"",
						target->nspname, target->relname,
						RETENTION_STARTED_COLUMN, RETENTION_CREATED_COLUMN),
				 errdetail("Without one of them the age of a row is unknown."),
				 errhint("Add one of them with type timestamp with time zone.")));

	/* what the partitions have is not looked at */
	target->may_keep = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ||
		rel->rd_rel->relrowsecurity ||
		(rel->trigdesc != NULL && rel->trigdesc->trig_delete_before_row);

	target->file = rel->rd_rel->relfilenode;
	target->is_plain = rel->rd_rel->relkind == RELKIND_RELATION &&
		rel->rd_rel->relam == HEAP_TABLE_AM_OID && !rel->rd_rel->relrowsecurity;

	target->time_columns = target->nlegs == 1 ? target->legs[0].column :
		psprintf("%s, %s", target->legs[0].column, target->legs[1].column);

	for (int i = 0; i < target->nlegs; i++)
		target->legs[i].index = find_index(rel, target, &target->legs[i]);
	return target;
}

/*
 * Locks a table in this mode until the transaction ends and describes it.
 * Fails with a clear message when it is gone or not fit to be cleaned.  The
 * description is in the current memory context.
 */
RetentionTarget *
retention_target_open(Oid relid, LOCKMODE lockmode)
{
	Relation	rel = try_table_open(relid, lockmode);
	RetentionTarget *target;

	if (rel == NULL)
		report_gone(relid);

	/*
	 * The weaker locks that statements take on it, too: a lock taken anew may
	 * bring an invalidation that would make the server plan a statement anew
	 * when it runs.
	 */
	LockRelationOid(relid, AccessShareLock);
	if (lockmode >= RowExclusiveLock)
		LockRelationOid(relid, RowShareLock);
	target = describe(rel);
	table_close(rel, NoLock);
	return target;
}

/*
 * Is the name free that the SQL contract gives the leg's index?
 */
bool
retention_target_name_is_free(const RetentionTarget *target, int legno)
{
	return !OidIsValid(get_relname_relid(target->legs[legno].index_name,
										 get_namespace_oid(target->nspname,
														   false)));
}

/*
 * The index that stands under the name that the SQL contract gives the leg's
 * index, or InvalidOid when the name is free.  Fails when the name belongs to
 * something that does not serve the leg.
 */
Oid
retention_target_contract_index(const RetentionTarget *target, int legno)
{
	const RetentionLeg *leg = &target->legs[legno];
	Oid			index;
	char		relkind;
	Relation	rel;
	IndexFit	fit = INDEX_DIFFERS;

	index = get_relname_relid(leg->index_name,
							  get_namespace_oid(target->nspname, false));
	if (!OidIsValid(index))
		return InvalidOid;

	relkind = get_rel_relkind(index);
	if (relkind == RELKIND_INDEX || relkind == RELKIND_PARTITIONED_INDEX)
	{
		rel = table_open(target->relid, AccessShareLock);
		fit = index_fit(rel, index, target, leg);
		table_close(rel, AccessShareLock);
	}
	if (fit == INDEX_IS_INVALID)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s.%s\" is invalid", target->nspname,
						leg->index_name),
				 errdetail("A concurrent build of it failed or is still under way."),
				 errhint("Wait for it, or drop the index and build it again.")));
	if (fit == INDEX_DIFFERS && leg->null_column != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("relation \"%s.%s\" exists but does not fit",
						target->nspname, leg->index_name),
				 errdetail("It must be a btree index on (%s, %s) of table \"%s.%s\" with the condition %s IS NULL.",
						   target->tenant_column, leg->column,
						   target->nspname, target->relname,
						   leg->null_column),
				 errhint("Rename or drop it.")));
	if (fit == INDEX_DIFFERS)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("relation \"%s.%s\" exists but does not fit",
						target->nspname, leg->index_name),
				 errdetail("It must be a btree index on (%s, %s) of table \"%s.%s\", for all rows or with the condition %s IS NOT NULL.",
						   target->tenant_column, leg->column,
						   target->nspname, target->relname, leg->column),
				 errhint("Rename or drop it.")));
	return index;
}
