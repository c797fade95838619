/*
 * install.h
 *	  Which table is cleaned, and its indexes.
 */
#ifndef RETENTION_INSTALL_H
#define RETENTION_INSTALL_H

#include "retention.h"

#include "storage/lockdefs.h"

extern Oid	retention_install_find(bool missing_ok);
extern void retention_install(Oid relid);
extern Oid	retention_installed_relid(void);
extern RetentionTarget *retention_installed_open(LOCKMODE lockmode);

#endif							/* RETENTION_INSTALL_H */
