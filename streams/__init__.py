"""The shell around the engine: codecs, recordings and runners. All input and output lives here."""
