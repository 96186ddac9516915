"""The contract of `rlhf.dev/v1alpha1`. Nothing is imported here: a program pays for the modules it names."""
