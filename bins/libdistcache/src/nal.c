/* libnal.so.1: in the original it is the network layer below libdistcache, and programs name it when
 * they link. Here nothing is left for it to do, but the name has to be found. */
extern const int distcache_nal_is_empty;
const int distcache_nal_is_empty = 1;
