/*
 * spi_util.c
 *	  Checked SPI calls, kept plans, pinned settings, the subtransaction guard.
 *
 * Every statement of the extension goes through here.  Knows no table: callers
 * bring the text.  Must not commit.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "nodes/parsenodes.h"
#include "nodes/pathnodes.h"
#include "storage/proc.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/resowner.h"

#include "compat.h"
#include "spi_util.h"

/* Kept plans, by relation and kind of statement. */
typedef struct PlanKey
{
	Oid			relid;
	int			kind;
} PlanKey;

typedef struct PlanEntry
{
	PlanKey		key;
	SPIPlanPtr	plan;
	CachedPlan *generic;		/* that we built: compared, never used */
} PlanEntry;

static HTAB *plans = NULL;

/* the statement that is being planned, and the hook that was there before */
static const RetentionStatement *planned_statement = NULL;
static RetentionRelHook prior_rel_hook = NULL;

/* how many statements are under way, one within a trigger of the other */
static int	depth = 0;

/*
 * Settings under which plans are made.  The statements ask for one tenant's
 * rows in the order of an index, a few at a time; a sequential scan or a sort
 * that statistics make look cheap today (a tenant that did not exist at the
 * last ANALYZE) is a disaster tomorrow, because the plan is kept.  JIT off:
 * the high costs that "disabled" path types carry would trigger it.
 */
static const char *const planner_settings[][2] = {
	{"enable_seqscan", "off"},
	{"enable_bitmapscan", "off"},
	{"enable_sort", "off"},
	{"enable_indexscan", "on"},
	{"enable_indexonlyscan", "on"},
	{"enable_tidscan", "on"},
	{"max_parallel_workers_per_gather", "0"},
	{"jit", "off"},
};

/* A DestReceiver that hands each row to a function. */
typedef struct RowReceiver
{
	DestReceiver pub;
	RetentionRowFunction row;
	void	   *arg;
	MemoryContext context;		/* the caller's */
} RowReceiver;


/*
 * Sets one setting until the innermost nest level or subtransaction ends.
 */
void
retention_pin_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value,
							 superuser() ? PGC_SUSET : PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Waits for locks no longer than this, nor than the caller wants to, until the
 * innermost nest level or subtransaction ends.
 */
void
retention_pin_lock_timeout(int patience_ms)
{
	char		value[16];

	if (LockTimeout > 0 && LockTimeout < patience_ms)
		return;
	snprintf(value, sizeof(value), "%d", patience_ms);
	retention_pin_setting("lock_timeout", value);
}

/*
 * Waits for locks so long at most that whoever holds them, and wants what this
 * session holds, does not find a deadlock: this session gives in first.
 */
void
retention_pin_giving_in(void)
{
	retention_pin_lock_timeout(Max(DeadlockTimeout / 2, 1));
}

/*
 * The one statement behind a plan.
 */
static CachedPlanSource *
plan_source(SPIPlanPtr plan)
{
	return linitial(SPI_plan_get_plan_sources(plan));
}

/*
 * May the statement that is being planned use this index?
 */
static bool
is_index_of_statement(Oid index)
{
	List	   *ancestors = NIL;
	bool		found = false;

	if (get_rel_relispartition(index))
		ancestors = get_partition_ancestors(index);
	for (int i = 0; !found && i < planned_statement->nindexes; i++)
		found = index == planned_statement->indexes[i] ||
			list_member_oid(ancestors, planned_statement->indexes[i]);
	list_free(ancestors);
	return found;
}

/*
 * While a plan is built: hides the other indexes of the tables that have the
 * statement's.  An index on the time alone may look as good to the planner as
 * ours when statistics know one tenant; for the others it reads everything.
 */
static void
hide_other_indexes(RETENTION_REL_HOOK_PARAMS)
{
	List	   *kept = NIL;
	ListCell   *lc;

	if (prior_rel_hook != NULL)
		prior_rel_hook(RETENTION_REL_HOOK_ARGS);

	foreach(lc, rel->indexlist)
	{
		IndexOptInfo *index = lfirst(lc);

		if (is_index_of_statement(index->indexoid))
			kept = lappend(kept, index);
	}
	if (kept != NIL)
		rel->indexlist = kept;
}

/*
 * Builds the generic plan of a statement under planner_settings and with its
 * own indexes.  Only planning happens so: triggers that fire when the
 * statement runs plan their own queries as ever.
 */
static void
build_generic_plan(PlanEntry *entry, const RetentionStatement *statement)
{
	int			nestlevel = NewGUCNestLevel();
	const RetentionStatement *outer_statement = planned_statement;
	RetentionRelHook outer_hook = retention_compat_rel_hook;
	RetentionRelHook outer_prior = prior_rel_hook;

	for (int i = 0; i < (int) lengthof(planner_settings); i++)
		retention_pin_setting(planner_settings[i][0], planner_settings[i][1]);

	PG_TRY();
	{
		CachedPlan *cplan;

		if (statement->nindexes > 0)
		{
			planned_statement = statement;
			if (outer_hook != hide_other_indexes)
				prior_rel_hook = outer_hook;
			retention_compat_rel_hook = hide_other_indexes;
		}
		cplan = SPI_plan_get_cached_plan(entry->plan);
		if (cplan == NULL)
			elog(ERROR, "statement has no single plan");
		entry->generic = cplan;
		ReleaseCachedPlan(cplan, CurrentResourceOwner);
	}
	PG_FINALLY();
	{
		retention_compat_rel_hook = outer_hook;
		prior_rel_hook = outer_prior;
		planned_statement = outer_statement;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nestlevel);
}

