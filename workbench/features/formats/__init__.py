"""The field's file formats of dictionaries. Each module reads and writes one."""
