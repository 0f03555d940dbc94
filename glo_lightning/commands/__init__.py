"""The programs that ``glo NAME`` and scripts/NAME.py run; each module's docstring describes one."""
