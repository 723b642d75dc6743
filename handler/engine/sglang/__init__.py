"""SGLang: the adapter, what it mends in SGLang's app, and the names of its flags."""
