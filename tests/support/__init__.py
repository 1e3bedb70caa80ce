"""What tests of several parts need: S3 servers, buckets, faults."""
