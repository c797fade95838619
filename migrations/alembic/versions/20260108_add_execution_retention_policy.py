"""Bring the database to the extension retention, from nothing or from objects written by hand.

Runs add_execution_retention_policy.sql, and rollback_execution_retention_policy.sql on
the way back.  Keep these two files beside this one, or two directories above it.

Set down_revision to your head ("alembic heads") before the first upgrade.  The extension
has to be installed on the server, and the upgrade run by a superuser; or a superuser runs
the SQL script with psql beforehand, and then the upgrade by anybody has nothing to do.

Revision ID: 20260108_retention
"""

import re
from pathlib import Path

from alembic import context, op
from sqlalchemy import text

revision = "20260108_retention"
down_revision = None
branch_labels = None
depends_on = None

# What a downgrade does with the policies: leave them in a plain table, or drop them.
# For one time: alembic -x keep_policies=off downgrade -1
KEEP_POLICIES = True


def upgrade():
    _execute("add_execution_retention_policy.sql")


def downgrade():
    keep = context.get_x_argument(as_dictionary=True).get(
        "keep_policies", "on" if KEEP_POLICIES else "off"
    )
    if keep not in ("on", "off"):
        raise ValueError(f"keep_policies is on or off, not {keep!r}")
    op.execute(f"SET LOCAL retention_migration.keep_policies = '{keep}'")
    _execute("rollback_execution_retention_policy.sql")


def _execute(name):
    here = Path(__file__).resolve().parent
    for directory in (here, here.parent.parent):
        script = directory / name
        if script.is_file():
            # a colon before a word would be a parameter
            sql = re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", script.read_text("utf-8"))
            op.execute(text(sql))
            return
    raise FileNotFoundError(f"{name} is neither in {here} nor in {here.parent.parent}")
