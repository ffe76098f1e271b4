"""Adapters on the host: their first values, the names that PEFT and diffusers read, their scale."""
