"""The memory model: what a device must hold, as arithmetic on counted bytes. No torch is imported here."""