/*
 * Is the generic plan that we built there, and will the server run it as it
 * is?  One that depends on the role or on the current snapshot may be made
 * anew when it runs.
 */
static bool
has_lasting_plan(const PlanEntry *entry)
{
	CachedPlanSource *source = plan_source(entry->plan);

	return source->is_valid && source->gplan == entry->generic && !source->dependsOnRLS &&
		source->gplan != NULL && source->gplan->is_valid &&
		!source->gplan->dependsOnRole &&
		!TransactionIdIsValid(source->gplan->saved_xmin);
}

/*
 * Is this plan still the one for the statement?  Not when a name or a type has
 * changed.  A plan that has merely become invalid plans itself anew.
 */
static bool
plan_fits(SPIPlanPtr plan, const RetentionStatement *statement)
{
	CachedPlanSource *source = plan_source(plan);

	if (strcmp(source->query_string, statement->text) != 0)
		return false;
	for (int i = 0; i < statement->nargs; i++)
	{
		if (SPI_getargtypeid(plan, i) != statement->argtypes[i])
			return false;
	}
	return true;
}

/*
 * The kept plan for a statement about a relation, found again by the relation
 * and the kind of statement.  It is made when there is none yet or when the
 * statement has changed, and is a generic one made under planner_settings.
 *
 * The caller holds a lock on the relation, so that nothing invalidates the
 * plan before it runs, and is inside a scope, as plans remember the search
 * path.  The plan lives as long as the session.
 */
SPIPlanPtr
retention_spi_plan(Oid relid, int kind, const RetentionStatement *statement)
{
	PlanKey		key = {relid, kind};
	MemoryContext caller = CurrentMemoryContext;
	PlanEntry  *entry;
	bool		found;

	if (plans == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(PlanKey);
		ctl.entrysize = sizeof(PlanEntry);
		plans = hash_create("retention plans", 32, &ctl,
							HASH_ELEM | HASH_BLOBS);
	}

	entry = hash_search(plans, &key, HASH_ENTER, &found);
	if (!found)
		entry->plan = NULL;

	if (entry->plan != NULL && !plan_fits(entry->plan, statement))
	{
		SPIPlanPtr	stale = entry->plan;

		entry->plan = NULL;
		/* it may be running, if a trigger called us; then it is left behind */
		if (depth == 0)
			SPI_freeplan(stale);
	}

	if (entry->plan == NULL)
	{
		SPIPlanPtr	plan;

		plan = SPI_prepare_cursor(statement->text, statement->nargs,
								  (Oid *) statement->argtypes,
								  CURSOR_OPT_GENERIC_PLAN);
		if (plan == NULL)
			elog(ERROR, "could not prepare statement: %s",
				 SPI_result_code_string(SPI_result));
		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "could not keep plan");
		entry->plan = plan;
		entry->generic = NULL;
	}

	if (!has_lasting_plan(entry))
		build_generic_plan(entry, statement);

	/* SPI leaves its own context behind */
	MemoryContextSwitchTo(caller);
	return entry->plan;
}

/*
 * An array of values, none of them NULL, as an argument of a statement.
 */
Datum
retention_make_array(Datum *values, int count, Oid type)
{
	int16		length;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &length, &byval, &align);
	return PointerGetDatum(construct_array(values, count, type, length, byval,
										   align));
}

/*
 * The functions of a RowReceiver.
 */
static void
row_startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static bool
row_receive(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	MemoryContext executor_context = MemoryContextSwitchTo(receiver->context);
	bool		more = receiver->row == NULL ||
	receiver->row(slot, receiver->arg);

	MemoryContextSwitchTo(executor_context);
	return more;
}

static void
row_shutdown(DestReceiver *self)
{
}

/*
 * Runs a plan with these values (none are NULL when nulls is not given), hands
 * each row that it returns to `row`, if there is one, in the caller's memory
 * context, and returns how many rows it read or wrote.  `expected` is the SPI
 * result code that must come.
 */
