"""Writes objects.

- `writer`: one object, of one part or many.
- `commit`: the request that makes it visible, and the proof that it did.
- `uploads`: multipart uploads, each with a note by which a repair recognises it.
- `copying`: copies that the service makes itself.
"""
