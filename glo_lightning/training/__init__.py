"""Training by Lightning from the shell: command line, callbacks, start and end of processes."""
