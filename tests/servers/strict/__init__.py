"""An S3 server that enforces what Cloudflare R2 and Backblaze B2 document and lenient servers let pass.

In memory, over TLS, as a process of its own: ``python -m tests.servers.strict --provider r2 …``.
"""
