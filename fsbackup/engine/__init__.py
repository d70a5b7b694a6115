"""Moving objects: one source to many stores, and back from whichever store proves its bytes.

A single backend is a set of one, so that one copy and three copies go through the same code:

- `source` and `hashing` read a file or stream once; `window` shares its parts between stores;
- `lane` is one store's side of an upload, with the commit order that keeps every instant provable;
- `records` reads and writes manifests; `upload`, `download` and `remove` are the three operations;
- `results` is what they report.
"""
