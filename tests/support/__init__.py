"""Helpers that tests share.

Data: `factories` creates single rows, `populate` thousands, `vault` keyrings and known ciphertexts. `rolled_back`
undoes what a block writes.
Servers: `running` starts Strake, `provisioner` runs its services for `running`, `upstream` is a scripted provider,
`postgres` and `services` start PostgreSQL and Redis, `certificates` creates certificates.
Clients: `raw` sends bytes, `load` sends many requests, `pages` reads HTML.
Observers: `process` looks into the memory and files of other processes, `canaries` finds secrets in every encoding.
Scripts that tests start: `debug_settings`, `killed_rotation`, `one_connection_settings`.
"""
