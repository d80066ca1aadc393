"""
The runtime of one actor: its process-wide state (`_state`), the dialogs it serves (`_rpc`,
`_portal`), the `Actor` itself (`_runtime`) and the nursery that supervises its children
(`_supervise`).

Nothing is imported here, so that a low layer can use `tractor.runtime._state` without loading the
layers above it.
"""
