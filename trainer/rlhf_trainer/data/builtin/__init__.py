"""The sample data of the project: small bilingual tasks whose answers can be checked, a tokenizer, and where they are made."""
