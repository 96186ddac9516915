"""What a job and a profile must obey beyond the types of their fields: each rule once, as CEL for the API server and as Python here.

`crd` writes the CEL into the schema, `validate` runs the Python; the words that a user reads are the same because they stand once.
"""
