"""Backup and restore of the whole product: the database and the attachments of bugs, proven by restoring."""
