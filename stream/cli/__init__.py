"""The command line: argv, exit statuses, and messages for people."""
