/*
 * stubs.c
 *	  What the tested parts of src ask of the server, as little as will do.
 *
 * The table in memory answers WALK, TIMES and COLLECT as query.c describes
 * them.  It stands in for the whole of SPI: the plan of a statement is its
 * number and its leg.
 */
#include "postgres.h"

#include <signal.h>

#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/memnodes.h"
#include "storage/itemptr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "query.h"
#include "scan.h"
#include "spi_util.h"
#include "harness.h"

#undef qsort
#undef printf
#undef vprintf
#undef fprintf

UnitRow    *unit_rows;
int			unit_nrows;
TimestampTz unit_clock;
int64		unit_clock_step;

volatile sig_atomic_t InterruptPending = false;

/* ---- Assertions and chance. */

static int	ntests;
static int	nfailed;
static uint64 state = 1;

void
unit_ok(bool good, const char *name,...)
{
	va_list		args;

	ntests++;
	nfailed += !good;
	printf("%sok %d - ", good ? "" : "not ", ntests);
	va_start(args, name);
	vprintf(name, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

int
unit_done(void)
{
	printf("1..%d\n", ntests);
	return nfailed > 0;
}

void
unit_hold(UnitProperty *property, bool good, const char *detail,...)
{
	va_list		args;

	property->cases++;
	if (good)
		return;
	if (property->failures++ == 0)
	{
		printf("# %s: ", property->name);
		va_start(args, detail);
		vprintf(detail, args);
		va_end(args);
		putchar('\n');
	}
}

void
unit_end(UnitProperty *property)
{
	unit_ok(property->cases > 0 && property->failures == 0,
			"%s (" INT64_FORMAT " cases)", property->name, property->cases);
}

void
unit_seed(uint64 seed)
{
	state = seed * UINT64CONST(2862933555777941757) + 3037000493;
}

/* xorshift64*; 0 for the whole range */
uint64
unit_random(uint64 below)
{
	uint64		number;

	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	number = state * UINT64CONST(2685821657736338717);
	return below == 0 ? number : number % below;
}

/* ---- Memory: a chunk is a malloc() of its own, known to its context. */

typedef struct Chunk
{
	MemoryContext context;
	struct Chunk *previous;
	struct Chunk *next;
	char		data[] pg_attribute_aligned(MAXIMUM_ALIGNOF);
} Chunk;

static MemoryContextData top;
static Chunk chunks = {.previous = &chunks, .next = &chunks};
static int64 nchunks;
MemoryContext CurrentMemoryContext = &top;

int64
unit_chunks(void)
{
	return nchunks;
}

static Chunk *
chunk_of(void *pointer)
{
	return (Chunk *) ((char *) pointer - offsetof(Chunk, data));
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	Chunk	   *chunk = malloc(sizeof(Chunk) + size);

	Assert(chunk != NULL);
	chunk->context = context;
	chunk->previous = &chunks;
	chunk->next = chunks.next;
	chunks.next->previous = chunk;
	chunks.next = chunk;
	nchunks++;
	memset(chunk->data, 0x7f, size);
	return chunk->data;
}

void *
MemoryContextAllocZero(MemoryContext context, Size size)
{
	return memset(MemoryContextAlloc(context, size), 0, size);
}

void *
MemoryContextAllocHuge(MemoryContext context, Size size)
{
	return MemoryContextAlloc(context, size);
}

void *
palloc(Size size)
{
	return MemoryContextAlloc(CurrentMemoryContext, size);
}

void *
palloc0(Size size)
{
	return MemoryContextAllocZero(CurrentMemoryContext, size);
}

void
pfree(void *pointer)
{
	Chunk	   *chunk = chunk_of(pointer);

	chunk->previous->next = chunk->next;
	chunk->next->previous = chunk->previous;
	nchunks--;
	free(chunk);
}

void *
repalloc_huge(void *pointer, Size size)
{
	Chunk	   *chunk = realloc(chunk_of(pointer), sizeof(Chunk) + size);

	Assert(chunk != NULL);
	chunk->previous->next = chunk;
	chunk->next->previous = chunk;
	return chunk->data;
}

void *
repalloc(void *pointer, Size size)
{
	return repalloc_huge(pointer, size);
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name,
							  Size minContextSize, Size initBlockSize,
							  Size maxBlockSize)
{
	MemoryContext context = MemoryContextAllocZero(parent,
												   sizeof(MemoryContextData));

	context->type = T_AllocSetContext;
	return context;
}

static void
free_chunks_of(MemoryContext context)
{
	Chunk	   *next;

	for (Chunk *chunk = chunks.next; chunk != &chunks; chunk = next)
	{
		next = chunk->next;
		if (chunk->context == context)
			pfree(chunk->data);
	}
}

void
MemoryContextReset(MemoryContext context)
{
	free_chunks_of(context);
}

void
MemoryContextDelete(MemoryContext context)
{
	free_chunks_of(context);
	pfree(context);
}

/* ---- Small things. */

void
ExceptionalCondition(const char *conditionName,
#if PG_VERSION_NUM < 160000
					 const char *errorType,
#endif
					 const char *fileName, int lineNumber)
{
	fprintf(stderr, "%s:%d: assertion failed: %s\n", fileName, lineNumber,
			conditionName);
	abort();
}

void
ProcessInterrupts(void)
{
}

void
pg_qsort(void *base, size_t nel, size_t elsize,
		 int (*cmp) (const void *, const void *))
{
	if (nel > 0)
		qsort(base, nel, elsize, cmp);
}

#if PG_VERSION_NUM >= 190000
typedef const ItemPointerData *ItemPointerArgument;
#else
typedef ItemPointer ItemPointerArgument;
#endif

int32
ItemPointerCompare(ItemPointerArgument arg1, ItemPointerArgument arg2)
{
	BlockNumber b1 = ItemPointerGetBlockNumberNoCheck(arg1);
	BlockNumber b2 = ItemPointerGetBlockNumberNoCheck(arg2);
	OffsetNumber o1 = ItemPointerGetOffsetNumberNoCheck(arg1);
	OffsetNumber o2 = ItemPointerGetOffsetNumberNoCheck(arg2);

	if (b1 != b2)
		return b1 < b2 ? -1 : 1;
	return o1 < o2 ? -1 : o1 > o2;
}

bool
ItemPointerEquals(ItemPointerArgument pointer1, ItemPointerArgument pointer2)
{
	return ItemPointerCompare(pointer1, pointer2) == 0;
}

int64
retention_clock(void)
{
	return unit_clock += unit_clock_step;
}

Snapshot
GetTransactionSnapshot(void)
{
	return NULL;
}

void
PushActiveSnapshot(Snapshot snapshot)
{
}

void
PopActiveSnapshot(void)
{
}

void
slot_getsomeattrs_int(TupleTableSlot *slot, int attnum)
{
	abort();					/* all columns are there */
}

/* ---- The table. */

static int
compare_rows(const void *a, const void *b)
{
	const UnitRow *left = a;
	const UnitRow *right = b;

	if (left->time != right->time)
		return left->time < right->time ? -1 : 1;
	if (left->tableoid != right->tableoid)
		return left->tableoid < right->tableoid ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &left->tid,
							  (ItemPointer) &right->tid);
}

/*
 * Puts the rows in the order of the indexes, which statements expect.
 */
void
unit_table_sort(void)
{
	if (unit_nrows > 0)
		qsort(unit_rows, unit_nrows, sizeof(UnitRow), compare_rows);
}

SPIPlanPtr
retention_query_plan(const RetentionTarget *target, RetentionQuery query,
					 int leg)
{
	return (SPIPlanPtr) (uintptr_t) (query * RETENTION_MAX_LEGS + leg + 1);
}

/*
 * Hands two columns to a function.
 */
static bool
give(RetentionRowFunction row, void *arg, Datum first, Datum second)
{
	TupleTableSlot slot = {0};
	Datum		values[2] = {first, second};
	bool		isnull[2] = {false, false};

	slot.tts_nvalid = 2;
	slot.tts_values = values;
	slot.tts_isnull = isnull;
	return row == NULL || row(&slot, arg);
}

uint64
retention_spi_execute(SPIPlanPtr plan, int expected, const Datum *values,
					  const bool *nulls, bool read_only,
					  RetentionRowFunction row, void *arg)
{
	int			number = (int) (uintptr_t) plan - 1;
	int			leg = number % RETENTION_MAX_LEGS;
	RetentionQuery query = number / RETENTION_MAX_LEGS;
	TimestampTz from = DatumGetTimestampTz(values[1]);
	TimestampTz to = 0;
	int64		skip = 0;
	int64		most;
	uint64		given = 0;

	if (query == RETENTION_QUERY_WALK)
	{
		most = DatumGetInt64(values[2]);
		for (int i = unit_nrows - 1; i >= 0 && given < most; i--)
		{
			UnitRow    *r = &unit_rows[i];

			if (r->gone || r->leg != leg || r->time < from)
				continue;
			given++;
			if (!give(row, arg, TimestampTzGetDatum(r->time), 0))
				break;
		}
		return given;
	}

	to = DatumGetTimestampTz(values[2]);
	if (query == RETENTION_QUERY_COLLECT)
	{
		skip = DatumGetInt64(values[3]);
		most = DatumGetInt64(values[4]);
	}
	else
	{
		Assert(query == RETENTION_QUERY_TIMES);
		most = DatumGetInt64(values[3]);
	}
	for (int i = 0; i < unit_nrows && given < most; i++)
	{
		UnitRow    *r = &unit_rows[i];
		bool		more;

		if (r->gone || r->leg != leg || r->time < from || r->time >= to)
			continue;
		if (skip-- > 0)
			continue;
		given++;
		if (query == RETENTION_QUERY_COLLECT)
			more = give(row, arg, ObjectIdGetDatum(r->tableoid),
						PointerGetDatum(&r->tid));
		else
			more = give(row, arg, 0, TimestampTzGetDatum(r->time));
		if (!more)
			break;
	}
	return given;
}

/* ---- Its indexes, without statements. */

struct RetentionScans
{
	int			position[RETENTION_MAX_LEGS];
	bool		newest_first[RETENTION_MAX_LEGS];
	TimestampTz before[RETENTION_MAX_LEGS];
};

RetentionScans *
retention_scans_open(const RetentionTarget *target)
{
	return target->is_plain ? palloc0(sizeof(RetentionScans)) : NULL;
}

void
retention_scan_newest(RetentionScans *scans, int leg, Datum tenant)
{
	scans->newest_first[leg] = true;
	scans->position[leg] = unit_nrows;
}

void
retention_scan_before(RetentionScans *scans, int leg, Datum tenant,
					  TimestampTz before)
{
	scans->newest_first[leg] = false;
	scans->position[leg] = -1;
	scans->before[leg] = before;
}

bool
retention_scan_next(RetentionScans *scans, int leg, TimestampTz *time)
{
	int			step = scans->newest_first[leg] ? -1 : 1;

	for (;;)
	{
		int			i = scans->position[leg] += step;

		if (i < 0 || i >= unit_nrows)
			return false;
		if (unit_rows[i].gone || unit_rows[i].leg != leg)
			continue;
		*time = unit_rows[i].time;
		return scans->newest_first[leg] || *time < scans->before[leg];
	}
}

void
retention_scans_close(RetentionScans *scans)
{
	pfree(scans);
}
