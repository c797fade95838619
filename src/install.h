/*
 * install.h
 *	  Which table is cleaned, and its indexes.
 */
#ifndef RETENTION_INSTALL_H
#define RETENTION_INSTALL_H

#include "retention.h"

extern Oid	retention_install_find(bool missing_ok);
extern void retention_install(Oid relid);
extern Oid	retention_installed_relid(void);
extern void retention_require_indexes(const RetentionTarget *target);

#endif							/* RETENTION_INSTALL_H */
