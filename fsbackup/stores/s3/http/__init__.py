"""One request to the service and its response: the data plane, blocking connections in worker threads.

- `bucket`: the requests on one bucket, with its prefix and provider.
- `requests`: one request, repeated until it succeeds or nothing moves; `responses`: what the service says.
- `connection`: HTTP/1.1 on one socket; `pool`: the sockets to one address, TLS and proxies.
- `settings`: credentials, signatures, address, proxy.
"""
