"""What is on another machine: requests that are sent again, buckets, and files that are read in ranges."""
