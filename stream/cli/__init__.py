"""The command line: argv, exit statuses, and what a person sees."""
