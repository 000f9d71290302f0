"""Instance profiles: what an AWS GPU instance (or this machine) has, costs and defaults to; one TOML file each.

`load` reads them, `detect` fills in `local`. Nothing here calls AWS.
"""
