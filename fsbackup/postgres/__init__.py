"""PostgreSQL: WAL archived to all backends of a set at once, fetched from any that proves it.

`push` is PostgreSQL's ``archive_command``, `fetch` its ``restore_command``; `Archive` is what they work on. What
an outage must never look like is the end of the WAL: `fetch` calls a segment absent only if a quorum of the
backends says so, and none has a later one. `survey` says what an archive has and lacks, `window` to which moments
one can go back. `base_backup` stores a copy of the data directory, `pg_restore` makes one of it that recovers when
it is started,
and `drill` shows that it does.

Which keys an archive has is in `fsbackup.wal`, which WAL a base backup needs in `fsbackup.retention.archive`.
"""

from __future__ import annotations

from fsbackup.lazy import TYPE_CHECKING, names_of

if TYPE_CHECKING:
    from fsbackup.postgres.archive import Archive
    from fsbackup.postgres.base_backups import base_backup
    from fsbackup.postgres.drilling import drill
    from fsbackup.postgres.restoring import pg_restore
    from fsbackup.postgres.status import survey, window
    from fsbackup.postgres.wal_fetch import fetch
    from fsbackup.postgres.wal_push import push

_MODULES = {
    "Archive": "fsbackup.postgres.archive",
    "base_backup": "fsbackup.postgres.base_backups",
    "drill": "fsbackup.postgres.drilling",
    "fetch": "fsbackup.postgres.wal_fetch",
    "pg_restore": "fsbackup.postgres.restoring",
    "push": "fsbackup.postgres.wal_push",
    "survey": "fsbackup.postgres.status",
    "window": "fsbackup.postgres.status",
}

__all__ = ["Archive", "base_backup", "drill", "fetch", "pg_restore", "push", "survey", "window"]

__getattr__ = names_of(__name__, _MODULES)
