"""What the application had before: its tables, and perhaps retention written by hand."""

from pathlib import Path

from alembic import op

revision = "application"
down_revision = None


def upgrade():
    # the raw cursor: the file is the test's, with percent signs and colons
    cursor = op.get_bind().connection.cursor()
    cursor.execute((Path(__file__).parent / "application.sql").read_text("utf-8"))


def downgrade():
    pass
