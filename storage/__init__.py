"""The lake: tables and their schemas, commits, SQL, snapshots, artifacts; access to objects."""
