"""Small measurements that decide details."""
