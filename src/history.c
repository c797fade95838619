/*
 * history.c
 *	  Rows about runs.
 *
 * The only writer of retention.run_history, run_tenant and run_pruned.  Nobody
 * has the right to write them: the fixed statements below run as the owner of
 * the tables (`writer`).  Must not look at policies or at the table to clean.
 *
 * The row of a run, and of a tenant, is written once per transaction.  As long
 * as another session holds an old snapshot, no version of it can go, and to
 * find the latest one by its key means to walk over all of them, each time.
 * Records therefore remember where they wrote last, and look there first.  At
 * a place that is out of date (its transaction was undone, the table was
 * rewritten, somebody else has written) there is no visible row, or the row
 * of another key; then the key finds the row.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "history.h"
#include "spi_util.h"

/* nobody has a reason to lock the tables of history for long */
#define LOCK_TIMEOUT "10s"

enum
{
	HISTORY_START,
	HISTORY_UPDATE,
	HISTORY_UPDATE_AT,
	HISTORY_TENANT,
	HISTORY_TENANT_AT,
	HISTORY_TENANTS,
	HISTORY_INTERRUPT,
	HISTORY_PRUNE
};

static const RetentionStatement start_statement = {
	.text = "INSERT INTO retention.run_history (started_at, run_by, pid, only_tenant)"
	" VALUES ($1, $2, $3, $4) RETURNING ctid, id",
	.nargs = 4,
	.argtypes = {TIMESTAMPTZOID, TEXTOID, INT4OID, UUIDOID}
};

#define UPDATE_RUN \
	"UPDATE retention.run_history SET finished_at = $2, status = $3," \
	" current_tenant = $4, tenants_due = $5, tenants = $6, tenants_busy = $7," \
	" tenants_failed = $8, batches = $9, rows_deleted = $10," \
	" rows_estimated = $11, rows_skipped_locked = $12," \
	" rows_skipped_protected = $13, wal_bytes = $14, waited_ms = $15," \
	" waited_for = $16, waiting_for = $17, stop_reason = $18, message = $19" \
	" WHERE id OPERATOR(pg_catalog.=) $1"

static const RetentionStatement update_statement = {
	.text = UPDATE_RUN " RETURNING ctid",
	.nargs = 19,
	.argtypes = {INT8OID, TIMESTAMPTZOID, TEXTOID, UUIDOID, INT4OID, INT4OID, INT4OID,
		INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
	INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}
};

static const RetentionStatement update_at_statement = {
	.text = UPDATE_RUN " AND ctid OPERATOR(pg_catalog.=) $20 RETURNING ctid",
	.nargs = 20,
	.argtypes = {INT8OID, TIMESTAMPTZOID, TEXTOID, UUIDOID, INT4OID, INT4OID, INT4OID,
		INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
	INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIDOID}
};

