def training_seconds(*a): return None
