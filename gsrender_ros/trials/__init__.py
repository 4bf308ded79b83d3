"""Trials of the running node with a synthetic vehicle: a long run under load, and faults one by one."""