static const RetentionStatement tenant_statement = {
	.text = "INSERT INTO retention.run_tenant AS t (run_id, tenant_id, rows_deleted,"
	" batches, rows_skipped_locked, rows_skipped_protected, rows_kept, sqlstate,"
	" message, finished_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
	" ON CONFLICT (run_id, tenant_id) DO UPDATE SET"
	" rows_deleted = EXCLUDED.rows_deleted, batches = EXCLUDED.batches,"
	" rows_skipped_locked = EXCLUDED.rows_skipped_locked,"
	" rows_skipped_protected = EXCLUDED.rows_skipped_protected,"
	" rows_kept = EXCLUDED.rows_kept,"
	" sqlstate = EXCLUDED.sqlstate, message = EXCLUDED.message,"
	" finished_at = EXCLUDED.finished_at RETURNING ctid, tableoid",
	.nargs = 10,
	.argtypes = {INT8OID, UUIDOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
	TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static const RetentionStatement tenant_at_statement = {
	.text = "UPDATE retention.run_tenant SET rows_deleted = $3, batches = $4,"
	" rows_skipped_locked = $5, rows_skipped_protected = $6, rows_kept = $7,"
	" sqlstate = $8, message = $9, finished_at = $10"
	" WHERE run_id OPERATOR(pg_catalog.=) $1"
	" AND tenant_id OPERATOR(pg_catalog.=) $2"
	" AND ctid OPERATOR(pg_catalog.=) $11 RETURNING ctid",
	.nargs = 11,
	.argtypes = {INT8OID, UUIDOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
	TEXTOID, TEXTOID, TIMESTAMPTZOID, TIDOID}
};

static const RetentionStatement tenants_statement = {
	.text = "INSERT INTO retention.run_tenant AS t (run_id, tenant_id, rows_deleted,"
	" batches, finished_at) SELECT $1, d.tenant, d.deleted, d.batches, $2"
	" FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4),"
	" pg_catalog.unnest($5)) AS d (tenant, deleted, batches)"
	" ON CONFLICT (run_id, tenant_id) DO UPDATE SET"
	" rows_deleted = EXCLUDED.rows_deleted, batches = EXCLUDED.batches,"
	" finished_at = EXCLUDED.finished_at",
	.nargs = 5,
	.argtypes = {INT8OID, TIMESTAMPTZOID, UUIDARRAYOID, INT8ARRAYOID,
	INT8ARRAYOID}
};

static const RetentionStatement interrupt_statement = {
	.text = "UPDATE retention.run_history SET status = 'interrupted',"
	" finished_at = GREATEST(started_at, $1), waiting_for = NULL, current_tenant = NULL"
	" WHERE status OPERATOR(pg_catalog.=) 'running'"
	" AND NOT retention.run_is_alive(id)",
	.nargs = 1,
	.argtypes = {TIMESTAMPTZOID}
};

/*
 * The totals of what goes are kept, in the same statement.  A run that goes on
 * stays, however old it is: it has more to write.
 */
static const RetentionStatement prune_statement = {
	.text = "WITH gone AS (DELETE FROM retention.run_history"
	" WHERE started_at OPERATOR(pg_catalog.<) $1"
	" AND status OPERATOR(pg_catalog.<>) 'running' RETURNING *),"
	" details AS (DELETE FROM retention.run_tenant AS t USING gone"
	" WHERE t.run_id OPERATOR(pg_catalog.=) gone.id)"
	" INSERT INTO retention.run_pruned AS p SELECT g.status, pg_catalog.count(*),"
	" pg_catalog.max(g.finished_at) FILTER (WHERE g.only_tenant IS NULL),"
	" pg_catalog.sum(g.tenants_failed), pg_catalog.sum(g.batches),"
	" pg_catalog.sum(g.rows_deleted), pg_catalog.sum(g.rows_skipped_locked),"
	" pg_catalog.sum(g.rows_skipped_protected), pg_catalog.sum(g.wal_bytes),"
	" pg_catalog.sum(g.waited_ms), COALESCE(pg_catalog.sum("
	"pg_catalog.date_part('epoch', g.finished_at OPERATOR(pg_catalog.-) g.started_at)"
	" OPERATOR(pg_catalog.*) 1000) FILTER (WHERE g.status OPERATOR(pg_catalog.<>)"
	" 'interrupted'), 0) FROM gone AS g GROUP BY g.status"
	" ON CONFLICT (status) DO UPDATE SET"
	" runs = p.runs OPERATOR(pg_catalog.+) EXCLUDED.runs,"
	" last_finished_at = GREATEST(p.last_finished_at, EXCLUDED.last_finished_at),"
	" tenants_failed = p.tenants_failed OPERATOR(pg_catalog.+) EXCLUDED.tenants_failed,"
	" batches = p.batches OPERATOR(pg_catalog.+) EXCLUDED.batches,"
	" rows_deleted = p.rows_deleted OPERATOR(pg_catalog.+) EXCLUDED.rows_deleted,"
	" rows_skipped_locked = p.rows_skipped_locked OPERATOR(pg_catalog.+) EXCLUDED.rows_skipped_locked,"
	" rows_skipped_protected = p.rows_skipped_protected OPERATOR(pg_catalog.+) EXCLUDED.rows_skipped_protected,"
	" wal_bytes = p.wal_bytes OPERATOR(pg_catalog.+) EXCLUDED.wal_bytes,"
	" waited_ms = p.waited_ms OPERATOR(pg_catalog.+) EXCLUDED.waited_ms,"
	" took_ms = p.took_ms OPERATOR(pg_catalog.+) EXCLUDED.took_ms",
	.nargs = 1,
	.argtypes = {TIMESTAMPTZOID}
};

/* What one write is about. */
typedef struct Write
{
	Oid			history;
	Oid			writer;
	int			kind;
	const RetentionStatement *statement;
	int			expected;
	const Datum *values;
	const bool *nulls;
	RetentionRowFunction row;
	void	   *arg;
	int64		count;
} Write;

/*
 * Locks the history of the run until the transaction ends, and fails if it is
 * gone: where the extension has been created anew, what has its name is
 * another, in which the run's number may be that of another run.
 */
static void
lock_history(Oid history)
{
	Relation	rel = try_table_open(history, RowExclusiveLock);

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("history of the run is gone"),
				 errdetail("The extension has been dropped, or created anew.")));
	table_close(rel, NoLock);
}

