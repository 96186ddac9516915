"""The commands of `rlhf`, thin skins: options in, one call to the library, an exit code out."""
