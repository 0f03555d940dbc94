"""What ties a model and its data to Lightning and to the shell: command line, callbacks, start and end of processes."""
