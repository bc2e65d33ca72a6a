"""The engine: from a spec, through a plan of content-addressed runs, to Ray Tune, Ray Train and the store."""
