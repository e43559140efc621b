"""Trials, stacks and worker groups in their processes, and Tune's loop over them; imports only from rooms below."""
