"""The command line: arguments in, text or one JSON document out. It decides nothing a script could want to know."""