uint64
retention_spi_execute(SPIPlanPtr plan, int expected, const Datum *values,
					  const bool *nulls, bool read_only,
					  RetentionRowFunction row, void *arg)
{
	SPIExecuteOptions options = {0};
	RowReceiver receiver = {0};
	MemoryContext caller = CurrentMemoryContext;
	int			nargs = SPI_getargcount(plan);
	volatile int result = 0;

	if (nargs > 0)
	{
		options.params = makeParamList(nargs);
		for (int i = 0; i < nargs; i++)
		{
			ParamExternData *param = &options.params->params[i];

			param->value = values[i];
			param->isnull = nulls != NULL && nulls[i];
			param->pflags = PARAM_FLAG_CONST;
			param->ptype = SPI_getargtypeid(plan, i);
		}
	}

	options.read_only = read_only;
	/* SPI would keep the rows; nobody wants them all */
	receiver.pub.receiveSlot = row_receive;
	receiver.pub.rStartup = row_startup;
	receiver.pub.rShutdown = row_shutdown;
	receiver.pub.rDestroy = row_shutdown;
	/* not DestNone: SPI would take the statement for a utility command */
	receiver.pub.mydest = DestTuplestore;
	receiver.row = row;
	receiver.arg = arg;
	receiver.context = caller;
	options.dest = &receiver.pub;

	depth++;
	PG_TRY();
	{
		result = SPI_execute_plan_extended(plan, &options);
	}
	PG_FINALLY();
	{
		depth--;
	}
	PG_END_TRY();

	/* SPI leaves its own context behind */
	MemoryContextSwitchTo(caller);
	if (result == SPI_OK_REWRITTEN)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a rule does something instead of a statement of the extension"),
				 errdetail("The statement was: %s",
						   plan_source(plan)->query_string),
				 errhint("Drop the rule.")));
	if (result != expected)
		elog(ERROR, "unexpected SPI result: %s",
			 SPI_result_code_string(result));
	if (options.params != NULL)
		pfree(options.params);
	return SPI_processed;
}

/*
 * Runs a utility command.
 */
void
retention_spi_utility(const char *text)
{
	MemoryContext caller = CurrentMemoryContext;
	int			result = SPI_execute(text, false, 0);

	MemoryContextSwitchTo(caller);
	if (result != SPI_OK_UTILITY)
		elog(ERROR, "unexpected SPI result: %s",
			 SPI_result_code_string(result));
}

/*
 * Does retention_scope_begin() for this owner take on another identity?
 */
bool
retention_scope_switches(Oid owner)
{
	return OidIsValid(owner) && owner != GetUserId() && superuser();
}

/*
 * Pins the search path and, when the caller is a superuser who is not `owner`,
 * takes on the owner's identity: triggers on a table are its owner's code and
 * must not run with a superuser's rights.  Pass InvalidOid to stay who you
 * are.  An error ends the scope by itself.
 */
void
retention_scope_begin(RetentionScope *scope, const char *search_path,
					  Oid owner)
{
	GetUserIdAndSecContext(&scope->userid, &scope->sec_context);
	scope->nestlevel = NewGUCNestLevel();
	retention_pin_setting("search_path", search_path);
	/* a session that forces custom plans would plan without our settings */
	retention_pin_setting("plan_cache_mode", "auto");

	if (retention_scope_switches(owner))
		SetUserIdAndSecContext(owner,
							   scope->sec_context |
							   SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION |
							   SECURITY_NOFORCE_RLS);
}

/*
 * Begins a scope with the rights of `role`, for a fixed statement that names
 * every object with its schema.  The only way upwards.
 */
void
retention_scope_begin_as(RetentionScope *scope, Oid role)
{
	retention_scope_begin(scope, "pg_catalog, pg_temp", InvalidOid);
	SetUserIdAndSecContext(role, scope->sec_context |
						   SECURITY_LOCAL_USERID_CHANGE);
}

/*
 * Undoes retention_scope_begin() or retention_scope_begin_as(), and with it whatever the owner's code has
 * set meanwhile.
 */
void
retention_scope_end(RetentionScope *scope)
{
	AtEOXact_GUC(GetUserId() == scope->userid, scope->nestlevel);
	SetUserIdAndSecContext(scope->userid, scope->sec_context);
}

/*
 * Is somebody, or statement_timeout, cancelling this session's statement?  The
 * same SQLSTATE comes from a trigger that raises it, or that asked another
 * server where a statement was cancelled.  PL/Python throws what it catches
 * anew, under its own name.
 */
bool
retention_is_cancel(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		error->funcname != NULL &&
		(strcmp(error->funcname, "ProcessInterrupts") == 0 ||
		 strncmp(error->funcname, "PLy_", 4) == 0);
}

/*
 * Calls function(arg) in a subtransaction.  Returns NULL when it succeeded;
 * otherwise all that it did is rolled back and the error is returned, in the
 * caller's memory context.  A cancel is thrown on.
 */
ErrorData *
retention_try(void (*function) (void *arg), void *arg)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner caller_owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller_context);

	PG_TRY();
	{
		function(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller_context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = caller_owner;

	if (error != NULL && retention_is_cancel((ErrorData *) error))
		ReThrowError((ErrorData *) error);
	return (ErrorData *) error;
}

/*
 * Calls function(arg) in a subtransaction and throws its error on after that
 * has been rolled back.
 */
void
retention_must(void (*function) (void *arg), void *arg)
{
	ErrorData  *error = retention_try(function, arg);

	if (error != NULL)
		ReThrowError(error);
}
