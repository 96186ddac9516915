"""Kubernetes objects as functions of spec, profile snapshot and status. Never of the time, so a repeated create is the same create."""
