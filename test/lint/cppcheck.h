/*
 * cppcheck.h
 *	  Macros of the server that cppcheck, which does not read the server's
 *	  headers, has to know in order to follow the code.
 */
#define PG_FUNCTION_INFO_V1(name) extern Datum name(PG_FUNCTION_ARGS)
#define PG_FUNCTION_ARGS FunctionCallInfo fcinfo
#define PG_MODULE_MAGIC extern int retention_magic
#define PG_TRY() do { if (retention_try()) {
#define PG_CATCH() } else {
#define PG_FINALLY() } {
#define PG_END_TRY() } } while (0)
#define PG_RE_THROW() exit(1)
#define pg_noreturn
#define pg_attribute_noreturn()
#define pg_attribute_unused()
#define PG_USED_FOR_ASSERTS_ONLY
#define PGDLLEXPORT
#define PGDLLIMPORT
#define StaticAssertStmt(condition, message) ((void) 0)
#define foreach(cell, list) for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
#define INT64_FORMAT "%lld"
#define UINT64_FORMAT "%llu"
