"""Students under a budget: which sizes fit a device, before anything is trained."""
