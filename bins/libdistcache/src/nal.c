/*
 * libnal.so.1, an empty library. In the original distcache it is the network layer below libdistcache, and
 * programs link with both, so the linker and the loader must find it.
 */
extern const int distcache_nal_is_empty;
const int distcache_nal_is_empty = 1;