/*
 * Runs one of the statements as the writer.
 */
static void
write_as_writer(void *arg)
{
	Write	   *write = arg;
	RetentionScope scope;

	retention_scope_begin_as(&scope, write->writer);
	retention_pin_setting("lock_timeout", LOCK_TIMEOUT);
	lock_history(write->history);
	PushActiveSnapshot(GetTransactionSnapshot());
	write->count =
		retention_spi_execute(retention_spi_plan(write->history, write->kind,
												 write->statement),
							  write->expected, write->values, write->nulls,
							  false, write->row, write->arg);
	PopActiveSnapshot();
	retention_scope_end(&scope);
}

/*
 * Runs one of the statements as the writer.  In a subtransaction, so that an
 * error (of a trigger, say) leaves no function of its own on SPI's stack when
 * it reaches the run, which then has to roll back and go on.
 */
static int64
write_history(Oid history, Oid writer, int kind,
			  const RetentionStatement *statement, int expected,
			  const Datum *values, const bool *nulls,
			  RetentionRowFunction row, void *arg)
{
	Write		write = {
		history, writer, kind, statement, expected, values, nulls, row, arg, 0
	};

	retention_must(write_as_writer, &write);
	return write.count;
}

/*
 * Sets a text value, or a null for NULL.
 */
static void
set_text(Datum *values, bool *nulls, int i, const char *text)
{
	nulls[i] = text == NULL;

	values[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(text);
}

/*
 * Sets a tenant, or a null for NULL.
 */
static void
set_tenant(Datum *values, bool *nulls, int i, const Datum *tenant)
{
	nulls[i] = tenant == NULL;
	values[i] = nulls[i] ? (Datum) 0 : *tenant;
}

/*
 * Takes the place of a row that was written.
 */
static bool
take_place(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	ItemPointerCopy((ItemPointer) DatumGetPointer(slot_getattr(slot, 1, &isnull)),
					(ItemPointer) arg);
	return true;
}

/*
 * Takes the place of a row that an upsert wrote; not where a trigger of
 * somebody's wants to see, or to change, what is inserted: an update at the
 * place would pass it by.
 */
static bool
take_place_of_upsert(TupleTableSlot *slot, void *arg)
{
	bool		isnull;
	Relation	rel = table_open(DatumGetObjectId(slot_getattr(slot, 2, &isnull)),
								 NoLock);

	if (rel->trigdesc == NULL || !rel->trigdesc->trig_insert_before_row)
		(void) take_place(slot, arg);
	table_close(rel, NoLock);
	return true;
}

/*
 * Takes the place and the id of a new run.
 */
static bool
take_run(TupleTableSlot *slot, void *arg)
{
	RetentionRunRecord *run = arg;
	bool		isnull;

	run->id = DatumGetInt64(slot_getattr(slot, 2, &isnull));
	return take_place(slot, &run->place);
}

/* The statements for a row whose place is known, as their last argument, and for one found by its key. */
typedef struct RowStatements
{
	int			at_kind;
	const RetentionStatement *at;
	int			key_kind;
	const RetentionStatement *key;
	int			key_expected;
	RetentionRowFunction key_row;	/* takes the place */
} RowStatements;

static const RowStatements run_row = {
	HISTORY_UPDATE_AT, &update_at_statement,
	HISTORY_UPDATE, &update_statement, SPI_OK_UPDATE_RETURNING, take_place
};

static const RowStatements tenant_row = {
	HISTORY_TENANT_AT, &tenant_at_statement,
	HISTORY_TENANT, &tenant_statement, SPI_OK_INSERT_RETURNING,
	take_place_of_upsert
};

/*
 * Writes a row at its place, or, when that is not known or not its place any
 * more, by its key; remembers where it is then: nowhere, if no row was written.
 * An error leaves the place as it was.
 */
static void
write_row(Oid history, Oid writer, const RowStatements *row,
		  Datum *values, bool *nulls, ItemPointer place)
{
	ItemPointerData written;

	ItemPointerSetInvalid(&written);
	values[row->at->nargs - 1] = PointerGetDatum(place);
	if (ItemPointerIsValid(place))
		write_history(history, writer, row->at_kind, row->at,
					  SPI_OK_UPDATE_RETURNING, values, nulls, take_place,
					  &written);
	if (!ItemPointerIsValid(&written))
		write_history(history, writer, row->key_kind, row->key,
					  row->key_expected, values, nulls, row->key_row,
					  &written);
	*place = written;
}

/*
 * Records that a run has started, and sets its id.
 */
void
retention_history_start(Oid history, Oid writer, RetentionRunRecord *run)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = TimestampTzGetDatum(run->started);
	set_text(values, nulls, 1, GetUserNameFromId(GetUserId(), false));
	values[2] = Int32GetDatum(MyProcPid);
	set_tenant(values, nulls, 3, run->only_tenant);
	write_history(history, writer, HISTORY_START, &start_statement,
				  SPI_OK_INSERT_RETURNING, values, nulls, take_run, run);
}

