"""How long a step and a run take, and what bounds them: arithmetic on a trace and on figures of the machine. Pure."""
