"""The command line: one file per command, no arithmetic. Installed as `wsiseg_cli`."""
