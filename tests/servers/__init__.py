"""Real servers on loopback for the tests: S3, SFTP, a strict S3 front and a proxy that makes faults.

Nothing in here imports the library under test: these are its opponents and its independent witnesses.
"""
