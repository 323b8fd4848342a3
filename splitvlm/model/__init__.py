"""Models divided at a cut: specs, loading, the device's part and the cloud's part. Importing this loads no torch."""
