"""An independent implementation agrees, in value and in gradient; and every check has a mutant that it must catch."""