/*
 * Records how far a run is.
 */
void
retention_history_update(Oid history, Oid writer,
						 RetentionRunRecord *run)
{
	Datum		values[20];
	bool		nulls[20] = {false};

	values[0] = Int64GetDatum(run->id);
	values[1] = TimestampTzGetDatum(run->finished);
	nulls[1] = run->finished == 0;
	set_text(values, nulls, 2, run->status);
	set_tenant(values, nulls, 3, run->current_tenant);
	values[4] = Int32GetDatum(run->tenants_due);
	values[5] = Int32GetDatum(run->tenants);
	values[6] = Int32GetDatum(run->tenants_busy);
	values[7] = Int32GetDatum(run->tenants_failed);
	values[8] = Int64GetDatum(run->batches);
	values[9] = Int64GetDatum(run->deleted);
	values[10] = Int64GetDatum(run->estimated);
	nulls[10] = run->estimated < 0;
	values[11] = Int64GetDatum(run->skipped_locked);
	values[12] = Int64GetDatum(run->skipped_protected);
	values[13] = Int64GetDatum(run->wal_bytes);
	values[14] = Int64GetDatum(run->waited_us / 1000);
	set_text(values, nulls, 15, run->waited_for);
	set_text(values, nulls, 16, run->waiting_for);
	set_text(values, nulls, 17, run->stop_reason);
	set_text(values, nulls, 18, run->message);
	write_row(history, writer, &run_row, values, nulls, &run->place);
}

/*
 * Records what a run did for a tenant; may be called again as it goes on.
 */
void
retention_history_tenant(Oid history, Oid writer, int64 run_id,
						 RetentionTenantRecord *tenant)
{
	Datum		values[11];
	bool		nulls[11] = {false};

	values[0] = Int64GetDatum(run_id);
	values[1] = tenant->tenant;
	values[2] = Int64GetDatum(tenant->deleted);
	values[3] = Int64GetDatum(tenant->batches);
	values[4] = Int64GetDatum(tenant->skipped_locked);
	values[5] = Int64GetDatum(tenant->skipped_protected);
	values[6] = Int64GetDatum(tenant->kept);
	set_text(values, nulls, 7, tenant->sqlerrcode == 0 ? NULL :
			 unpack_sql_state(tenant->sqlerrcode));
	set_text(values, nulls, 8, tenant->message);
	values[9] = TimestampTzGetDatum(GetCurrentTimestamp());
	write_row(history, writer, &tenant_row, values, nulls, &tenant->place);
}

/*
 * Records how many rows a run deleted of each of these tenants, in how many
 * batches; may be called again as it goes on.
 */
void
retention_history_tenants(Oid history, Oid writer, int64 run_id,
						  Datum *tenants, Datum *deleted, Datum *batches,
						  int count)
{
	Datum		values[5];

	values[0] = Int64GetDatum(run_id);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[2] = retention_make_array(tenants, count, UUIDOID);
	values[3] = retention_make_array(deleted, count, INT8OID);
	values[4] = retention_make_array(batches, count, INT8OID);
	write_history(history, writer, HISTORY_TENANTS, &tenants_statement,
				  SPI_OK_INSERT, values, NULL, NULL, NULL);
}

/*
 * Marks the runs whose session is gone.  Returns how many there were.
 */
int64
retention_history_interrupt(Oid history, Oid writer)
{
	Datum		now = TimestampTzGetDatum(GetCurrentTimestamp());

	return write_history(history, writer, HISTORY_INTERRUPT,
						 &interrupt_statement, SPI_OK_UPDATE, &now, NULL,
						 NULL, NULL);
}

/*
 * Removes what is known about runs that started before this time and are over,
 * but for their totals.
 */
void
retention_history_prune(Oid history, Oid writer, TimestampTz before)
{
	Datum		value = TimestampTzGetDatum(before);

	write_history(history, writer, HISTORY_PRUNE, &prune_statement,
				  SPI_OK_INSERT, &value, NULL, NULL, NULL);
}
