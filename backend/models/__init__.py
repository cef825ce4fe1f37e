"""The networks and their files. Functions of tensors; no request in sight."""
