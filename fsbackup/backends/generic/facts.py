"""What can be said of a place behind any fsspec filesystem, none of which has words for its clock or its room."""

from __future__ import annotations

from fsbackup.objects import Facts

PLACE = Facts(
    # Asked for first, then renamed over: in between, another writer may get the name.
    conditional_create=False,
    access="check the address, the user and the password or key, and who may write to the directory on the server",
    unknown={
        "keeps_versions": "the protocol does not say what the server keeps of removed files",
        "free": "the protocol does not say",
    },
)
